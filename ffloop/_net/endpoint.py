"""Endpoint: a stack socket's identity (ring, handle, addresses) and its references.

A StackSocket, its dups and a transport share one endpoint; the last to leave closes the handle.
Until a transport or a listener takes the handle's events over, the endpoint receives them for the
loop's sock_ calls: it wakes whoever waits, and they try again.
"""

import asyncio
import contextlib
import weakref
from typing import Any, Protocol

from .._session.address import unset
from .._session.binding import READ, WRITE, Ring, error, names
from ..errors import gone

# Which endpoint a descriptor stands for (Endpoint.fileno).
mirrors: "weakref.WeakValueDictionary[int, Endpoint]" = weakref.WeakValueDictionary()


class Watcher(Protocol):
    """Wants to hear of an endpoint's changes (a selector, a kqueue)."""

    def stir(self, filters: int) -> None:
        """READ or WRITE may succeed now."""

    def forget(self) -> None:
        """The endpoint is closed."""


class Endpoint:
    """Owned by one loop's thread. `ring` is None once closed."""

    __slots__ = (
        "__weakref__",
        "_connecting",
        "_mirror",
        "_names",
        "_readers",
        "_writers",
        "accepting",
        "family",
        "handle",
        "kind",
        "listen_backlog",
        "nodelay",
        "options",
        "proto",
        "refs",
        "ring",
        "watchers",
        "writer",
    )

    def __init__(
        self, ring: Ring, handle: int, family: int, kind: int, proto: int, raw_names: bytes = b""
    ) -> None:
        self.ring: Ring | None = ring
        self.handle = handle
        self.family = family
        self.kind = kind
        self.proto = proto
        self.refs = 1
        self.accepting = False
        self.listen_backlog: int | None = None
        self.nodelay = False  # of the sockets that it accepts
        self.options: list[tuple[int, int, Any]] | None = None  # replayed on a new instance
        self._names: Any = raw_names  # bytes, or decoded
        self._readers: list[asyncio.Future[None]] | None = None
        self._writers: list[asyncio.Future[None]] | None = None
        self._connecting: asyncio.Future[None] | None = None
        self._mirror = -1
        self.watchers: list[Watcher] | None = None
        self.writer: Any = None  # of loop.add_writer

    def __repr__(self) -> str:
        return f"<Endpoint handle={self.handle} refs={self.refs} closed={self.ring is None}>"

    # ---- life ----

    def take(self) -> None:
        """Receive this handle's events."""
        self.open_ring().receivers[self.handle] = self

    def open_ring(self) -> Ring:
        """The ring. Raises OSError (EBADF) once closed."""
        if self.ring is None:
            raise error(9)
        return self.ring

    def release(self, abort: bool = False) -> None:
        """Drops one reference; the last one closes the handle."""
        self.refs -= 1
        if self.refs > 0 or self.ring is None:
            return
        ring, self.ring = self.ring, None
        if self._mirror >= 0:
            mirrors.pop(self._mirror, None)
        ring.close_socket(self.handle, abort)
        self._wake(cancel=True)
        for watcher in self.watchers or ():
            watcher.forget()

    def fileno(self) -> int:
        """A descriptor of its own that polls readable when something waits; -1 once closed."""
        ring = self.ring
        if ring is None or ring.closed:
            return -1
        if self._mirror < 0:
            self._mirror = ring.mirror_fd(self.handle)
            mirrors[self._mirror] = self
        return self._mirror

    # ---- addresses ----

    def _known(self) -> tuple[Any, Any]:
        known = self._names
        if type(known) is not tuple:
            known = names(known) if known else (None, None)
            self._names = known
        return known  # type: ignore[no-any-return]

    def learn(self) -> None:
        """Asks the client again: after bind, listen or connect."""
        self._names = self.open_ring().names(self.handle)

    def sockname(self) -> Any:
        local = self._known()[0]
        if local is None and self.ring is not None:
            self.learn()
            local = self._known()[0]
        return unset(self.family) if local is None else local

    def peername(self) -> Any:
        """The peer's address, or None."""
        return self._known()[1]

    # ---- waiting, for the loop's sock_ calls ----

    def wait_for(self, filters: int, loop: asyncio.AbstractEventLoop) -> "asyncio.Future[None]":
        """A future that is done when READ or WRITE may succeed; try again then."""
        ring = self.open_ring()
        fut: asyncio.Future[None] = loop.create_future()
        if filters == READ:
            self._readers = [f for f in self._readers or () if not f.done()]
            self._readers.append(fut)
        else:
            self._writers = [f for f in self._writers or () if not f.done()]
            self._writers.append(fut)
        ring.want(self.handle, filters)
        return fut

    def connecting(self, fut: "asyncio.Future[None]") -> None:
        self._connecting = fut

    def _wake(self, cancel: bool = False, exc: BaseException | None = None) -> None:
        waiting = [*(self._readers or ()), *(self._writers or ())]
        if self._connecting is not None:
            waiting.append(self._connecting)
        self._readers = self._writers = self._connecting = None
        for fut in waiting:
            if fut.done() or fut.get_loop().is_closed():
                continue
            if exc is not None:
                fut.set_exception(exc)
            elif cancel:
                fut.cancel()
            else:
                fut.set_result(None)

    def _stir(self, filters: int) -> None:
        for watcher in self.watchers or ():
            watcher.stir(filters)

    def on_readable(self) -> None:
        if self.watchers is not None:
            self._stir(READ)
        readers, self._readers = self._readers, None
        for fut in readers or ():
            if not fut.done():
                fut.set_result(None)

    def on_writable(self) -> None:
        if self.watchers is not None:
            self._stir(WRITE)
        writers, self._writers = self._writers, None
        for fut in writers or ():
            if not fut.done():
                fut.set_result(None)

    def on_connect(self, code: int) -> None:
        fut, self._connecting = self._connecting, None
        if code == 0:
            with contextlib.suppress(OSError):  # reset already: the next call says so
                self.learn()
        self._stir(READ | WRITE)
        if fut is None or fut.done():
            return
        if code:
            fut.set_exception(error(code))
        else:
            fut.set_result(None)

    def on_eof(self) -> None:
        self.on_readable()

    def on_error(self, code: int) -> None:
        self.on_readable()
        self.on_writable()

    def on_data(self, off: int, size: int) -> None:
        # A transport let go of the handle with data on its way: keep it for sock_recv.
        ring = self.open_ring()
        ring.push(self.handle, False)
        if off:
            ring.unread(self.handle)
        self.on_readable()

    def on_accept(self, handle: int, off: int) -> None:
        self.open_ring().return_socket(handle)

    def on_down(self, exc: OSError) -> None:
        self.ring = None
        self._wake(exc=exc)

    def on_detach(self) -> None:
        self.ring = None
        self._wake(exc=gone())


__all__ = ["READ", "WRITE", "Endpoint"]
