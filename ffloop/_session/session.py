"""Session: one owner's life with the instance: its thread, its sockets, its descriptors, its end.

A loop has one, and so has a thread that uses stack sockets without a loop. It is attached, lost
(the instance or a fork has ended it) or closed. A lost one can be attached again, as the next
generation: handles of earlier ones are void, and calls on them raise the reason of the loss.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import errno
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from ..errors import InstanceGone, gone
from .binding import (
    EV_ACCEPT,
    EV_CONNECT,
    EV_DATA,
    EV_EOF,
    EV_ERROR,
    EV_READABLE,
    EV_WRITABLE,
    Client,
    Receiver,
    new_word,
)
from .log import log

_T = TypeVar("_T")
_all: "weakref.WeakSet[Session]" = weakref.WeakSet()
_FROM_A_LOOP = (
    "a stack socket or transport of a loop is used by the thread that runs the loop: from another "
    "one, call loop.call_soon_threadsafe() or asyncio.run_coroutine_threadsafe()"
)
_FROM_A_THREAD = "a stack socket made outside of a loop is used by the thread that made it"
_OF_ITS_THREAD = (
    "F-Stack belongs to the thread that made the loop: run and close the loop in that thread"
)
_ANSWER_S = 10.0  # for a call that another thread is asked to make


class LoopSelector(Protocol):
    """A loop's selector, which has descriptors of the session's sockets."""

    def forget(self, fd: int) -> Any:
        """Watches a descriptor no more that is about to be closed: for restore(), or None."""

    def restore(self, fd: int, watching: Any) -> None: ...


class User(Protocol):
    """A Selector or KernelQueue on the session's sockets, where there is no loop."""

    def forget(self, fd: int) -> None: ...
    def lose(self, session: "Session") -> None:
        """The session has ended, and its sockets with it."""


class Orphan(Protocol):
    """An object that was collected without close()."""

    def release(self) -> None: ...


class Owned(Orphan, Protocol):
    """The owner of a handle and perhaps a descriptor: an Endpoint."""

    def close_descriptor(self, session: "Session") -> None: ...


