"""Every private name of asyncio's that ffloop uses.

They are the same from Python 3.11 to 3.15, but for arguments that newer versions pass by keyword.
"""

import asyncio
import socket
import sys
from asyncio import (
    base_events,
    constants,
    format_helpers,
    selector_events,
    transports,
    trsock,
    unix_events,
)
from asyncio.log import logger as logger
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .._session.hot import Scheduler

Server: Any = base_events.Server
TransportSocket: Any = trsock.TransportSocket
FlowControl = transports._FlowControlMixin
UnixReadPipe: Any = unix_events._UnixReadPipeTransport  # type: ignore[attr-defined]
SelectorDatagram: Any = selector_events._SelectorDatagramTransport  # type: ignore[attr-defined]
UnixWritePipe: Any = unix_events._UnixWritePipeTransport  # type: ignore[attr-defined]

LOG_LOST_WRITES: int = constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES
ACCEPT_RETRY_DELAY: int = constants.ACCEPT_RETRY_DELAY
SENDFILE_TRY_NATIVE: Any = constants._SendfileMode.TRY_NATIVE
check_no_ssl: Callable[[Any], None] = base_events._check_ssl_socket  # type: ignore[attr-defined]

# Bytes that a read of asyncio's own transports of pipes makes room for: a whole pipe. malloc maps
# asyncio's max_size, 256 KiB, anew for each read.
READ_SIZE = 65536

# Python 3.13: create_server(keep_alive=), and an address that is not local is skipped.
PY313 = sys.version_info >= (3, 13)


_F = TypeVar("_F", bound=Callable[..., Any])


def typed_as(overridden: _F) -> Callable[[Callable[..., Any]], _F]:
    """Gives a method the type of asyncio's method that it overrides."""
    return lambda method: cast(_F, method)


def failure(handle: Any, exc: BaseException) -> dict[str, Any]:
    """The exception handler's context for a handle whose callback raised, as Handle._run's."""
    if not hasattr(handle, "_callback"):  # the dispatcher
        return {"message": "Exception in the event loop's sockets", "exception": exc}
    source = format_helpers._format_callback_source(handle._callback, handle._args)
    return {"message": f"Exception in callback {source}", "exception": exc, "handle": handle}


if TYPE_CHECKING:

    class SelectorLoop(asyncio.SelectorEventLoop):
        """asyncio's loop with the private names that ffloop overrides or calls."""

        # Of the compiled Scheduler.
        _batches: Any
        _watchers: Any
        _forever: bool
        _wake_fd: int

        def _wait_readable(self, fd: int) -> Any: ...
        def _wait_writable(self, fd: int) -> Any: ...
        def _queue_event(self, context: Any, callback: Any, *args: Any) -> None: ...
        def _hand_over(self, fd: Any) -> None: ...
        def _give_up(self, fd: int, waiter: Any) -> None: ...
        def _watched(self, fd: int, events: int) -> None: ...

        _ready: deque[Any]
        _selector: Any
        _transports: Any  # by descriptor
        _closed: bool
        _debug: bool
        _clock_resolution: float
        _csock: socket.socket  # of the self-pipe: signals write to it
        _signal_handlers: dict[int, Any]

        def _run_once(self) -> None: ...
        def _check_closed(self) -> None: ...
        def _check_running(self) -> None: ...
        def _process_events(self, event_list: Any) -> None: ...
        def _make_socket_transport(self, *args: Any, **more: Any) -> Any: ...
        def _make_ssl_transport(self, *args: Any, **more: Any) -> Any: ...
        def _make_datagram_transport(self, *args: Any, **more: Any) -> Any: ...
        def _start_serving(
            self, protocol_factory: Any, sock: Any, *args: Any, **more: Any
        ) -> None: ...
        def _stop_serving(self, sock: Any, **more: Any) -> None: ...
        def _add_writer(self, fd: Any, callback: Any, *args: Any, **more: Any) -> Any: ...
        def _remove_writer(self, fd: Any, **more: Any) -> bool: ...
        def _add_reader(self, fd: Any, callback: Any, *args: Any) -> Any: ...
        def _remove_reader(self, fd: Any, **more: Any) -> bool: ...
        def _sock_write_done(self, fd: int, fut: Any, handle: Any = None) -> None: ...
        def _ensure_fd_no_transport(self, fd: Any, **more: Any) -> None: ...
        async def _connect_sock(
            self, exceptions: Any, addr_info: Any, local_addr_infos: Any = None, **more: Any
        ) -> Any: ...
        async def _ensure_resolved(self, address: Any, **kwargs: Any) -> Any: ...
        async def _create_server_getaddrinfo(
            self, host: Any, port: Any, family: Any, flags: Any
        ) -> Any: ...
        def _check_sendfile_params(self, sock: Any, file: Any, offset: int, count: Any) -> None: ...
        async def _sendfile_fallback(
            self, transp: Any, file: Any, offset: int, *args: Any, **more: Any
        ) -> Any: ...
        async def _sendfile_native(
            self, transp: Any, file: Any, offset: int, count: Any
        ) -> Any: ...
        async def _sock_sendfile_fallback(
            self, sock: Any, file: Any, offset: int, *args: Any, **more: Any
        ) -> Any: ...
        async def _sock_sendfile_native(
            self, sock: Any, file: Any, *args: Any, **more: Any
        ) -> Any: ...

else:

    class SelectorLoop(Scheduler, asyncio.SelectorEventLoop):
        """asyncio's loop with its queues, timers and iteration compiled."""


def transport_repr(transport: Any, number: str, reads: bool, sends: bool, unsent: int) -> str:
    """As asyncio's transports; `unsent`: bytes."""
    info = [type(transport).__name__]
    if not transport._open:
        info.append("closed")
    elif transport._closing:
        info.append("closing")
    info.append(number)
    if transport._loop is not None and not transport._loop.is_closed():
        info.append("read=polling" if reads else "read=idle")
        info.append(f"write=<{'polling' if sends else 'idle'}, bufsize={unsent}>")
    return f"<{' '.join(info)}>"
