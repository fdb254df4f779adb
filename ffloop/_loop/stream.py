"""StreamTransport: asyncio's transport for a connected stack socket. The hot path.

Events come from the poller's dispatch (`on_data` and so on) and writes go straight into shared
memory. The order of callbacks and every rule of closing are those of asyncio's own
_SelectorSocketTransport; what differs is only where bytes come from and go to. Each reading
callback runs in a context of its own, as asyncio's reader handles do; from Python 3.15 on all
callbacks of a connection run in one.

The shortest ways, plain data to a reading protocol and write() of bytes with nothing in front of
it, are compiled (_native/hot/stream.c) and end here whenever there is anything more to think of.
"""

import asyncio
import collections
import contextvars
import warnings
from asyncio import protocols
from collections.abc import Callable, Iterable
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import TYPE_CHECKING, Any

from .._net.endpoint import Endpoint
from .._net.sockets import StackSocket
from .._session.binding import WRITE, Stream, error, flat, raw_push, raw_send, raw_untake
from .asyncio_private import (
    LOG_LOST_WRITES,
    SENDFILE_FALLBACK,
    SERVER_KNOWS_CLIENTS,
    FlowControl,
    TransportSocket,
    attach,
    detach,
    logger,
)
from .backlog import Backlog

_EAGAIN = -11
_JOIN = 64 * 1024  # bytes: writelines() joins what is not more
_READ_FAILED = "Fatal read error on socket transport"
_WRITE_FAILED = "Fatal write error on socket transport"
_DATA_FAILED = "Fatal error: protocol.data_received() call failed."
_MISSING: Any = object()
_NO_STREAM: Any = Stream(None, 0, -1, 0)  # of a connection that is lost


