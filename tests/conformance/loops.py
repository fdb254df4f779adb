"""Puts the loop under test where CPython's tests make theirs, and keeps a record of what ran.

The tests create loops in four ways: `asyncio.SelectorEventLoop(selector)`, `asyncio.EventLoop()`,
`asyncio.new_event_loop()` and whatever `asyncio.Runner` or IsolatedAsyncioTestCase ask the policy
for. The first two are names in the asyncio module; the other two end at the default policy's
`_loop_factory`. Both are replaced, before a test module is imported. Every loop made, and every
type of loop that ran, is recorded, so that a test which ran on another loop is never counted.
"""

from __future__ import annotations

import asyncio
import asyncio.base_events
import collections
import contextlib
import selectors
import warnings
from collections.abc import Callable
from typing import Any

LOOPS = ("asyncio", "uvloop", "ffloop", "direct", "fstack", "fstack-direct")


def maker(name: str) -> tuple[Callable[[], asyncio.AbstractEventLoop], type]:
    """The factory of the loop called `name`, and the type that it makes."""
    if name == "asyncio":
        stock = asyncio.SelectorEventLoop
        return (lambda: stock(selectors.EpollSelector())), stock
    if name == "uvloop":
        import uvloop

        class Loop(uvloop.Loop):
            # The test suite's own clean-up looks at this private name of asyncio's.
            _default_executor = type("Executor", (), {"shutdown": lambda self, wait: None})()

        return Loop, Loop
    if name == "ffloop":
        import ffloop
        from ffloop._loop.session_loop import SessionLoop

        return (lambda: ffloop.new_event_loop(instance="spawn")), SessionLoop
    if name == "direct":
        import ffloop
        from ffloop._loop.direct_loop import DirectLoop

        return (lambda: ffloop.new_event_loop(instance="direct")), DirectLoop
    if name in ("fstack", "fstack-direct"):  # FFLOOP_INSTANCE and its like say where F-Stack is
        import ffloop
        from ffloop._loop.session_loop import SessionLoop

        return ffloop.new_event_loop, SessionLoop
    raise ValueError(f"unknown loop {name!r}; one of {', '.join(LOOPS)}")


class Record:
    """What happened in this process."""

    def __init__(self) -> None:
        self.made = 0
        self.foreign: collections.Counter[str] = collections.Counter()
        self.submitted = 0  # operations on the rings of ffloop loops


def _count_submitted(record: Record) -> None:
    """Tells a test that ran over the rings from one that ran beside them."""
    import ffloop._loop.loop

    close = ffloop.Loop.close

    def close_and_tell(self: Any) -> None:
        if not self.is_closed() and not self.is_running():
            with contextlib.suppress(OSError):  # the session is gone: a test of that
                record.submitted += self.ffloop_stats()["submitted"]
        close(self)

    ffloop.Loop.close = close_and_tell  # type: ignore[method-assign]


def substitute(name: str) -> Record:
    make, kind = maker(name)
    record = Record()
    if name not in ("asyncio", "uvloop"):
        _count_submitted(record)

    def new_loop(selector: Any = None) -> asyncio.AbstractEventLoop:
        if selector is not None:
            selector.close()
        loop = make()
        if type(loop) is not kind:
            raise AssertionError(f"asked for {kind}, got {type(loop)}")
        record.made += 1
        return loop

    run_forever = asyncio.base_events.BaseEventLoop.run_forever

    def run_and_tell(self: asyncio.base_events.BaseEventLoop) -> None:
        # Loops that the test suite defines for itself (mocks) are its own business.
        if type(self) is not kind and not type(self).__module__.startswith("test."):
            record.foreign[f"{type(self).__module__}.{type(self).__qualname__}"] += 1
        run_forever(self)

    asyncio.base_events.BaseEventLoop.run_forever = run_and_tell  # type: ignore[method-assign]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        type(asyncio.get_event_loop_policy())._loop_factory = staticmethod(new_loop)  # type: ignore[attr-defined]
    asyncio.SelectorEventLoop = new_loop  # type: ignore[assignment,misc]
    if hasattr(asyncio, "EventLoop"):
        asyncio.EventLoop = new_loop  # type: ignore[assignment,misc]
    return record
