"""The selectors of loops: their base class, and the selector of direct mode.

`select` returns what epoll says of the kernel's descriptors, which Watchers has, and leaves the
events of the loop's own sockets in the dispatcher, `batch`. When a callback raises
KeyboardInterrupt or SystemExit, the rest of the batch stays, and no wait begins until it is done.
The compiled Scheduler waits on the dispatcher itself and hands everything out. In debug mode each
event of a batch has a handle of its own, behind the callbacks scheduled before.
"""

import os
import select
import selectors
from typing import Any

from .._session.configuration import SPIN_FOREVER
from .._session.hot import Dispatcher, Watchers

Ready = list[tuple[int, int]]  # (descriptor, epoll events)

_SIGNAL_CHECK_NS = 50_000_000  # a spin without end still lets Python look at its signals


def longest_wait(spin_us: int) -> int:
    """In ns; -1: without a limit."""
    return _SIGNAL_CHECK_NS if spin_us == SPIN_FOREVER else -1


class BasePoller(Watchers):
    """Used by one loop, in the place of a selector."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        super().__init__(self._epoll.fileno())
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # rung, never read
        self._epoll.register(self.wake_fd, select.EPOLLIN | select.EPOLLET)
        self.batch: Any = None  # the loop's dispatcher

    def close(self) -> None:
        super().close()
        self._epoll.close()
        fd, self.wake_fd = self.wake_fd, -1
        if fd >= 0:
            os.close(fd)

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """For the repr of asyncio's own transports. Raises KeyError where nobody watches it."""
        if events := self.events(fileobj):
            fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
            return selectors.SelectorKey(fileobj, fd, events, None)
        raise KeyError(fileobj)

    @property
    def pending(self) -> bool:
        """Are there events of a batch without a callback in the queue that will dispatch them?"""
        batch = self.batch
        return batch is not None and not batch.queued and batch.index < batch.count

    def select(self, timeout: float | None = None) -> Ready:
        batch = self.batch
        if batch is None:
            return self._epoll.poll(timeout)
        if batch.queued or batch.index < batch.count:
            return []
        # Rounded up: never early.
        wait_ns = -1 if timeout is None else int(timeout * 1e9) + 1 if timeout > 0 else 0
        return self.kernel_events(batch.wait(wait_ns))

    def kernel_events(self, count: int) -> Ready:
        """Those of the kernel's descriptors, out of `count` events."""
        raise NotImplementedError


class KernelPoller(BasePoller):
    """Of a loop in direct mode."""

    def __init__(self, spin_us: int) -> None:
        super().__init__()
        self.batch = Dispatcher(None, None, self._epoll.fileno(), longest_wait(spin_us), spin_us)

    def kernel_events(self, count: int) -> Ready:
        return self.batch.others() if count else []

    def take_batch(self) -> list[tuple[int, int, Any]]:
        """The whole batch, for dispatch_one; the next wait begins when all are done."""
        batch = self.batch
        taken = [(fd, events, batch.owner(fd)) for fd, events in batch.take()]
        batch.queued = len(taken)
        return taken

    def dispatch_one(self, fd: int, events: int, owner: Any) -> None:
        """Dispatches one event: in debug mode each has a handle of its own, so that a slow callback
        is named. `owner` is for the handle's repr."""
        self.batch.queued -= 1
        self.batch.dispatch(fd, events)
