"""Whose session a new stack socket belongs to.

In a coroutine it is the running loop's; else that of this thread's newest open loop; else a session
of the thread's own, attached when first needed, for programs without a loop: plain non-blocking
calls, FFSelector, Kqueue. A loop that is made later in the thread takes that session over, sockets
and all, so that a listener made before `ffloop.run()` is the loop's; not while a selector uses it.
"""

import asyncio
import contextlib
import errno
import threading
import weakref
from typing import Any

from . import configuration, discovery
from .binding import EV_CLOSED, EV_DOWN, EV_FD, Ring, decode_events, receive
from .configuration import Config

_CLOSED_MOST = 256


class Session(Ring):
    """A thread's own session. Used by that thread only: RuntimeError in any other.

    `users`: the Readiness objects that wait on it (of FFSelector and Kqueue).
    """

    def __init__(self, path: str, config: Config, timeout_ms: int | None = None) -> None:
        self.thread: int | None = threading.get_ident()
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()
        self.config = config
        self.embedded = False
        self.down = False  # its sockets have been told that the instance is gone
        self._turning = False
        self._closed = 0  # sockets, since the last turn
        super().__init__(path, config, timeout_ms)

    def _alive(self) -> Any:
        if self.thread is not None and threading.get_ident() != self.thread:
            raise RuntimeError(
                "a stack socket made outside of a loop is used by the thread that made it"
            )
        return super()._alive()

    def turn(self, epfd: int, timeout_ns: int) -> list[tuple[int, int]]:
        """Waits once (-1: for ever) and tells the sockets; the kernel descriptors of `epfd` that
        are ready are returned as (fd, epoll events)."""
        if self.orphans:
            self.close_orphans()
        ready = []
        self._turning = True
        try:
            for kind, handle, arg, off in decode_events(self.wait(epfd, timeout_ns)):
                if kind == EV_FD:
                    ready.append((handle, arg))
                elif kind == EV_DOWN:
                    self._went_down()
                elif kind != EV_CLOSED:
                    receive(self, kind, handle, arg, off)
        finally:
            self._turning = False
            self._closed = 0
        return ready

    # A program that never waits, but tries each call until it succeeds, has its turns here: a
    # closed socket's handle is free again, and forgotten, after one.

    def open_socket(self, family: int, kind: int, proto: int = 0, nodelay: bool = False) -> int:
        try:
            return super().open_socket(family, kind, proto, nodelay)
        except OSError as exc:
            if exc.errno != errno.EMFILE or not self._may_turn():
                raise
        self.ping()  # what was closed before is free when this is answered
        self.turn(-1, 0)
        return super().open_socket(family, kind, proto, nodelay)

    def close_socket(self, handle: int, abort: bool = False) -> None:
        super().close_socket(handle, abort)
        self._closed += 1
        if self._closed >= _CLOSED_MOST and self._may_turn():
            self.turn(-1, 0)

    def _may_turn(self) -> bool:
        return self.thread is not None and not self._turning and not self.closed and not self.dead

    def _went_down(self) -> None:
        self.down = True
        # Calls on its sockets say ECONNRESET from now on; whoever waits for one is to try it.
        for receiver in list(self.receivers.values()):
            receiver.on_error(errno.ECONNRESET)

    def __del__(self) -> None:
        # The thread and the last of its sockets are gone.
        with contextlib.suppress(Exception):
            self.close()


class _Mine(threading.local):
    loop: Ring | None = None  # the newest open loop's
    own: Session | None = None


_mine = _Mine()


def of_loop(ring: Ring) -> None:
    """This thread's newest loop is attached by `ring`."""
    _mine.loop = ring


def take_over(config: Config) -> tuple[Ring, bool] | None:
    """For a new loop: the thread's own session and whether its instance is embedded, if there is
    one that was attached as `config` says and that no selector uses."""
    own = _mine.own
    if own is None or own.closed or own.dead or own.config != config or len(own.users):
        return None
    if config.instances != 1:
        return None
    _mine.own = own.thread = None
    return own, own.embedded


def end() -> None:
    """Ends the thread's own session, if it has one, and its sockets with it."""
    own, _mine.own = _mine.own, None
    if own is not None:
        own.close()


def current() -> Ring:
    """The session for a new socket. Raises InstanceError when it cannot attach."""
    live_ring = getattr(asyncio._get_running_loop(), "_live_ring", None)
    if live_ring is not None:
        return live_ring()  # type: ignore[no-any-return]
    ring = _mine.loop
    if ring is not None and not ring.closed and not ring.dead:
        return ring
    own = _mine.own
    if own is None or own.closed or own.dead:
        config = configuration.load()
        made, embedded = discovery.attach(config, discovery.next_index(config), make=Session)
        assert isinstance(made, Session)
        made.embedded = embedded
        own = _mine.own = made
    return own
