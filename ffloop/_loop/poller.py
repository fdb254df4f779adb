"""The selector: one C call waits for kernel descriptors and ring events together.

`select` returns kernel (key, mask) pairs, as any selector does, and leaves the ring's events in the
dispatcher, `batch`. The loop then schedules `dispatch` once for the whole batch, behind what was
scheduled before. When a callback raises KeyboardInterrupt or SystemExit, what is left of the batch
stays, and nothing is waited for (which would give its buffers back) until it is done. The compiled
turn (_native/hot/turn.c) waits on the dispatcher itself and comes here for kernel descriptors.
"""

import os
import select
import selectors
from collections.abc import Callable
from typing import Any

from .._session.binding import (
    EV_CLOSED,
    EV_DOWN,
    EV_FD,
    EVENT_SIZE,
    Dispatcher,
    Event,
    Receiver,
    Ring,
    decode_events,
    receive,
)
from .._session.configuration import SPIN_FOREVER

_Ready = list[tuple[selectors.SelectorKey, int]]
_NOT_READ = ~select.EPOLLIN
_NOT_WRITE = ~select.EPOLLOUT
_SIGNAL_CHECK_NS = 50_000_000  # a spin without end still lets Python look at its signals


def _never(code: int) -> None: ...


class Poller(selectors.EpollSelector):
    """Used by one loop. `on_down(errno)` is called when the session is gone."""

    def __init__(self, ring: Ring, on_down: Callable[[int], None], spin_us: int) -> None:
        super().__init__()
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # rung, never read
        epoll: Any = self._selector  # type: ignore[attr-defined]
        epoll.register(self.wake_fd, select.EPOLLIN | select.EPOLLET)
        self.batch: Any = None  # the ring's dispatcher
        self._ring: Ring | None = None
        self._on_down = on_down
        self._longest = _SIGNAL_CHECK_NS if spin_us == SPIN_FOREVER else -1
        self.attach(ring)

    def attach(self, ring: Ring) -> None:
        """Waits on this ring from now on."""
        epoll: Any = self._selector  # type: ignore[attr-defined]
        doorbell, session = ring.fds()
        epoll.register(doorbell, select.EPOLLIN | select.EPOLLET)
        epoll.register(session, select.EPOLLIN | select.EPOLLRDHUP)
        self._ring = ring
        self.batch = Dispatcher(ring, self._dispatch, epoll.fileno(), self._longest)

    def detach(self) -> None:
        """Kernel descriptors only, until the next attach. Drops what is left of a batch."""
        ring, self._ring = self._ring, None
        if ring is None:
            return
        self.batch.close()
        self.batch = None
        if not ring.closed:
            epoll: Any = self._selector  # type: ignore[attr-defined]
            for fd in ring.fds():
                epoll.unregister(fd)

    def close(self) -> None:
        super().close()
        self._on_down = _never  # the loop's: without it the two go by their reference counts
        fd, self.wake_fd = self.wake_fd, -1
        if fd >= 0:
            os.close(fd)

    @property
    def pending(self) -> bool:
        """Are there events of a batch that nobody has been scheduled to dispatch?"""
        batch = self.batch
        return batch is not None and not batch.queued and batch.index < batch.count

    def select(self, timeout: float | None = None) -> _Ready:
        batch = self.batch
        if batch is None:
            return super().select(timeout)
        if batch.queued or batch.index < batch.count:
            return []
        # Rounded up: never early.
        wait_ns = -1 if timeout is None else int(timeout * 1e9) + 1 if timeout > 0 else 0
        return self.kernel_events(batch.wait(wait_ns))

    def kernel_events(self, count: int) -> _Ready:
        """What kernel descriptors have to say, out of the first `count` events of the batch."""
        if not count or self._ring is None:
            return []
        ready: _Ready = []
        keys = self._fd_to_key  # type: ignore[attr-defined]
        for kind, fd, mask, _ in decode_events(self._ring.events[: count * EVENT_SIZE]):
            if kind == EV_FD:
                key = keys.get(fd)
                if key is not None:
                    event = 0
                    if mask & _NOT_READ:
                        event |= selectors.EVENT_WRITE
                    if mask & _NOT_WRITE:
                        event |= selectors.EVENT_READ
                    ready.append((key, event & key.events))
        return ready

    # ---- dispatch ----

    def dispatch(self) -> None:
        """Hands every event of the batch to its receiver."""
        if self.batch is not None:
            self.batch.run()

    def take_batch(self) -> list[tuple[Ring, Event, Receiver | None]]:
        """The whole batch, for dispatch_one; no other is waited for until all are done."""
        ring, batch = self._ring, self.batch
        if ring is None:
            return []
        view = ring.events[: batch.count * EVENT_SIZE]
        taken = [event for event in decode_events(view) if event[0] != EV_FD]
        batch.skip()
        batch.queued = len(taken)
        return [(ring, event, ring.receivers.get(event[1])) for event in taken]

    def dispatch_one(self, ring: Ring, event: Event, receiver: Receiver | None) -> None:
        """As dispatch, for one event: in debug mode each is a handle of its own, so that slow
        callbacks are told apart. `receiver` is there to be seen in the handle's repr."""
        if self._ring is ring:
            self.batch.queued -= 1
            self._dispatch(*event)

    def _dispatch(self, kind: int, handle: int, arg: int, off: int) -> None:
        if kind == EV_DOWN:
            self._on_down(arg)
            return
        if kind != EV_CLOSED and self._ring is not None:
            receive(self._ring, kind, handle, arg, off)
