"""Readiness: what select.epoll is, over stack sockets and kernel descriptors together.

FFSelector and Kqueue stand on it. Everything goes by descriptor number; a stack socket's is its
`fileno()`. A stack socket that may be ready is kept in `_stirred` and asked when somebody polls
(a look at memory); one that is not ready any more leaves it, with a one-shot interest in the
client that brings it back. So a poll costs what is ready, not what is registered.
"""

import contextlib
import errno
import os
import select
import struct
import time
from collections.abc import Callable
from enum import Enum

from .._session.binding import EDGE, READ, WRITE
from .._session.session import Session, stands_for
from .endpoint import Endpoint

_ONE = struct.pack("=Q", 1)


class When(Enum):
    """How a filter of a descriptor is watched."""

    OFF = 0
    LEVEL = 1  # told as long as it is so
    EDGE = 2  # told once, then when more has come


class Watch:
    """One stack socket in one Readiness."""

    __slots__ = ("edge", "endpoint", "fd", "level", "news", "owner")

    def __init__(self, owner: "Readiness", fd: int, endpoint: Endpoint) -> None:
        self.owner = owner
        self.fd = fd
        self.endpoint = endpoint
        self.level = self.edge = self.news = 0

    def stir(self, filters: int) -> None:
        """READ or WRITE may be so now."""
        self.news |= filters
        self.owner._stir(self)

    def forget(self) -> None:
        """The socket is closed."""
        self.owner._forget(self, closed=True)

    def look(self) -> int:
        """What is to be told. When it is nothing, the client will stir."""
        wanted = self.level | self.edge & self.news
        if not self.endpoint.live:
            self.news &= ~wanted
            return wanted  # the next call says why
        client = self.endpoint.client()
        ready = client.ready(self.endpoint.handle)
        found = ready & wanted
        self.news &= ~found
        if not found & self.level and (missing := self.level & ~ready):
            client.want(self.endpoint.handle, missing)
        if self.edge & READ and not self.level & READ:
            client.want(self.endpoint.handle, READ | EDGE)
        return found