class StreamTransport(FlowControl, asyncio.Transport):
    """A TCP connection on the stack. Made by the loop, never by the user."""

    _start_tls_compatible = True
    _sendfile_compatible = SENDFILE_FALLBACK
    max_size = 256 * 1024

    if TYPE_CHECKING:  # of the slots of the base classes
        _protocol: Any
        _protocol_connected: bool
        _loop: Any
        _extra: dict[str, Any]

        def _maybe_pause_protocol(self) -> None: ...
        def _maybe_resume_protocol(self) -> None: ...

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_backlog",
        "_buffered",
        "_c",
        "_closing",
        "_conn_lost",
        "_context",
        "_deferred",
        "_endpoint",
        "_eof",
        "_h",
        "_hot",
        "_mm",
        "_open",
        "_owner",
        "_paused",
        "_protocol",
        "_protocol_connected",
        "_reading",
        "_server",
        "_unsendable",
        "_write_context",
    )

    def __init__(
        self,
        loop: Any,
        endpoint: Endpoint,
        protocol: asyncio.BaseProtocol,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        context: contextvars.Context | None = None,
    ) -> None:
        # What _FlowControlMixin.__init__ does, without its three calls.
        self._extra = {} if extra is None else extra
        self._loop = loop
        self._protocol_paused = False
        self._high_water = 65536
        self._low_water = 16384

        client = endpoint.client()
        session = endpoint.open_session()
        self._endpoint = endpoint
        self._open = True
        self._owner: Any = None
        self._c = client.c
        self._h = endpoint.handle
        self._mm = client.mm
        self._server = server
        self._context = context
        self._backlog: Backlog | None = None
        self._write_context: contextvars.Context | None = None
        self._unsendable: OSError | None = None  # why sending failed, while reading goes on
        self._conn_lost = 0
        self._closing = False
        self._paused = False
        self._reading = False  # connection_made was called
        # The compiled half. paused: not reading (not begun, paused or closing), so that data comes
        # to on_data; stalled: write() must take the long way (backlog, eof, lost).
        self._hot = Stream(self, client.address, self._h, session.word_address)
        self._hot.stalled = False
        self.write = self._hot.write  # type: ignore[method-assign]
        self._eof = False
        self._deferred: collections.deque[tuple[Callable[..., None], tuple[Any, ...]]] | None = None
        self.set_protocol(protocol)
        self._hot.enter = self._new_context().run
        if server is not None:
            attach(server, self)
        session.receivers[self._h] = self
        session.streams[self._h] = self._hot

    def _new_context(self) -> contextvars.Context:
        return contextvars.copy_context() if self._context is None else self._context

    def own(self, sock: Any, stack: StackSocket) -> None:
        """The application's socket object: it is closed with the transport, as asyncio does."""
        self._owner = sock
        stack._borrowed = True
        endpoint = self._endpoint
        if not endpoint.nodelay and endpoint.proto == IPPROTO_TCP:
            endpoint.client().setsockopt(self._h, IPPROTO_TCP, TCP_NODELAY, 1)

    def begin(self, waiter: "asyncio.Future[None] | None" = None) -> None:
        """connection_made, then reading, then the waiter: asyncio's three steps in one."""
        try:
            self._protocol.connection_made(self)
        finally:
            self._reading = True
            if not self._closing and not self._paused:
                self._resume()
            if waiter is not None and not waiter.cancelled():
                waiter.set_result(None)

    # ---- reading ----

    def on_data(self, off: int, size: int) -> None:
        if not off:
            # The client moved it out of the shared pool.
            self._on_bytes(self._endpoint.client().recv(self._h, size))
            return
        if self._hot.paused:
            # Paused by another callback of this batch: kept, in order. Closing: dropped.
            self._on_bytes(self._mm[off : off + size])
            return
        if self._buffered:
            self._hot.enter(self._fill, self._endpoint.client().memory, off, off + size)
            return
        self._on_bytes(self._mm[off : off + size])

    def _on_bytes(self, data: bytes) -> None:
        if self._hot.paused:
            self._hold(self._on_bytes, data)
        elif self._buffered:
            self._hot.enter(self._fill, memoryview(data), 0, len(data))
        else:
            try:
                self._hot.enter(self._hot.deliver, data)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._fault(exc)

    def _fault(self, exc: BaseException) -> None:
        # data_received raised; called by the compiled half too.
        enter = self._hot.enter  # None: detached by that very callback
        (enter or self._new_context().run)(self._fatal_error, exc, _DATA_FAILED)

    def _fill(self, memory: memoryview, off: int, end: int) -> None:
        # A BufferedProtocol: as many get_buffer/buffer_updated rounds as the data needs. If it
        # pauses, or becomes a plain protocol in between, the rest goes that way.
        while off < end and not self._conn_lost:
            if self._hot.paused or not self._buffered:
                rest = bytes(memory[off:end])
                if self._hot.paused:
                    self._hold(self._on_bytes, rest, first=True)
                else:
                    self._hot.deliver(rest)
                return
            what = "get_buffer"
            try:
                buf = self._protocol.get_buffer(-1)
                if not len(buf):
                    raise RuntimeError("get_buffer() returned an empty buffer")
                with memoryview(buf) as view, view.cast("B") as target:
                    size = min(len(target), end - off)
                    target[:size] = memory[off : off + size]
                off += size
                what = "buffer_updated"
                self._protocol.buffer_updated(size)
            except (SystemExit, KeyboardInterrupt):
                if off < end:
                    self._hold(self._on_bytes, bytes(memory[off:end]), first=True)
                raise
            except BaseException as exc:
                self._fatal_error(exc, f"Fatal error: protocol.{what}() call failed.")
                break
        self._left_unread(end - off)

    def on_eof(self) -> None:
        if self._hot.paused:
            self._hold(self.on_eof)
        elif self._unsendable is None or isinstance(self._unsendable, BrokenPipeError):
            self._hot.enter(self._read_eof)
        else:  # a reset that the send was told of
            self._hot.enter(self._fatal_error, self._unsendable, _READ_FAILED)

    def _read_eof(self) -> None:
        if self._loop.get_debug():
            logger.debug("%r received EOF", self)
        try:
            keep_open = self._protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.eof_received() call failed.")
            return
        if not keep_open:
            self.close()
        elif self._unsendable is not None:
            self._fatal_error(self._unsendable, _WRITE_FAILED)

    def on_error(self, code: int) -> None:
        if self._hot.paused:
            self._hold(self._drain, code)
        else:
            self._hot.enter(self._fatal_error, error(code), _READ_FAILED)

    def _drain(self, code: int) -> None:
        # The socket failed while reading was paused: what had arrived before comes first.
        while not self._hot.paused:
            try:
                data = self._endpoint.client().recv(self._h, self.max_size)
            except OSError as exc:
                self._hot.enter(self._fatal_error, exc, _READ_FAILED)
                return
            if not data:
                self._hot.enter(self._fatal_error, error(code), _READ_FAILED)
                return
            self._on_bytes(data)
        self._hold(self._drain, code, first=True)

    def on_connect(self, code: int) -> None: ...
    def on_accept(self, handle: int, off: int) -> None: ...
    def on_readable(self) -> None: ...

    def on_lost(self, exc: OSError) -> None:
        self._c = None
        self._hot.stalled = self._hot.paused = True
        self._hot.enter(self._force_close, exc)
        self._hot.detach()
        self._endpoint.lose()

    def on_detach(self) -> None:
        # The loop is closed: no more callbacks; writes must not reach the freed client.
        self._c = None
        self._closing = True
        self._let_go()
        self._conn_lost += 1

    def _let_go(self) -> None:
        # Whoever has kept write() keeps the Stream and with it the transport: not the reverse.
        self._hot.detach()
        self._hot = _NO_STREAM
        self.__dict__.pop("write", None)

    def _hold(self, callback: Callable[..., None], *args: Any, first: bool = False) -> None:
        # What arrived while reading is paused and cannot stay in the client; for _release_deferred.
        # first: the rest of what was being handed out, before anything that came after it.
        if self._closing:
            self._forget([(callback, args)])
            return
        if self._deferred is None:
            self._deferred = collections.deque()
            if not self._hot.paused:  # an interrupt came out of a callback
                self._hot.paused = True
                self._loop.call_soon(self._release_deferred)
        if first:
            self._deferred.appendleft((callback, args))
        else:
            self._deferred.append((callback, args))

    def _forget(
        self, deferred: Iterable[tuple[Callable[..., None], tuple[Any, ...]]] | None
    ) -> None:
        for callback, args in deferred or ():
            if callback == self._on_bytes:
                self._left_unread(len(args[0]))

    def _left_unread(self, size: int) -> None:
        # The peer must learn of it: the close will be a reset, as the kernel's is.
        if size and self._endpoint.live:
            raw_untake(self._c, self._h, size)

    def _release_deferred(self) -> None:
        deferred = self._deferred
        if deferred is None or self._paused or self._closing:
            return
        self._hot.paused = False
        try:
            while deferred and not self._hot.paused:
                callback, args = deferred.popleft()
                callback(*args)
        finally:
            if not deferred:
                self._deferred = None
            if not self._hot.paused:
                if deferred:
                    self._hot.paused = True
                    self._loop.call_soon(self._release_deferred)
                else:
                    raw_push(self._c, self._h, True)

    def is_reading(self) -> bool:
        return not self._closing and not self._paused

    def pause_reading(self) -> None:
        if self._closing or self._paused:
            return
        self._endpoint.enter()
        self._paused = True
        self._hot.paused = True
        if self._reading:
            raw_push(self._c, self._h, False)
        if self._loop.get_debug():
            logger.debug("%r pauses reading", self)

    def resume_reading(self) -> None:
        if self._closing or not self._paused:
            return
        self._endpoint.enter()
        self._paused = False
        if self._reading:
            self._hot.enter = self._new_context().run
            self._resume()
        if self._loop.get_debug():
            logger.debug("%r resumes reading", self)

    def _resume(self) -> None:
        if self._deferred is not None:
            self._loop.call_soon(self._release_deferred)
            return
        self._hot.paused = False
        raw_push(self._c, self._h, True)

    # ---- writing ----

    def write(self, data: Any) -> None:
        # Shadowed by the compiled one (an attribute of the instance) until the connection is lost.
        self._write_slow(data)

    def _write_slow(self, data: Any) -> None:
        self._endpoint.enter()
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"data argument must be a bytes-like object, not {type(data).__name__!r}"
            )
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not data:
            return
        if self._conn_lost:
            if self._conn_lost >= LOG_LOST_WRITES:
                logger.warning("socket.send() raised exception.")
            self._conn_lost += 1
            return
        if self._unsendable is not None:
            return
        if type(data) is not bytes:
            if self._backlog is None:
                view = memoryview(data).cast("B")
                sent = raw_send(self._c, self._h, flat(view), len(view))
                if sent != len(view):
                    # The caller may change it after we return.
                    self._write_rest(bytes(view[max(sent, 0) :]), min(sent, 0))
                return
            data = bytes(data)
        if self._backlog is None:
            sent = raw_send(self._c, self._h, data, len(data))
            if sent != len(data):
                self._write_rest(data, sent)
            return
        self._backlog.append(data)
        self._maybe_pause_protocol()

    def _write_rest(self, data: bytes, sent: int) -> None:
        if not data:
            return
        if sent < 0 and sent != _EAGAIN:
            self._sending_failed(sent)
            return
        self._backlog = Backlog(memoryview(data)[sent:] if sent > 0 else data)
        self._hot.stalled = True
        self._write_context = self._new_context()
        self._maybe_pause_protocol()

    def tell_paused(self) -> None:
        """Repeats pause_writing to a protocol that came while writing was paused."""
        if self._protocol_paused and not self._conn_lost:
            self._protocol_paused = False
            self._maybe_pause_protocol()

    def _sending_failed(self, code: int) -> None:
        # What the peer had sent before is read first, and its end, which is near, is the
        # connection's: an answer is not lost because what was still being sent was refused.
        session = self._endpoint.open_session()
        exc = session.gone() if session.ended else error(-code)
        if self._hot.paused or session.ended:  # nobody reads
            self._fatal_error(exc, _WRITE_FAILED)
            return
        self._unsendable = exc
        self._backlog = self._write_context = None
        self._hot.stalled = True

    def on_writable(self) -> None:
        if self._endpoint.watchers is not None:
            self._endpoint.stir(WRITE)
        if self._backlog is not None and self._write_context is not None:
            self._write_context.run(self._flush)

    def _flush(self) -> None:
        backlog = self._backlog
        while not self._conn_lost:
            while backlog:
                data = backlog.take()
                size = len(data)
                sent = raw_send(self._c, self._h, data if type(data) is bytes else flat(data), size)
                if sent == size:
                    continue
                if sent < 0 and sent != _EAGAIN:
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
        if self._closing:
            self._conn_lost += 1
            self._call_connection_lost(None)
        elif self._eof:
            self._shutdown()
        else:
            self._hot.stalled = False

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        if self._eof:
            raise RuntimeError("Cannot call writelines() after write_eof()")
        chunks = list(list_of_data)
        if sum(map(len, chunks)) <= _JOIN:
            self.write(b"".join(chunks))
        else:
            for chunk in chunks:
                self.write(chunk)

    def write_eof(self) -> None:
        if self._closing or self._eof:
            return
        self._endpoint.enter()
        self._eof = True
        self._hot.stalled = True
        if self._backlog is None:
            self._shutdown()

    def _shutdown(self) -> None:
        if self._endpoint.live:
            self._endpoint.client().shutdown(self._h, 1)

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self._backlog.size if self._backlog is not None else 0

    # ---- closing ----

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if self._closing or self._endpoint.passed_on(self.close):
            return
        self._closing = self._hot.paused = True
        deferred, self._deferred = self._deferred, None
        self._forget(deferred)
        if self._backlog is None:
            self._conn_lost += 1
            self._hot.stalled = True
            self._loop.call_soon(self._call_connection_lost, None, context=self._context)
        elif self._reading and not self._paused:
            raw_push(self._c, self._h, False)  # TCP's window stops the peer while we flush

    def abort(self) -> None:
        if not self._endpoint.passed_on(self.abort):
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
        if self._conn_lost:
            return
        self._backlog = None
        deferred, self._deferred = self._deferred, None
        self._forget(deferred)
        self._closing = self._hot.paused = self._hot.stalled = True
        self._conn_lost += 1
        self._loop.call_soon(self._call_connection_lost, exc, True, context=self._context)

    def _call_connection_lost(self, exc: BaseException | None, abort: bool = False) -> None:
        try:
            if self._protocol_connected:
                self._protocol.connection_lost(exc)
        finally:
            self._leave(abort)
            self._protocol = None
            self._let_go()
            self._loop = None
            server, self._server = self._server, None
            if server is not None:
                detach(server, self)

    def _leave(self, abort: bool) -> None:
        if self._open:
            self._open = False
            endpoint = self._endpoint
            if endpoint.refs > 1 and endpoint.live:
                endpoint.client().push(self._h, False)
                endpoint.take()  # a dup of the socket lives on
            endpoint.release(abort)
            if self._owner is not None:
                self._owner.close()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if not getattr(self, "_open", False):
            return
        self._open = False
        self._endpoint.abandon()  # first: a warning may be an error
        if self._server is not None and SERVER_KNOWS_CLIENTS:
            self._server._detach(self)
        _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)

    # ---- the rest ----

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        self._protocol_connected = True
        self._buffered = isinstance(protocol, protocols.BufferedProtocol)
        if self._open:
            self._hot.deliver = None if self._buffered else getattr(protocol, "data_received", None)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol  # type: ignore[no-any-return]

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        # Made when first asked: most connections never need them.
        value = self._extra.get(name, _MISSING)
        if value is not _MISSING:
            return value
        endpoint = self._endpoint
        if name == "peername":
            value = endpoint.peername()
        elif name == "sockname":
            value = endpoint.sockname()
        elif name == "socket":
            value = TransportSocket(self._owner or StackSocket._borrow(endpoint))
        else:
            return default
        self._extra[name] = value
        return value

    def __repr__(self) -> str:
        info = [type(self).__name__]
        if not self._open:
            info.append("closed")
        elif self._closing:
            info.append("closing")
        info.append(f"handle={self._h}")
        if self._loop is not None and not self._loop.is_closed():
            info.append("read=idle" if self._hot.paused else "read=polling")
            state = "polling" if self._backlog else "idle"
            info.append(f"write=<{state}, bufsize={self.get_write_buffer_size()}>")
        return f"<{' '.join(info)}>"
