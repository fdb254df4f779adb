"""The compiled half of the Python face (hot/*.c)."""

import asyncio
from asyncio import events, transports
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

class PipeReader:
    """In front of asyncio's _UnixReadPipeTransport."""

    def _read_ready(self) -> None: ...

class PipeWriter:
    """In front of asyncio's _UnixWritePipeTransport."""

    def write(self, data: Any, /) -> None: ...

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
    @property
    def waits(self) -> int: ...
    def __init__(self, *args: Any) -> None: ...
    def wait(self, ns: int, /) -> int: ...
    def skip(self) -> None: ...
    def others(self) -> list[tuple[int, int]]: ...
    def take(self) -> list[tuple[int, int]]: ...
    def dispatch(self, fd: int, events: int, /) -> None: ...
    def owner(self, fd: int, /) -> Any: ...
    def writable(self, fd: int, future: asyncio.Future[None], /) -> None: ...
    def forget(self, fd: int, future: asyncio.Future[None], /) -> None: ...
    def counters(self) -> dict[str, int]: ...
    def own(self) -> None: ...
    def is_own(self) -> bool: ...
    def close(self) -> None: ...

class Stream(transports._FlowControlMixin, asyncio.Transport):
    """A stream transport's short ways: data to its protocol, write() to its socket."""

    _loop: Any
    _protocol: Any
    _extra: dict[str, Any]
    _server: Any
    _lasting: Context | None
    _backlog: Any
    _write_context: Context | None
    _unsendable: OSError | None
    _sock: Any
    _bound: Any
    _peer: bytes | None
    _flushing: asyncio.Future[None] | None
    _conn_lost: int
    _protocol_connected: bool
    _open: bool
    _begun: bool
    _paused: bool
    _closing: bool
    _eof: bool
    _high_water: int
    _low_water: int
    _protocol_paused: bool
    _receiving: bool
    _sending: bool
    _deliver: Any
    _buffer_updated: Any
    _context: Context | None
    _handle: int
    def __init__(
        self,
        loop: Any,
        protocol: Any,
        handle: int,
        context: Context | None = None,
        extra: dict[str, Any] | None = None,
        client: int = ...,
        thread: int = ...,
        dispatcher: Dispatcher = ...,
        server: Any = None,
        sock: Any = None,
    ) -> None: ...
    def write(self, data: Any, /) -> None: ...
    def _send(self, data: Any, /) -> int: ...
    def _send_pieces(self, pieces: list[Any], /) -> int: ...
    @staticmethod
    def _send_kept() -> None: ...
    def begin(self, waiter: asyncio.Future[None] | None = None, /) -> None: ...
    def close(self) -> None: ...
    def is_closing(self) -> bool: ...
    def is_reading(self) -> bool: ...
    def get_protocol(self) -> asyncio.BaseProtocol: ...
    def _call_connection_lost(self, exc: BaseException | None, abort: bool = False, /) -> None: ...
    def _read_eof(self) -> None: ...
    def _resume(self) -> None: ...
    def _stop_reading(self) -> None: ...
    def _quiet(self) -> None: ...
    def _tell_writable(self, wanted: bool, /) -> None: ...
    def _choose_protocol(self, protocol: Any, /) -> None: ...
    def _choose_context(self, context: Context | None, /) -> None: ...
    def _detach(self) -> None: ...

class Acceptor:
    """Accepts the connections of a listening descriptor."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        fd: int,
        most: int,
        listener: Any,
        transport: type[Stream],
        plain: bool,
    ) -> None: ...
    def watch(self, on: bool, /) -> None: ...

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
    _forever: bool
    def _lag(self) -> tuple[float, list[tuple[float, int]]]: ...
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
    def get_debug(self) -> bool: ...
    def _timer_handle_cancelled(self, handle: Any, /) -> None: ...
    def _write_to_self(self) -> None: ...
    def _run_once(self) -> None: ...

class Tls:
    """The short ways between a stream and the protocol of a TLS connection."""

    _state: Any
    _incoming: Any
    _outgoing: Any
    _transport: Any
    _app_protocol: Any
    _write_backlog: Any
    _write_buffer_size: int
    _outgoing_high_water: int
    _incoming_high_water: int
    _app_protocol_is_buffer: bool
    _app_reading_paused: bool
    _app_writing_paused: bool
    _ssl_reading_paused: bool
    _ssl_writing_paused: bool
    def data_received(self, data: bytes, /) -> None: ...
    def write(self, data: Any, /) -> None: ...
    def _do_read(self) -> None: ...
    def _process_outgoing(self) -> None: ...
    def _use(self, dispatcher: Dispatcher, ssl: Any, /) -> None: ...