class Session:
    """Used by one thread: the one that runs the loop, or made the session where there is no loop.

    `receivers`: handle to who gets its events; `orphans`: Endpoints that were collected without
    close(), perhaps in another thread; `descriptors`: number to the Endpoint that it stands for;
    `selectors`: which hold some of those; `users`: Selectors and KernelQueues that hold
    some where there is no loop.
    """

    def __init__(self, client: Client, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.receivers: dict[int, Receiver] = {}
        self.orphans: collections.deque[Orphan] = collections.deque()
        self.descriptors: dict[int, Owned] = {}
        self.dups: set[int] = set()  # of those numbers: a dup()'s own...
        self.stand_ins: set[int] = set()  # ...and placeholders that poll as the socket does
        self.detached: set[int] = set()  # ...and what detach() returned
        self.selectors: weakref.WeakSet[LoopSelector] = weakref.WeakSet()
        self.users: weakref.WeakSet[User] = weakref.WeakSet()
        self.generation = 0
        self.closed = False
        self._client: Client | None = None
        self._lost = ""  # why the last generation was
        self._word, self.word_address = new_word()  # the owner's thread, for the compiled half
        self._loop = None if loop is None else weakref.ref(loop)
        self.run_by_this_thread()
        self.attach(client)
        _all.add(self)

    # ---- who may use it ----

    def check_thread(self) -> None:
        """Raises RuntimeError where the instance is in another thread, and this one can never be
        the owner."""
        client = self._client
        if client is not None and client.thread not in (None, threading.get_ident()):
            raise RuntimeError(_OF_ITS_THREAD)

    def run_by_this_thread(self) -> None:
        """This thread is the owner from now on."""
        self.check_thread()
        self._thread = self._word[0] = threading.get_ident()

    def belongs_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """A loop takes over the session of a thread that had none."""
        self._loop = weakref.ref(loop)
        self.client.quiet(False)

    @property
    def of_loop(self) -> bool:
        return self._loop is not None

    @property
    def mine(self) -> bool:
        """Whether it belongs to this thread."""
        return self._thread == threading.get_ident()

    def enter(self) -> None:
        """This thread uses it from now on. Raises RuntimeError while another thread does."""
        if self._thread == threading.get_ident():
            return
        if self._loop is None:
            raise RuntimeError(_FROM_A_THREAD)
        loop = self._loop()
        busy = self._client is not None and self._client.waits
        if busy or (loop is not None and loop.is_running()):
            raise RuntimeError(_FROM_A_LOOP)
        self.run_by_this_thread()

    @property
    def client(self) -> Client:
        """Raises RuntimeError in another thread than the owner's, InstanceGone unless attached."""
        if self._thread != threading.get_ident():
            self.enter()
        client = self._client
        if client is None:
            raise self.gone()
        return client

    def pass_on(self, call: Callable[[], None]) -> bool:
        """True: another thread runs the loop, and will make the call. False: this thread may."""
        if self._thread == threading.get_ident():
            return False
        loop = self._loop() if self._loop is not None else None
        if loop is None or not loop.is_running():
            self.enter()
            return False
        loop.call_soon_threadsafe(call)
        return True

    def ask(self, call: Callable[..., _T], *args: Any) -> _T:
        """call(*args) in the owner's thread, whichever thread this is: for reads. Raises
        RuntimeError where the owner cannot answer."""
        if self._thread == threading.get_ident():
            return call(*args)
        answer: concurrent.futures.Future[_T] = concurrent.futures.Future()

        def make() -> None:
            try:
                answer.set_result(call(*args))
            except BaseException as exc:
                answer.set_exception(exc)

        if not self.pass_on(make):
            return call(*args)
        try:
            return answer.result(_ANSWER_S)
        except TimeoutError:
            raise RuntimeError(
                f"the loop's thread, which has to make this call, did not for {_ANSWER_S:.0f} s: "
                "is it blocked?"
            ) from None

    # ---- its life ----

    @property
    def forked(self) -> bool:
        """Whether this process's parent attached it."""
        return os.getpid() != self._pid

    @property
    def direct(self) -> bool:
        """Whether the instance is in the session's own thread. Any thread may ask."""
        return self._client is not None and self._client.direct

    @property
    def attached(self) -> bool:
        return self._client is not None

    def attach(self, client: Client) -> None:
        """Begins the first or the next generation: earlier handles are void."""
        self._client = client
        client.quiet(not self.of_loop)
        self._pid = client.pid
        self.generation += 1

    @property
    def ended(self) -> bool:
        """Whether it is not attached, or will soon be told so."""
        return self._client is None or bool(self._client.detached)

    def check(self) -> None:
        """Where nobody waits for events: tells the sockets now if the session is lost."""
        client = self._client
        if client is not None and client.detached:
            self.lost()

    def lost(self) -> None:
        """The client is detached: tells every socket, in one way."""
        client = self._client
        if client is None:
            return
        self._lost = client.reason()
        log.warning("the session with the instance at %s is lost: %s", client.path, self._lost)
        self._client = None
        receivers = list(self.receivers.values())
        self.receivers.clear()
        try:
            for receiver in receivers:
                self._tell(receiver)
        finally:
            self._lose_users()
            client.close()

    def _tell(self, receiver: Receiver) -> None:
        # What goes wrong with one of them (its descriptor was closed by its number) is not to keep
        # the others from learning of it.
        try:
            receiver.on_lost()
        except Exception as exc:
            log.error("%r could not be told that its session is lost", receiver, exc_info=exc)

    def _lose_users(self) -> None:
        for user in list(self.users):
            user.lose(self)

    def gone(self) -> InstanceGone:
        """A new exception for a call on a session that has ended: each that raises one adds its
        traceback."""
        client = self._client
        if client is not None and client.detached:
            return gone(client.reason())
        return gone((not self.closed and self._lost) or "it was closed")

    def close(self) -> None:
        """Ends the session. Idempotent. The instance still sends submitted data."""
        self.closed = True
        client, self._client = self._client, None
        receivers = list(self.receivers.values())
        self.receivers.clear()
        for receiver in receivers:
            receiver.on_detach()
        for owned in set(self.descriptors.values()):
            owned.close_descriptor(self)
        self.descriptors.clear()
        self._lose_users()
        if client is not None:
            client.close()

    def __del__(self) -> None:
        # The thread and the last of its sockets are gone; or the interpreter, its modules with it.
        try:
            self.close()
        except Exception:
            pass

    # ---- what it owns ----

    def open_socket(self, family: int, kind: int, proto: int = 0, nodelay: bool = False) -> int:
        """A new handle. Raises OSError."""
        try:
            return self.client.open_socket(family, kind, proto, nodelay)
        except OSError as exc:
            if exc.errno != errno.EMFILE or self.of_loop or self.ended:
                raise
        self.close_orphans()
        self.client.ping()  # what was closed before is free when this is answered
        return self.client.open_socket(family, kind, proto, nodelay)

    def close_socket(self, handle: int, generation: int, abort: bool = False) -> None:
        """Frees the handle; its events that are left in the batch find no receiver."""
        if generation == self.generation and self._client is not None:
            client = self.client
            self.receivers.pop(handle, None)
            client.close_socket(handle, abort)

    def close_orphans(self) -> None:
        while self.orphans:
            self.orphans.popleft().release()

    def forget_descriptor(self, fd: int) -> None:
        """Called before a descriptor is closed or replaced: every selector unregisters it."""
        self.descriptors.pop(fd, None)
        self.dups.discard(fd)
        self.detached.discard(fd)
        self.stand_ins.discard(fd)
        for selector in self.selectors:
            selector.forget(fd)
        for user in self.users:
            user.forget(fd)

    @contextlib.contextmanager
    def swapped(self, fd: int) -> Iterator[None]:
        """While the context lasts, the descriptor becomes another file; selectors that have it go
        on with that."""
        self.descriptors.pop(fd, None)
        self.stand_ins.discard(fd)
        held = [(selector, was) for selector in self.selectors if (was := selector.forget(fd))]
        yield
        for selector, was in held:
            selector.restore(fd, was)

    # ---- events ----

    def fds(self) -> list[int]:
        """The client's descriptors that an epoll has; none in a forked child, where they are
        closed, or after the end, and where the collector has closed the client first."""
        client = self._client
        return [] if client is None or client.c is None or self.forked else list(client.fds())

    # (For the compiled dispatcher.)

    @property
    def address(self) -> int:
        return self.client.address

    @property
    def mm(self) -> Any:
        return self.client.mm

    @property
    def events(self) -> memoryview:
        return self.client.events

    def receive(self, kind: int, handle: int, arg: int, off: int) -> None:
        """Hands one event of a socket (not FD, LOST or CLOSED) to its receiver."""
        receiver = self.receivers.get(handle)
        if receiver is None:
            if kind == EV_ACCEPT:  # its listener was closed by an earlier event
                self.client.return_socket(arg)
        elif kind == EV_DATA:
            receiver.on_data(off, arg)
        elif kind == EV_ACCEPT:
            receiver.on_accept(arg, off)
        elif kind == EV_EOF:
            receiver.on_eof()
        elif kind == EV_WRITABLE:
            receiver.on_writable()
        elif kind == EV_READABLE:
            receiver.on_readable()
        elif kind == EV_CONNECT:
            receiver.on_connect(arg)
        elif kind == EV_ERROR:
            receiver.on_error(arg)


def stands_for(fd: int) -> Any:
    """The Endpoint of this process's whose descriptor this is, or None."""
    for session in list(_all):
        if (endpoint := session.descriptors.get(fd)) is not None:
            return endpoint
    return None
