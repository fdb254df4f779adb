"""FFSelector: a selector for stack sockets and kernel descriptors together."""

import select
import selectors

from ._net.readiness import Readiness, When

_IN, _OUT, _RDHUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLRDHUP


class _Epoll:
    """What EpollSelector uses of select.epoll, over a Readiness."""

    def __init__(self) -> None:
        self._ready = Readiness()

    def register(self, fd: int, mask: int) -> None:
        self._set(fd, mask)

    def modify(self, fd: int, mask: int) -> None:
        self._set(fd, mask)

    def unregister(self, fd: int) -> None:
        self._ready.set(fd, When.OFF, When.OFF)

    def _set(self, fd: int, mask: int) -> None:
        self._ready.set(
            fd,
            When.LEVEL if mask & _IN else When.OFF,
            When.LEVEL if mask & _OUT else When.OFF,
        )

    def poll(self, timeout: float, limit: int) -> list[tuple[int, int]]:
        found = self._ready.poll(None if timeout < 0 else timeout, limit)
        return [(fd, mask & ~_RDHUP | _IN if mask & _RDHUP else mask) for fd, mask in found]

    def fileno(self) -> int:
        return self._ready.fileno()

    def close(self) -> None:
        self._ready.close()


class FFSelector(selectors.EpollSelector):
    """A `selectors.BaseSelector`, level-triggered, whose file objects are `ffloop.socket`s, kernel
    sockets, descriptors: in every respect as selectors.EpollSelector.

    For programs without an event loop: its stack sockets are made where no loop runs, and it is
    used by the thread that made them (RuntimeError else). A loop's sockets are refused with
    OSError (EINVAL).
    """

    _selector_cls = _Epoll


__all__ = ["FFSelector"]
