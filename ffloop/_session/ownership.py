"""The session that a new stack socket belongs to.

In a coroutine it is the running loop's; else that of the thread's newest open loop; else a session
of the thread's own, attached when first needed, for programs without a loop: plain non-blocking
calls, FFSelector, Kqueue. A loop that is made later in the thread takes that session over with its
sockets, so that a listener made before `ffloop.run()` is the loop's, unless a selector uses the
session.
"""

import asyncio
import threading
import weakref

from . import choice, configuration, discovery
from .configuration import Config
from .session import Session


class _Mine(threading.local):
    def __init__(self) -> None:
        self.loops: list[weakref.ref[Session]] = []  # of this thread's loops, the newest last
        self.own: Session | None = None
        self.config: Config | None = None  # that `own` was attached by


_mine = _Mine()


def _open_loops() -> list["weakref.ref[Session]"]:
    return [ref for ref in _mine.loops if (session := ref()) is not None and not session.closed]


def of_loop(session: Session) -> None:
    """This thread's newest loop has this session."""
    _mine.loops = [*_open_loops(), weakref.ref(session)]


def take_over(config: Config) -> Session | None:
    """For a new loop: the thread's own session, if it was attached by `config` and no selector uses
    it; else None."""
    own = _mine.own
    if own is None or _mine.config != config or config.instances != 1:
        return None
    own.check()
    if not own.attached or len(own.users):
        return None
    _mine.own = None
    return own


def end() -> None:
    """Ends the thread's own session, if it has one, and its sockets with it."""
    own, _mine.own = _mine.own, None
    if own is not None:
        own.close()


def is_direct() -> bool:
    """Whether a new socket is the kernel's."""
    running = asyncio._get_running_loop()
    if hasattr(running, "_live_session"):
        return False
    if hasattr(running, "_enter_thread"):
        return True
    if _open_loops() or _mine.own is not None:
        return False
    return choice.is_direct(configuration.load())


def current() -> Session:
    """The session for a new socket. Raises InstanceError when it cannot attach."""
    live_session = getattr(asyncio._get_running_loop(), "_live_session", None)
    if live_session is not None:
        return live_session()  # type: ignore[no-any-return]
    _mine.loops = _open_loops()
    newest = _mine.loops[-1]() if _mine.loops else None
    if newest is not None:
        return newest
    own = _mine.own
    if own is not None:
        own.check()
    if own is None or not own.attached:
        config = configuration.load()
        client = discovery.attach(config, choice.next_index(config))
        own = _mine.own = Session(client)
        _mine.config = config
    return own
