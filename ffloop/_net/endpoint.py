"""Endpoint: a stack socket's identity (session, handle, addresses) and its references.

A StackSocket, its dups and a transport share one endpoint; the last reference closes the handle.
Until a transport or a listener takes the handle's events over, the endpoint receives them for the
loop's sock_ calls: it wakes their futures, and they try again.
"""

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable
from typing import Any, Self

from .._session.address import unset
from .._session.binding import READ, WRITE, Client, addresses
from .._session.session import Session, stands_for
from ..errors import InstanceGone, error

_ONE = (1).to_bytes(8, "little")


class Endpoint:
    """Owned by one session; `session` is None once closed. Where the session was lost, it is like a
    socket whose connection was reset: calls fail so, its descriptor is readable, and it is still to
    be closed."""

    __slots__ = (
        "__weakref__",
        "_addresses",
        "_called",
        "_connecting",
        "_descriptor",
        "_loop",
        "_readers",
        "_was_of",
        "_writers",
        "accepting",
        "family",
        "generation",
        "handle",
        "kind",
        "listen_backlog",
        "nodelay",
        "options",
        "proto",
        "refs",
        "session",
        "writers",
    )

    def __init__(
        self,
        session: Session,
        handle: int,
        family: int,
        kind: int,
        proto: int,
        raw_addresses: bytes = b"",
    ) -> None:
        self.session: Session | None = session
        self.generation = session.generation
        self.handle = handle
        self.family = family
        self.kind = kind
        self.proto = proto
        self.refs = 1
        self.accepting = False
        self.listen_backlog: int | None = None
        self.nodelay = False  # of the sockets that it accepts
        self.options: list[tuple[int, int, Any]] | None = None  # replayed on a new instance
        self._addresses: Any = raw_addresses  # bytes, or decoded
        self._readers: list[asyncio.Future[None]] | None = None
        self._writers: list[asyncio.Future[None]] | None = None
        self._connecting: asyncio.Future[None] | None = None
        self._descriptor = -1
        self.writers: dict[int, asyncio.Handle] | None = None  # of loop.add_writer, by descriptor
        self._called = False  # they are, in the next iteration
        self._was_of: Session | None = None  # the session, once closed
        self._loop: asyncio.AbstractEventLoop

    def __repr__(self) -> str:
        state = "closed" if self.session is None else "open" if self.live else "lost"
        return f"<Endpoint handle={self.handle} refs={self.refs} {state}>"

    # ---- life ----

    @classmethod
    def open(
        cls, session: Session, family: int, kind: int, proto: int, nodelay: bool = False
    ) -> Self:
        """Of a new stack socket. Raises OSError."""
        self = cls(session, session.open_socket(family, kind, proto, nodelay), family, kind, proto)
        self.take()
        return self

    @classmethod
    def detached(cls, fd: int) -> "Endpoint":
        """The one that detach() has left at the descriptor, which is closed. Raises OSError
        (EBADF) where there is none."""
        self = stands_for(fd)
        if not isinstance(self, cls) or not self.detached_as(fd):
            raise OSError(
                errno.EBADF,
                "not what detach() of a stack socket returned (of a connection it is the kernel's: "
                "socket.socket takes it)",
                fd,
            )
        self.leave(fd)
        os.close(fd)
        return self

    def open_session(self) -> Session:
        """Raises OSError (EBADF) once closed."""
        if self.session is None:
            raise error(errno.EBADF)
        return self.session

    @property
    def live(self) -> bool:
        """Whether it is open and its session not lost."""
        session = self.session
        return session is not None and session.attached and self.generation == session.generation

    def client(self) -> Client:
        """The client, for calls with the handle. Raises OSError: EBADF once closed, InstanceGone
        where the session was lost; RuntimeError in a thread that may not use it."""
        session = self.open_session()
        client = session.client
        if self.generation != session.generation:
            raise session.gone()
        return client

    def check(self) -> None:
        """Raises as client(), but in any thread."""
        session = self.open_session()
        if not self.live:
            raise session.gone()

    def take(self) -> None:
        """Receives the handle's events from now on."""
        self.client()
        self.open_session().receivers[self.handle] = self

    def enter(self) -> Session | None:
        """Raises RuntimeError where this thread may not use it."""
        session = self.session
        if session is not None and session.attached:
            session.enter()
        return session

    def passed_on(self, call: Callable[[], None]) -> bool:
        """True: the loop's thread, which is another one, will make the call. (The collector closes
        in any thread.)"""
        session = self.session
        return session is not None and session.attached and session.pass_on(call)

    def release(self, abort: bool = False) -> None:
        """Drops one reference; the last one closes the handle."""
        session = self.enter()
        self.refs -= 1
        if self.refs > 0 or session is None:
            return
        self.session, self._was_of = None, session
        session.close_socket(self.handle, self.generation, abort)
        self.close_descriptor(session)
        self._wake()
        self.writers = None

    def abandon(self) -> None:
        """As release(), for a reference that was collected, perhaps in another thread."""
        session = self.session
        if session is None:
            return
        if session.closed:
            self.release()
        else:
            session.orphans.append(self)

    def fileno(self) -> int:
        """A descriptor that polls readable while data, an end, an error or a connection waits; -1
        once closed."""
        session = self.session
        if session is not None and not session.closed and self._descriptor < 0:
            session.ask(self._open_descriptor)
        return self._descriptor

    def close_descriptor(self, session: Session) -> None:
        fd, self._descriptor = self._descriptor, -1
        if fd >= 0:
            session.forget_descriptor(fd)
            os.close(fd)

    def _open_descriptor(self) -> None:
        session = self.open_session()
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            if self.live:
                self.client().placeholder(self.handle, fd)
            else:
                os.write(fd, _ONE)  # the next call says why
        except BaseException:
            os.close(fd)
            raise
        self._descriptor = fd
        session.descriptors[fd] = self

    def dup_descriptor(self) -> int:
        """Another descriptor like fileno()'s. The caller closes it, after leave()."""
        session = self.open_session()
        fd = os.dup(self.fileno())
        session.descriptors[fd] = self
        session.dups.add(fd)
        return fd

    def is_dup(self, fd: int) -> bool:
        return self.session is not None and fd in self.session.dups

    def detached_as(self, fd: int) -> bool:
        """Whether it is a dup_descriptor that detach() returned, and still the same file."""
        if self.session is None or fd not in self.session.detached:
            return False
        return _event(fd) == _event(self.fileno())

    def stand_in(self, fd: int) -> None:
        """Called when a promoted socket's placeholder is polled: it shows what fileno() does from
        now on, at the cost of a system call per change."""
        session = self.open_session()
        shows = fd == self._descriptor or fd in session.dups or fd in session.stand_ins
        if session.descriptors.get(fd) is self and not shows:
            os.dup2(self.fileno(), fd, inheritable=os.get_inheritable(fd))
            session.stand_ins.add(fd)

    def leave(self, fd: int) -> None:
        """A descriptor that stands for this socket is about to be closed."""
        self.remove_writer(fd)
        session = self.session or self._was_of  # the number may outlive the socket
        if session is not None:
            session.forget_descriptor(fd)

    # ---- addresses ----

    def known(self) -> tuple[Any, Any]:
        """(local, remote) addresses, each None where not known yet."""
        known = self._addresses
        if type(known) is not tuple:
            known = addresses(known) if known else (None, None)
            self._addresses = known
        return known  # type: ignore[no-any-return]

    def learn(self) -> None:
        """Asks the client again: after bind, listen or connect."""
        self._addresses = self.client().addresses(self.handle)

    def sockname(self) -> Any:
        local = self.known()[0]
        if local is None and self.live:
            self.open_session().ask(self.learn)
            local = self.known()[0]
        return unset(self.family) if local is None else local

    def peername(self) -> Any:
        """The peer's address, or None."""
        return self.known()[1]

    # ---- waiting, for the loop's sock_ calls ----

    def wait_for(self, filters: int, loop: asyncio.AbstractEventLoop) -> "asyncio.Future[None]":
        """A future that is done when READ or WRITE may succeed: then the caller tries again."""
        client = self.client()
        fut: asyncio.Future[None] = loop.create_future()
        if filters == READ:
            self._readers = [f for f in self._readers or () if not f.done()]
            self._readers.append(fut)
        else:
            self._writers = [f for f in self._writers or () if not f.done()]
            self._writers.append(fut)
        client.want(self.handle, filters)
        return fut

    def connecting(self, fut: "asyncio.Future[None]") -> None:
        self._connecting = fut

    def _wake(self) -> None:
        # The session has ended, or the socket is closed.
        waiting = [*(self._readers or ()), *(self._writers or ())]
        if self._connecting is not None:
            waiting.append(self._connecting)
        self._readers = self._writers = self._connecting = None
        for fut in waiting:
            if fut.done() or fut.get_loop().is_closed():
                continue
            if self.session is None:
                fut.cancel()
            else:
                fut.set_exception(self.session.gone())

    def set_writer(self, fd: int, handle: asyncio.Handle, loop: asyncio.AbstractEventLoop) -> None:
        """For loop.add_writer: called once per iteration of the loop while the socket is
        writable."""
        if self.writers is None:
            self.writers = {}
        self.writers[fd] = handle
        self._loop = loop
        self._want_room()

    def remove_writer(self, fd: int) -> bool:
        """For loop.remove_writer. Whether there was one."""
        handle = (self.writers or {}).pop(fd, None)
        if handle is None or handle.cancelled():
            return False
        handle.cancel()
        return True

    def _want_room(self) -> None:
        if self.writers and self.live:
            with contextlib.suppress(InstanceGone):  # found before the loop has: lose() calls them
                self.client().want(self.handle, WRITE)
        elif self.writers:  # to try, as after a reset
            self.call_writers()

    def call_writers(self) -> None:
        """Called when the socket is writable or has failed."""
        if self.writers and not self._called:
            self._called = True
            self._loop.call_soon(self._run_writers)

    def _run_writers(self) -> None:
        self._called = False
        try:
            for handle in list((self.writers or {}).values()):
                if not handle.cancelled():
                    handle._run()
        finally:
            self._want_room()

    def on_readable(self) -> None:
        readers, self._readers = self._readers, None
        for fut in readers or ():
            _settle(fut)

    def on_writable(self) -> None:
        self.call_writers()
        writers, self._writers = self._writers, None
        for fut in writers or ():
            _settle(fut)

    def on_connect(self, code: int) -> None:
        fut, self._connecting = self._connecting, None
        if code == 0:
            with contextlib.suppress(OSError):  # reset already: the next call says so
                self.learn()
        self.call_writers()
        if fut is not None:
            _settle(fut, error(code) if code else None)

    def on_eof(self) -> None:
        self.on_readable()

    def on_error(self, code: int) -> None:
        self.on_readable()
        self.on_writable()

    def on_data(self, off: int, size: int) -> None:
        # A transport let go of the handle with data on its way: keep it for sock_recv.
        client = self.client()
        client.push(self.handle, False)
        if off:
            client.unread(self.handle)
        self.on_readable()

    def on_accept(self, handle: int, off: int) -> None:
        self.client().return_socket(handle)

    # ---- the session's end ----

    def lose(self) -> None:
        """The session is lost: wakes all waiters and watchers, whose next call is told so."""
        if self._descriptor >= 0 and self.open_session().forked:
            self._renew_descriptors()
        elif self._descriptor >= 0:
            os.write(self._descriptor, _ONE)
        self.call_writers()

    def resume(self, handle: int) -> None:
        """The session is attached again, and this handle is the same socket as before."""
        session = self.open_session()
        self.handle, self.generation = handle, session.generation
        if self._descriptor >= 0:
            with contextlib.suppress(BlockingIOError):
                os.read(self._descriptor, 8)
            self.client().placeholder(handle, self._descriptor)

    def _renew_descriptors(self) -> None:
        # The parent goes on with those that a fork has shared out.
        session = self.open_session()
        fresh = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        for fd in {self._descriptor, *session.dups, *session.stand_ins}:
            if session.descriptors.get(fd) is self:
                os.dup2(fresh, fd, inheritable=False)
        os.close(fresh)

    def on_lost(self) -> None:
        self._wake()
        self.lose()

    def on_detach(self) -> None:
        self._wake()


def _settle(fut: "asyncio.Future[None]", exc: BaseException | None = None) -> None:
    if fut.done():
        return
    if exc is None:
        fut.set_result(None)
    else:
        fut.set_exception(exc)


def _event(fd: int) -> str:
    with open(f"/proc/self/fdinfo/{fd}") as info:
        return next((line for line in info if line.startswith("eventfd-id")), "")
