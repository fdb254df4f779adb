"""The selectors of loops: their base class, and the selector of direct mode.

`select` returns kernel (key, mask) pairs, as any selector does, and leaves the events of the loop's
own sockets in the dispatcher, `batch`. When a callback raises KeyboardInterrupt or SystemExit, the
rest of the batch stays, and no wait begins until it is done. The compiled Scheduler waits on the
dispatcher itself and hands the batch out; it calls the selector only for its descriptors. In debug
mode each event of a batch has a handle of its own, behind the callbacks scheduled before.
"""

import os
import select
import selectors
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from .._session.hot import Dispatcher

Ready = list[tuple[selectors.SelectorKey, int]]
_POLLED = (0, select.EPOLLIN, select.EPOLLOUT)  # of EVENT_READ, EVENT_WRITE
_NOT_READ = ~select.EPOLLIN
_NOT_WRITE = ~select.EPOLLOUT


def _replaced(handles: tuple[Any, Any], event: int, handle: Any) -> tuple[Any, Any]:
    # (that of add_reader, that of add_writer), a key's data
    reader, writer = handles
    return (handle, writer) if event == selectors.EVENT_READ else (reader, handle)


class BasePoller(selectors.EpollSelector):
    """Used by one loop. The data of its keys are a pair of handles."""

    _selector: select.epoll
    _fd_to_key: dict[int, selectors.SelectorKey]
    _fileobj_lookup: Callable[[Any], int]

    def __init__(self) -> None:
        super().__init__()
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # rung, never read
        self._selector.register(self.wake_fd, select.EPOLLIN | select.EPOLLET)
        self.batch: Any = None  # the loop's dispatcher

    def close(self) -> None:
        super().close()
        fd, self.wake_fd = self.wake_fd, -1
        if fd >= 0:
            os.close(fd)

    @property
    def pending(self) -> bool:
        """Are there events of a batch without a callback in the queue that will dispatch them?"""
        batch = self.batch
        return batch is not None and not batch.queued and batch.index < batch.count

    def select(self, timeout: float | None = None) -> Ready:
        batch = self.batch
        if batch is None:
            return super().select(timeout)
        if batch.queued or batch.index < batch.count:
            return []
        # Rounded up: never early.
        wait_ns = -1 if timeout is None else int(timeout * 1e9) + 1 if timeout > 0 else 0
        return self.kernel_events(batch.wait(wait_ns))

    def set_handle(self, fileobj: Any, event: int, handle: Any) -> Any:
        """The handle is to run when the descriptor is ready for `event`, EVENT_READ or EVENT_WRITE.
        Returns the one before it, or None. Raises ValueError for what is no descriptor, OSError."""
        fd = self._fileobj_lookup(fileobj)
        key = self._fd_to_key.get(fd)
        if key is None:
            self._selector.register(fd, _POLLED[event])
            handles = _replaced((None, None), event, handle)
            self._fd_to_key[fd] = selectors.SelectorKey(fileobj, fd, event, handles)
            return None
        self.modify(fileobj, key.events | event, _replaced(key.data, event, handle))
        return key.data[event >> 1]

    def take_handle(self, fileobj: Any, event: int) -> Any:
        """Ends what set_handle began. Returns the handle, or None."""
        key = self._fd_to_key.get(self._fileobj_lookup(fileobj))
        if key is None:
            return None
        if left := key.events & ~event:
            self.modify(fileobj, left, _replaced(key.data, event, None))
        else:
            del self._fd_to_key[key.fd]
            with suppress(OSError):  # it is closed
                self._selector.unregister(key.fd)
        return key.data[event >> 1]

    def watches(self, fd: int) -> bool:
        """Is the descriptor one of the selector's?"""
        return fd in self._fd_to_key

    def kernel_events(self, count: int) -> Ready:
        """(key, mask) pairs of the selector's descriptors, out of `count` events."""
        raise NotImplementedError

    def _keyed(self, events: Iterable[tuple[int, int]]) -> Ready:
        ready: Ready = []
        keys = self._fd_to_key
        for fd, mask in events:
            key = keys.get(fd)
            if key is not None:
                event = 0
                if mask & _NOT_READ:
                    event |= selectors.EVENT_WRITE
                if mask & _NOT_WRITE:
                    event |= selectors.EVENT_READ
                ready.append((key, event & key.events))
        return ready


class KernelPoller(BasePoller):
    """Of a loop in direct mode."""

    def __init__(self) -> None:
        super().__init__()
        self.batch = Dispatcher(None, None, self._selector.fileno(), -1, self._fd_to_key)

    def kernel_events(self, count: int) -> Ready:
        return self._keyed(self.batch.others()) if count else []

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
