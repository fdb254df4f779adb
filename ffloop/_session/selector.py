"""Selector and KernelQueue: the C core's epoll and kqueue over stack sockets and kernel descriptors
(client/selector.h, kqueue.h), for threads without an event loop.

FFSelector, Kqueue and the bridge use it. Sockets are named by descriptor numbers; a stack socket's
is its `fileno()`.
"""

import errno
import time
from typing import Any

from ..errors import error
from .native import ffi, lib
from .session import Session, stands_for

_MOST = 1 << 16  # events in one call


class Selector:
    """Used by one thread. Raises ValueError once closed, as select.epoll does."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._c = lib.ffl_selector_new()
        if not self._c:
            raise error(ffi.errno)

    # ---- what is watched ----

    def set(self, fd: int, events: int) -> None:
        """Watches a descriptor for epoll's `events` in place of those before; 0: not any more.
        Raises OSError (EBADF; EPERM for a file that cannot be polled; EINVAL for a stack socket of
        a loop), RuntimeError for another thread's socket."""
        self.check()
        if events:
            self._enter(fd)
        self._done(lib.ffl_selector_set(self._c, fd, events))

    def _done(self, rc: int) -> int:
        if rc < 0:
            raise error(-rc)
        return rc

    def _enter(self, fd: int) -> None:
        # A number that stands for a stack socket is made known; the session that this waits on is
        # that of its sockets.
        endpoint = stands_for(fd)
        if endpoint is None:
            return
        session = endpoint.open_session()
        if session.of_loop:
            raise OSError(
                errno.EINVAL,
                "this stack socket belongs to an event loop: await loop.sock_* or use a transport; "
                "a selector's or a kqueue's are made where no loop runs",
            )
        session.enter()
        if endpoint.live and self._session is not session:
            if self._session is not None:
                raise OSError(errno.EINVAL, "its stack sockets are of two sessions")
            self._done(lib.ffl_selector_use(self._c, session.client.c))
            self._session = session
        session.users.add(self)
        handle = endpoint.handle if endpoint.live else -1
        self._done(lib.ffl_selector_place(self._c, fd, handle))

    # (The session's.)

    def forget(self, fd: int) -> None:
        """Unregisters the number of a stack socket that is about to be closed."""
        if self._c:
            lib.ffl_selector_forget(self._c, fd)

    def lose(self, session: Session) -> None:
        """The session has ended: its sockets are ready, and their next call raises the reason."""
        if self._c and session is self._session:
            self._session = None
            lib.ffl_selector_use(self._c, ffi.NULL)

    # ---- waiting ----

    def poll(self, timeout: float | None, limit: int) -> list[tuple[int, int]]:
        """Waits: up to `limit` > 0 pairs (descriptor, epoll's events). timeout: seconds, None for
        ever. After a signal the wait goes on, as PEP 475 has it."""
        limit = min(limit, _MOST)
        pairs = ffi.new("int[]", 2 * limit)
        n = self._wait(timeout, lib.ffl_selector_poll, self._c, pairs, limit)
        return [(pairs[2 * i], pairs[2 * i + 1]) for i in range(n)]

    def _wait(self, timeout: float | None, call: Any, *args: Any) -> int:
        self.check()
        until = None if timeout is None else time.monotonic() + timeout
        left = timeout
        while True:
            ns = -1 if left is None else int(left * 1e9) + (left > 0)
            n = int(call(*args, ns))
            if (session := self._session) is not None:
                session.close_orphans()
                session.check()
            if n < 0 and n != -errno.EINTR:
                raise error(-n)
            left = None if until is None else max(until - time.monotonic(), 0.0)
            if n > 0 or left == 0.0:
                return max(n, 0)

    def fileno(self) -> int:
        """A descriptor that polls readable when poll() may have events."""
        self.check()
        return self._done(lib.ffl_selector_fd(self._c))

    # ---- the end ----

    @property
    def closed(self) -> bool:
        return not self._c

    def check(self) -> None:
        """Raises ValueError once closed."""
        if not self._c:
            raise ValueError("I/O operation on closed epoll object")

    def close(self) -> None:
        """Idempotent."""
        c, self._c = self._c, ffi.NULL
        if c:
            lib.ffl_selector_free(c)
        if self._session is not None:
            self._session.users.discard(self)
            self._session = None

    release = close  # for orphans

    def __del__(self) -> None:
        session = self._session
        if session is None or session.mine:
            self.close()
        else:  # its thread will
            session.orphans.append(self)


class KernelQueue(Selector):
    """A kqueue."""

    def __init__(self) -> None:
        super().__init__()
        self._kq = lib.ffl_selector_kqueue(self._c)

    def change(self, fields: tuple[int, int, int, int, int]) -> None:
        """ident, filter, flags, fflags, udata. Raises OSError."""
        self.check()
        ident, filter, flags, fflags, udata = fields
        if ident < 1 << 31:
            self._enter(ident)
        word = ffi.cast("void *", udata)
        change = ffi.new("struct kevent *", (ident, filter, flags, fflags, 0, word))
        self._done(lib.ffl_kqueue_change(self._kq, change))

    def wait(self, timeout: float | None, limit: int) -> list[tuple[int, int, int, int, int, int]]:
        """As poll: the fields of events, in the order of select.kevent's."""
        limit = min(limit, _MOST)
        events = ffi.new("struct kevent[]", limit)
        n = self._wait(timeout, lib.ffl_kqueue_wait, self._kq, events, limit)
        return [
            (e.ident, e.filter, e.flags, e.fflags, e.data, int(ffi.cast("uintptr_t", e.udata)))
            for e in events[0:n]
        ]
