"""SocketTransport: the base class of the transports of connected stream sockets.

The order of callbacks and the rules of closing are those of asyncio's _SelectorSocketTransport.
Bytes are a session's (StreamTransport) or a kernel socket's (DirectTransport). Reading callbacks
run in a context of their own, as asyncio's reader handles do; from Python 3.15 on all callbacks of
a connection run in one.

The compiled base class (_native/hot) passes data to a protocol that reads, writes where there is no
backlog, and begins and ends connections; all else is here.
"""

import asyncio
import contextlib
import contextvars
import math
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any

from .._session.hot import Stream
from ..errors import error
from .asyncio_private import (
    LOG_LOST_WRITES,
    SENDFILE_TRY_NATIVE,
    TransportSocket,
    logger,
    transport_repr,
)
from .backlog import Backlog

EAGAIN = -11
_JOIN = 64 * 1024  # bytes: writelines() joins what is not more
_GATHER = 64  # pieces of one system call
CLOSED = "Connection is closed by peer"
READ_FAILED = "Fatal read error on socket transport"
_WRITE_FAILED = "Fatal write error on socket transport"
_DATA_FAILED = "Fatal error: protocol.data_received() call failed."
MISSING: Any = object()


class SocketTransport(Stream):
    """A connected stream socket. Made by the loop, never by the user.

    Its state is the base class's: `_receiving` is true while data goes straight to the protocol
    (begun, not paused, not closing), `_sending` while write() goes straight out (no backlog, not at
    its end).
    """

    _start_tls_compatible = True
    _sendfile_compatible = SENDFILE_TRY_NATIVE
    max_size = 256 * 1024

    # _reads_on: is it to read once the sendfile under way has ended?
    __slots__ = ("__dict__", "__weakref__", "_reads_on")

    if TYPE_CHECKING:  # of asyncio's base class

        def _maybe_pause_protocol(self) -> None: ...
        def _maybe_resume_protocol(self) -> None: ...

    # ---- where the bytes are: the subclass's, or the base class's in direct mode ----

    def _enter(self) -> None:
        """Raises RuntimeError in a thread that may not use the transport."""
        raise NotImplementedError

    def _passed_on(self, call: Callable[[], None]) -> bool:
        """True: the loop's thread, which is another one, will make the call."""
        raise NotImplementedError

    def _ended(self) -> OSError | None:
        """The exception of a socket whose stack has gone."""
        return None

    def _forget_unread(self) -> None:
        """Drops data that has arrived and was not delivered."""

    def _shutdown(self) -> None:
        """Sends the end of the stream."""
        raise NotImplementedError

    async def _send_file(self, file: Any, offset: int, count: int | None) -> int:
        """Sends as sendfile(2), while nobody else writes. Returns the number of bytes. Raises
        SendfileNotAvailableError where that cannot be."""
        raise NotImplementedError

    def _release(self, abort: bool) -> None:
        """Lets go of a session's socket."""
        raise NotImplementedError

    def _abandon(self) -> None:
        """As _release, for a transport that was collected, perhaps in another thread."""
        raise NotImplementedError

    # ---- reading ----

    def _new_context(self) -> contextvars.Context:
        return contextvars.copy_context() if self._lasting is None else self._lasting

    def _run(self, callback: Callable[..., object], *args: Any) -> None:
        # In the context of reading callbacks; one that was detached by a callback has none.
        (self._context or self._new_context()).run(callback, *args)

    def _fault(self, exc: BaseException) -> None:
        # data_received raised; called by the compiled half too.
        self._run(self._fatal_error, exc, _DATA_FAILED)

    def _fill_failed(self, exc: BaseException) -> None:
        self._run(self._fatal_error, exc, "Fatal error: protocol.get_buffer() call failed.")

    def _update_failed(self, exc: BaseException) -> None:
        self._run(self._fatal_error, exc, "Fatal error: protocol.buffer_updated() call failed.")

    def on_eof(self) -> None:
        if self._unsendable is None or isinstance(self._unsendable, BrokenPipeError):
            self._run(self._read_eof)
        else:  # a reset that the send was told of
            self._run(self._fatal_error, self._unsendable, READ_FAILED)

    def _log_eof(self) -> None:
        logger.debug("%r received EOF", self)

    def _eof_failed(self, exc: BaseException) -> None:
        self._fatal_error(exc, "Fatal error: protocol.eof_received() call failed.")

    def _kept_open(self) -> None:
        # Writing goes on after the peer's end, if it can.
        if self._unsendable is not None:
            self._fatal_error(self._unsendable, _WRITE_FAILED)

    def pause_reading(self) -> None:
        if self._flushing is not None:
            self._reads_on = False
            return
        if self._closing or self._paused:
            return
        self._enter()
        self._paused = True
        self._receiving = False
        if self._begun:
            self._stop_reading()
        if self._loop.get_debug():
            logger.debug("%r pauses reading", self)

    def resume_reading(self) -> None:
        if self._flushing is not None:
            self._reads_on = True
            return
        if self._closing or not self._paused:
            return
        self._enter()
        self._paused = False
        if self._begun:
            self._choose_context(self._lasting)
            self._resume()
        if self._loop.get_debug():
            logger.debug("%r resumes reading", self)

    # ---- writing ----

    def _write_slow(self, data: Any) -> None:
        # What write(), the base class's, does not do by itself.
        self._enter()
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"data argument must be a bytes-like object, not {type(data).__name__!r}"
            )
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._flushing is not None:
            raise RuntimeError("unable to write; sendfile is in progress")
        if not data:
            return
        if self._conn_lost:
            if self._conn_lost >= LOG_LOST_WRITES:
                logger.warning("socket.send() raised exception.")
            self._conn_lost += 1
            return
        if self._unsendable is not None:
            return
        if self._backlog is not None:
            self._backlog.append(data if type(data) is bytes else bytes(data))
            self._maybe_pause_protocol()
            return
        view = _flat(data)
        sent = self._send(view)
        if sent != len(view):
            self._write_rest([view], sent)

    def _write_rest(self, chunks: list[Any], sent: int) -> None:
        # So many bytes of the chunks were sent, not all; or -errno. The compiled half calls it too.
        if sent < 0 and sent != EAGAIN:
            self._sending_failed(sent)
        else:
            self._keep(_after(chunks, max(sent, 0)))

    def _keep(self, chunks: list[Any]) -> None:
        # The caller may change what is not bytes after we return.
        first, *rest = (chunk if _is_fixed(chunk) else bytes(chunk) for chunk in chunks)
        self._backlog = Backlog(first)
        for chunk in rest:
            self._backlog.append(chunk)
        self._sending = False
        self._write_context = self._new_context()
        self._tell_writable(True)
        self._maybe_pause_protocol()

    def tell_paused(self) -> None:
        """Repeats pause_writing to a protocol that came while writing was paused."""
        if self._protocol_paused and not self._conn_lost:
            self._protocol_paused = False
            self._maybe_pause_protocol()

    def _sending_failed(self, code: int) -> None:
        # What the peer had sent before is read first, and its end, which is near, is the
        # connection's: an answer is not lost because what was still being sent was refused.
        ended = self._ended()
        exc = ended or error(-code)
        if not self._receiving or ended is not None:  # nobody reads
            self._fatal_error(exc, _WRITE_FAILED)
            return
        self._unsendable = exc
        self._backlog = self._write_context = None
        self._sending = False
        self._tell_writable(False)
        if not self._protocol_paused:  # a task that only writes would never learn
            self._protocol_paused = True
            try:
                self._protocol.pause_writing()
            except Exception as failure:  # as asyncio's _maybe_pause_protocol()
                self._loop.call_exception_handler(
                    {
                        "message": "protocol.pause_writing() failed",
                        "exception": failure,
                        "transport": self,
                        "protocol": self._protocol,
                    }
                )

    def on_writable(self) -> None:
        if self._backlog is not None and self._write_context is not None:
            self._write_context.run(self._flush)
        else:
            self._flush_told()

    def _flush(self) -> None:
        backlog = self._backlog
        while not self._conn_lost:
            while backlog:
                data = backlog.take()
                size = len(data)
                sent = self._send(data)
                if sent == size:
                    continue
                if sent < 0 and sent != EAGAIN:
                    self._sending_failed(sent)
                    return
                backlog.put_back(memoryview(data)[sent:] if sent > 0 else data)
                self._maybe_resume_protocol()
                return
            self._maybe_resume_protocol()  # which may write more
            if not backlog:
                break
        else:
            return
        self._backlog = self._write_context = None
        self._tell_writable(False)
        self._flushed()

    def _flushed(self) -> None:
        if self._closing:
            self._conn_lost += 1
            self._call_connection_lost(None)
        elif self._eof:
            self._shutdown()
        else:
            self._sending = self._flushing is None
        self._flush_told()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        if self._eof:
            raise RuntimeError("Cannot call writelines() after write_eof()")
        chunks = [_flat(data) for data in list_of_data]
        large = sum(map(len, chunks)) > _JOIN
        if large:
            self._send_kept()
        if not large or not self._sending:
            self.write(b"".join(chunks))
            return
        self._enter()
        while chunks:
            batch = chunks[:_GATHER]
            sent = self._send_pieces(batch)
            if sent != sum(map(len, batch)):
                self._write_rest(chunks, sent)
                return
            del chunks[:_GATHER]

    def write_eof(self) -> None:
        self._send_kept()
        if self._closing or self._eof:
            return
        self._enter()
        self._eof = True
        self._sending = False
        if self._backlog is None and self._unsendable is None:
            self._shutdown()

    def can_write_eof(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: Any = None, low: Any = None) -> None:
        limits = (x if x is None else math.floor(min(x, sys.maxsize)) for x in (high, low))
        super().set_write_buffer_limits(*limits)

    def get_write_buffer_size(self) -> int:
        self._send_kept()
        return self._backlog.size if self._backlog is not None else 0

    # ---- sendfile ----

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """While it lasts, nothing is queued, write() is refused and nothing is read."""
        self._enter()
        if self._flushing is not None:
            raise RuntimeError("Empty waiter is already set")
        reads = self.is_reading()
        self.pause_reading()
        self._send_kept()
        self._reads_on = reads
        self._flushing = self._loop.create_future()
        self._sending = False
        try:
            if self._backlog is None:
                self._flushing.set_result(None)
            await self._flushing
            yield
        finally:
            self._flushing = None
            self._sending = self._backlog is None and not (
                self._conn_lost or self._eof or self._unsendable
            )
            if self._reads_on:
                self.resume_reading()

    def _flush_told(self) -> None:
        waiter = self._flushing
        if waiter is not None and not waiter.done():
            if self._open:
                waiter.set_result(None)
            else:
                waiter.set_exception(self._unsendable or ConnectionError(CLOSED))

    # ---- closing ----

    def abort(self) -> None:
        if not self._passed_on(self.abort):
            self._force_close(None)

    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        if isinstance(exc, OSError):
            if self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=exc)
        else:
            self._loop.call_exception_handler(
                {
                    "message": message,
                    "exception": exc,
                    "transport": self,
                    "protocol": self._protocol,
                }
            )
        self._force_close(exc)

    def _force_close(self, exc: BaseException | None) -> None:
        self._send_kept()
        if self._conn_lost:
            return
        self._backlog = None
        self._forget_unread()
        self._closing = True
        self._receiving = self._sending = False
        self._conn_lost += 1
        self._quiet()
        self._loop.call_soon(self._call_connection_lost, exc, True, context=self._lasting)

    # ---- the rest ----

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol_connected = True
        if self._open:
            self._choose_protocol(protocol)
        else:
            self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        # Made when first asked: most connections never need them.
        value = self._extra.get(name, MISSING)
        if value is not MISSING:
            return value
        if name not in ("peername", "sockname", "socket"):
            return default
        value = self._extra[name] = self._make_extra(name)
        return value

    def _make_extra(self, name: str) -> Any:
        raise NotImplementedError

    def _named(self, number: str) -> str:
        size = self.get_write_buffer_size()
        return transport_repr(self, number, self._receiving, bool(self._backlog), size)


