"""The selector: one C call waits for kernel descriptors and ring events together.

`select` returns kernel (key, mask) pairs, as any selector does, and leaves the ring's events in the
dispatcher, `batch`. The loop then schedules `dispatch` once for the whole batch, behind what was
scheduled before. When a callback raises KeyboardInterrupt or SystemExit, what is left of the batch
stays, and nothing is waited for (which would give its buffers back) until it is done. The compiled
turn (_native/hot/scheduler.c) waits on the dispatcher itself and comes here for kernel descriptors.
"""

import os
import select
import selectors
from collections.abc import Callable
from typing import Any

from .._session.binding import (
    EV_CLOSED,
    EV_FD,
    EV_LOST,
    EVENT_SIZE,
    Dispatcher,
    Event,
    Receiver,
    decode_events,
)
from .._session.configuration import SPIN_FOREVER
from .._session.session import Session

_Ready = list[tuple[selectors.SelectorKey, int]]
_NOT_READ = ~select.EPOLLIN
_NOT_WRITE = ~select.EPOLLOUT
_SIGNAL_CHECK_NS = 50_000_000  # a spin without end still lets Python look at its signals
_SIGNAL_CHECK_DIRECT_NS = 1_000_000


def _never(code: int) -> None: ...


class Poller(selectors.EpollSelector):
    """Used by one loop. `on_lost(errno)` is called when the session is gone."""

    _selector: select.epoll

    def __init__(self, session: Session, on_lost: Callable[[int], None], spin_us: int) -> None:
        super().__init__()
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # rung, never read
        self._selector.register(self.wake_fd, select.EPOLLIN | select.EPOLLET)
        self.batch: Any = None  # the session's dispatcher
        self._session: Session | None = None
        self._on_down = on_lost
        self._longest = -1  # of one wait: a stack that polls is not interrupted by signals
        if session.client.direct:
            self._longest = _SIGNAL_CHECK_DIRECT_NS
        elif spin_us == SPIN_FOREVER:
            self._longest = _SIGNAL_CHECK_NS
        session.selectors.add(self)
        self.attach(session)

    def attach(self, session: Session) -> None:
        """Waits on this session from now on."""
        epoll = self._selector
        bell, end = session.client.fds()
        epoll.register(bell, select.EPOLLIN | select.EPOLLET)
        epoll.register(end, select.EPOLLIN | select.EPOLLRDHUP)
        self._session = session
        self.batch = Dispatcher(session, self._dispatch, epoll.fileno(), self._longest)

    def detach(self) -> None:
        """Kernel descriptors only, until the next attach. Drops what is left of a batch."""
        session, self._session = self._session, None
        if session is None:
            return
        self.batch.close()
        self.batch = None
        epoll = self._selector
        for fd in session.fds():
            epoll.unregister(fd)

    def forget(self, fd: int) -> selectors.SelectorKey | None:
        """The library is about to close this descriptor: its key."""
        try:
            return self.unregister(fd)
        except KeyError:
            return None

    def renew(self) -> None:
        """In a forked child: descriptors of its own, since the parent goes on with these."""
        inherited = self._selector
        self._selector = select.epoll()
        inherited.close()
        wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        os.dup2(wake, self.wake_fd, inheritable=False)
        os.close(wake)
        self._selector.register(self.wake_fd, select.EPOLLIN | select.EPOLLET)
        for key in list(self.get_map().values()):
            events = (key.events & selectors.EVENT_READ and select.EPOLLIN) | (
                key.events & selectors.EVENT_WRITE and select.EPOLLOUT
            )
            self._selector.register(key.fd, events)

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
        if not count or self._session is None:
            return []
        ready: _Ready = []
        keys = self._fd_to_key  # type: ignore[attr-defined]
        for kind, fd, mask, _ in decode_events(self._session.events[: count * EVENT_SIZE]):
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

    def take_batch(self) -> list[tuple[Session, Event, Receiver | None]]:
        """The whole batch, for dispatch_one; no other is waited for until all are done."""
        session, batch = self._session, self.batch
        if session is None:
            return []
        view = session.events[: batch.count * EVENT_SIZE]
        taken = [event for event in decode_events(view) if event[0] != EV_FD]
        batch.skip()
        batch.queued = len(taken)
        return [(session, event, session.receivers.get(event[1])) for event in taken]

    def dispatch_one(self, session: Session, event: Event, receiver: Receiver | None) -> None:
        """As dispatch, for one event: in debug mode each is a handle of its own, so that slow
        callbacks are told apart. `receiver` is there to be seen in the handle's repr."""
        if self._session is session:
            self.batch.queued -= 1
            self._dispatch(*event)

    def _dispatch(self, kind: int, handle: int, arg: int, off: int) -> None:
        if kind == EV_LOST:
            self._on_down(arg)
            return
        if kind != EV_CLOSED and self._session is not None:
            self._session.receive(kind, handle, arg, off)