class Readiness:
    """Used by one thread. Raises ValueError once closed, as select.epoll does."""

    def __init__(self, closed: Callable[[int], None] | None = None) -> None:
        """closed: called with the number of a watched stack socket when that is closed."""
        self._epoll = select.epoll()
        self._closed = closed
        self._session: Session | None = None
        self._watches: dict[int, Watch] = {}
        self._stirred: dict[int, Watch] = {}
        self._kernel: dict[int, int] = {}  # epoll's masks
        self._late: list[tuple[int, int]] = []  # edges that found no room
        self._shown = -1  # an eventfd in the epoll, once somebody polls that

    # ---- what is watched ----

    def set(self, fd: int, read: When, write: When) -> None:
        """Watches a descriptor, in another way than before or not at all. Raises OSError: EBADF;
        EPERM for what cannot be polled; EINVAL for a stack socket of a loop or another thread."""
        endpoint = stands_for(fd)
        watch = self._watches.get(fd)
        if watch is not None and watch.endpoint is not endpoint:
            self._forget(watch)  # its number was given to another
            watch = None
        if endpoint is None or endpoint.session is None:
            self._set_kernel(fd, read, write)
            return
        if watch is None:
            if read is write is When.OFF:
                return
            self._enter(endpoint)
            self._kernel.pop(fd, None)  # closed, or the number could not be another's
            watch = self._watches[fd] = Watch(self, fd, endpoint)
            endpoint.watchers = [*(endpoint.watchers or ()), watch]
        edge, level = watch.edge, watch.level
        watch.level = (read is When.LEVEL) * READ | (write is When.LEVEL) * WRITE
        watch.edge = (read is When.EDGE) * READ | (write is When.EDGE) * WRITE
        if not watch.level | watch.edge:
            self._forget(watch)
            return
        fresh = (watch.level | watch.edge) & ~(level | edge)
        if fresh or watch.level != level:
            watch.stir(fresh)

    def _enter(self, endpoint: Endpoint) -> None:
        # The session that this waits on is that of its sockets.
        session = endpoint.open_session()
        if session.of_loop:
            raise OSError(
                errno.EINVAL,
                "this stack socket belongs to an event loop: await loop.sock_* or use a transport; "
                "a selector's or a kqueue's are made where no loop runs",
            )
        session.enter()
        if self._session is not None and not self._session.attached:
            self._leave()
        if self._session is session or not session.attached:
            return
        if self._session is not None:
            raise OSError(errno.EINVAL, "its stack sockets are of two sessions with the instance")
        bell, end = session.client.fds()
        self._epoll.register(bell, select.EPOLLIN | select.EPOLLET)
        self._epoll.register(end, select.EPOLLIN | select.EPOLLRDHUP)
        self._session = session
        session.users.add(self)

    def _leave(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        session.users.discard(self)
        if session.attached and not self._epoll.closed:
            for fd in session.client.fds():
                self._epoll.unregister(fd)

    def _set_kernel(self, fd: int, read: When, write: When) -> None:
        if read is write is When.OFF:
            if self._kernel.pop(fd, 0):
                self._epoll.unregister(fd)
            return
        if When.EDGE in (read, write) and When.LEVEL in (read, write):
            raise OSError(
                errno.EINVAL, "a kernel descriptor's two filters are both edge-triggered or neither"
            )
        mask = (read is not When.OFF) * (select.EPOLLIN | select.EPOLLRDHUP)
        mask |= (write is not When.OFF) * select.EPOLLOUT
        mask |= (When.EDGE in (read, write)) * select.EPOLLET
        if fd in self._kernel:
            try:
                self._epoll.modify(fd, mask)
            except FileNotFoundError:  # it was closed, and the number is another's now
                self._epoll.register(fd, mask)
        else:
            self._epoll.register(fd, mask)
        self._kernel[fd] = mask

    def stack_socket(self, fd: int) -> Endpoint | None:
        """The stack socket that is watched by this number."""
        watch = self._watches.get(fd)
        return watch.endpoint if watch is not None else None

    def _stir(self, watch: Watch) -> None:
        self._stirred[watch.fd] = watch
        if self._shown >= 0:
            os.write(self._shown, _ONE)

    def _forget(self, watch: Watch, closed: bool = False) -> None:
        if self._watches.get(watch.fd) is watch:
            del self._watches[watch.fd]
            self._stirred.pop(watch.fd, None)
            if closed and self._closed is not None:
                self._closed(watch.fd)
        left = [w for w in watch.endpoint.watchers or () if w is not watch]
        watch.endpoint.watchers = left or None

    # ---- waiting ----

    def poll(self, timeout: float | None, limit: int) -> list[tuple[int, int]]:
        """Up to `limit` > 0 pairs (descriptor, epoll's event mask). timeout: seconds, None for
        ever. Signals are handled and the wait goes on, as PEP 475 has it."""
        until = None if timeout is None else time.monotonic() + timeout
        events, self._late = self._late[:limit], self._late[limit:]
        events += self._collect(limit - len(events))
        while True:
            left = -1.0 if until is None else max(until - time.monotonic(), 0.0)
            found = bool(events)
            for fd, mask in self._wait(0.0 if found else left, limit):
                if fd == self._shown:
                    continue
                if len(events) < limit:
                    events.append((fd, mask))
                elif self._kernel.get(fd, 0) & select.EPOLLET:
                    self._late.append((fd, mask))  # others come again
            if not found:
                events += self._collect(limit - len(events))
            if events or left == 0.0:
                break
        if self._shown >= 0:
            self._show()
        return events

    def _collect(self, limit: int) -> list[tuple[int, int]]:
        events: list[tuple[int, int]] = []
        for fd, watch in list(self._stirred.items()):
            if len(events) == limit:
                break
            del self._stirred[fd]
            found = watch.look()
            if found:
                mask = (found & READ and select.EPOLLIN) | (found & WRITE and select.EPOLLOUT)
                events.append((fd, mask))
            if found & watch.level:
                self._stirred[fd] = watch  # behind the others, so that all have their turn
        return events

    def _wait(self, seconds: float, limit: int) -> list[tuple[int, int]]:
        session = self._session
        if session is not None and not session.attached:
            self._leave()
            session = None
        if session is None:
            return self._epoll.poll(None if seconds < 0 else seconds, limit)
        ns = -1 if seconds < 0 else int(seconds * 1e9) + (seconds > 0)
        return session.iterate(self._epoll.fileno(), ns)

    # ---- for those who poll this itself ----

    def fileno(self) -> int:
        """A descriptor that polls readable when `poll` may have something to tell."""
        fd = self._epoll.fileno()
        if self._shown < 0:
            self._shown = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._epoll.register(self._shown, select.EPOLLIN)
            self._show()
        return fd

    def _show(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._shown, 8)
        session = self._session
        waits = session is not None and session.attached and session.client.show()
        if self._stirred or self._late or waits:
            os.write(self._shown, _ONE)

    # ---- the end ----

    @property
    def closed(self) -> bool:
        return self._epoll.closed

    def close(self) -> None:
        """Idempotent."""
        for watch in list(self._watches.values()):
            self._forget(watch)
        self._leave()
        self._kernel.clear()
        if self._shown >= 0:
            os.close(self._shown)
            self._shown = -1
        self._epoll.close()

    def check(self) -> None:
        """Raises ValueError once closed."""
        self._epoll.fileno()
