"""FFSelector: a selector for stack sockets and kernel descriptors together."""

import selectors

from ._session.selector import Selector


class _Epoll(Selector):
    """What EpollSelector uses of select.epoll."""

    def register(self, fd: int, mask: int) -> None:
        self.set(fd, mask)

    modify = register

    def unregister(self, fd: int) -> None:
        self.set(fd, 0)

    def poll(self, timeout: float | None, limit: int) -> list[tuple[int, int]]:
        return super().poll(None if timeout is None or timeout < 0 else timeout, limit)


class FFSelector(selectors.EpollSelector):
    """A `selectors.BaseSelector`, level-triggered, whose file objects are `ffloop.socket`s, kernel
    sockets, descriptors: in every respect as selectors.EpollSelector.

    For programs without an event loop: its stack sockets are made where no loop runs, and it is
    used by the thread that made them (RuntimeError else). A loop's sockets are refused with
    OSError (EINVAL).
    """

    _selector_cls = _Epoll


__all__ = ["FFSelector"]
