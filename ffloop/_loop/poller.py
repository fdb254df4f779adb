"""The selector of a loop with a session: one C call waits for kernel descriptors and the session's
events together. A wait gives the last batch's buffers back, so none begins before that is done.
"""

import os
import select
from collections.abc import Callable

from .._session.binding import (
    EV_CLOSED,
    EV_FD,
    EV_LOST,
    EVENT_SIZE,
    Event,
    Receiver,
    decode_events,
)
from .._session.hot import Dispatcher
from .._session.session import Session
from .kernel_poller import BasePoller, Ready, longest_wait


def _never(code: int) -> None: ...


class Poller(BasePoller):
    """Of a loop with a session. on_lost(errno) is called when the session is lost."""

    def __init__(self, session: Session, on_lost: Callable[[int], None], spin_us: int) -> None:
        super().__init__()
        self._session: Session | None = None
        self._on_lost = on_lost
        self._longest = longest_wait(spin_us)
        session.selectors.add(self)
        self.attach(session)

    def attach(self, session: Session) -> None:
        """Waits on this session from now on."""
        epoll = self._epoll
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
        for fd in session.fds():
            self._epoll.unregister(fd)

    def renew(self) -> None:
        """In a forked child: makes new descriptors, since the parent goes on with the old ones."""
        self._epoll.close()
        self._epoll = select.epoll()
        wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        os.dup2(wake, self.wake_fd, inheritable=False)
        os.close(wake)
        self._epoll.register(self.wake_fd, select.EPOLLIN | select.EPOLLET)
        self.move(self._epoll.fileno())

    def close(self) -> None:
        super().close()
        self._on_lost = _never  # the loop's: without it the two go by their reference counts

    def kernel_events(self, count: int) -> Ready:
        if not count or self._session is None:
            return []
        events = decode_events(self._session.events[: count * EVENT_SIZE])
        return [(fd, mask) for kind, fd, mask, _ in events if kind == EV_FD]

    # ---- dispatch ----

    def take_batch(self) -> list[tuple[Session, Event, Receiver | None]]:
        """The whole batch, for dispatch_one; the next wait begins when all are done."""
        session, batch = self._session, self.batch
        if session is None:
            return []
        view = session.events[: batch.count * EVENT_SIZE]
        taken = [event for event in decode_events(view) if event[0] != EV_FD]
        batch.skip()
        batch.queued = len(taken)
        return [(session, event, session.receivers.get(event[1])) for event in taken]

    def dispatch_one(self, session: Session, event: Event, receiver: Receiver | None) -> None:
        """Dispatches one event: in debug mode each has a handle of its own, so that a slow callback
        is named. `receiver` is for the handle's repr."""
        if self._session is session:
            self.batch.queued -= 1
            self._dispatch(*event)

    def _dispatch(self, kind: int, handle: int, arg: int, off: int) -> None:
        if kind == EV_LOST:
            self._on_lost(arg)
            return
        if kind != EV_CLOSED and self._session is not None:
            self._session.receive(kind, handle, arg, off)
