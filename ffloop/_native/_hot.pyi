"""The compiled half of the Python face (hot/*.c)."""

import asyncio
from asyncio import events
from collections.abc import Callable
from contextvars import Context
from typing import Any

class Handle(events.Handle):
    _callback: Any
    _args: Any
    _context: Any
    _loop: Any
    _repr: Any
    _source_traceback: Any
    _cancelled: bool
    def cancel(self) -> None: ...

class TimerHandle(events.TimerHandle):
    _callback: Any
    _args: Any
    _context: Any
    _loop: Any
    _repr: Any
    _source_traceback: Any
    _cancelled: bool
    _when: float
    _scheduled: bool
    def cancel(self) -> None: ...

class Queue:
    """Handles that are to run, first come first served."""

    def append(self, item: Any, /) -> None: ...
    def popleft(self) -> Any: ...
    def clear(self) -> None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...

class Dispatcher:
    """Waits for batches of events and hands them to their receivers."""

    @property
    def index(self) -> int: ...
    @property
    def count(self) -> int: ...
    queued: int
    def __init__(self, *args: Any) -> None: ...
    def wait(self, ns: int, /) -> int: ...
    def run(self) -> None: ...
    def skip(self) -> None: ...
    def close(self) -> None: ...

class Stream:
    """A transport's half: reads and writes while nothing is in their way."""

    paused: bool
    stalled: bool
    enter: Any
    deliver: Any
    def __init__(self, *args: Any) -> None: ...
    def write(self, data: Any) -> None: ...
    def detach(self) -> None: ...

class Scheduler:
    """Queues and runs a loop's callbacks."""

    _closed: bool
    _debug: bool
    _stopping: bool
    _ready: Any  # a Queue
    _scheduled: Any
    _timer_cancelled_count: int
    _clock_resolution: float
    _wake_fd: int
    _batches: Dispatcher | None
    _dispatch: Handle | None
    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle: ...
    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle: ...
    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle: ...
    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle: ...
    def time(self) -> float: ...
    def create_future(self) -> asyncio.Future[Any]: ...
    def _timer_handle_cancelled(self, handle: Any, /) -> None: ...
    def _write_to_self(self) -> None: ...
    def _run_once(self) -> None: ...