os.register_at_fork(before=Stream._send_kept)  # else the child would send it, too


class Socket(TransportSocket):  # type: ignore[misc]
    """The socket that get_extra_info() gives. What was written goes before whatever is done with
    its descriptor."""

    __slots__ = ()

    def fileno(self) -> int:
        Stream._send_kept()
        return int(super().fileno())

    def dup(self) -> Any:
        Stream._send_kept()
        return super().dup()

    def shutdown(self, how: int) -> None:
        Stream._send_kept()
        super().shutdown(how)


def set_nodelay(sock: Any) -> None:
    """Of any TCP socket, as uvloop; asyncio leaves out those that were made without a protocol."""
    tcp = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
    if tcp and sock.proto in (0, socket.IPPROTO_TCP):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _flat(data: Any) -> Any:
    """Contiguous bytes: those of a view that is not contiguous are copied."""
    if type(data) is bytes:
        return data
    view = memoryview(data)
    return view.cast("B") if view.c_contiguous else view.tobytes()


def _after(chunks: list[Any], sent: int) -> list[Any]:
    """The chunks without their first bytes; the first chunk is a view where it was cut."""
    for i, chunk in enumerate(chunks):
        if sent < len(chunk):
            return [memoryview(chunk)[sent:] if sent else chunk, *chunks[i + 1 :]]
        sent -= len(chunk)
    return []


def _is_fixed(chunk: Any) -> bool:
    return type(chunk) is bytes or (type(chunk) is memoryview and type(chunk.obj) is bytes)


if TYPE_CHECKING:
    _: type[asyncio.Transport] = SocketTransport
