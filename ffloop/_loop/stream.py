"""StreamTransport: asyncio's transport for a connected stack socket of a session.

Events come from the poller's dispatch (`on_data` and so on), and writes go straight into shared
memory. Data that is delivered while reading is paused cannot stay in the client, and is kept here.
"""

import asyncio
import collections
import contextvars
from collections.abc import Callable, Iterable
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Any

from .._net.endpoint import Endpoint
from .._net.sockets import StackSocket
from .._session.binding import raw_push, raw_untake
from ..errors import error
from .sendfile import send_file
from .transport import CLOSED, EAGAIN, READ_FAILED, Socket, SocketTransport


class StreamTransport(SocketTransport):
    """A TCP connection on the stack of a session."""

    __slots__ = ("_c", "_deferred", "_endpoint", "_mm", "_owner")

    def __init__(
        self,
        loop: Any,
        endpoint: Endpoint,
        protocol: asyncio.BaseProtocol,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        context: contextvars.Context | None = None,
    ) -> None:
        client = endpoint.client()
        session = endpoint.open_session()
        super().__init__(
            loop,
            protocol,
            endpoint.handle,
            context,
            extra,
            client.address,
            session.word_address,
            server=server,
        )
        self._endpoint = endpoint
        self._c = client.c
        self._mm = client.mm
        self._owner: Any = None
        self._deferred: collections.deque[tuple[Callable[..., None], tuple[Any, ...]]] | None = None
        session.receivers[self._handle] = self

    def own(self, sock: Any, stack: StackSocket) -> None:
        """Closes the application's socket object with the transport, as asyncio does."""
        self._owner = sock
        stack._borrowed = True
        endpoint = self._endpoint
        if not endpoint.nodelay and endpoint.proto == IPPROTO_TCP:
            endpoint.client().setsockopt(self._handle, IPPROTO_TCP, TCP_NODELAY, 1)

    # ---- where the bytes are ----

    def _enter(self) -> None:
        self._endpoint.enter()

    def _passed_on(self, call: Callable[[], None]) -> bool:
        return self._endpoint.passed_on(call)

    def _ended(self) -> OSError | None:
        session = self._endpoint.open_session()
        return session.gone() if session.ended else None

    def _resume(self) -> None:
        if self._deferred is not None:
            self._loop.call_soon(self._release_deferred)
            return
        self._receiving = True
        raw_push(self._c, self._handle, True)

    def _stop_reading(self) -> None:
        raw_push(self._c, self._handle, False)

    def _quiet(self) -> None:
        if self._backlog is not None and self._begun and not self._paused:
            raw_push(self._c, self._handle, False)  # TCP's window stops the peer while we flush

    def _forget_unread(self) -> None:
        deferred, self._deferred = self._deferred, None
        self._forget(deferred)

    def _shutdown(self) -> None:
        if self._endpoint.live:
            self._endpoint.client().shutdown(self._handle, 1)

    async def _send_file(self, file: Any, offset: int, count: int | None) -> int:
        self._loop._check_sendfile_params(self.get_extra_info("socket"), file, offset, count)
        return await send_file(file, offset, count, self._send_some)

    async def _send_some(self, data: memoryview) -> int:
        while not self._conn_lost:
            sent = self._send(data)
            if sent > 0:
                return sent
            if sent != EAGAIN:
                raise self._ended() or error(-sent)
            await self._until_writable()
        raise self._unsendable or ConnectionError(CLOSED)

    async def _until_writable(self) -> None:
        """Raises the reason, a ConnectionError, where the connection ends."""
        self._flushing = self._loop.create_future()
        self._tell_writable(True)
        try:
            await self._flushing
        finally:
            self._tell_writable(False)

    def _release(self, abort: bool) -> None:
        endpoint = self._endpoint
        if endpoint.refs > 1 and endpoint.live:
            endpoint.client().push(self._handle, False)
            endpoint.take()  # a dup of the socket lives on
        endpoint.release(abort)
        if self._owner is not None:
            self._owner.close()

    def _abandon(self) -> None:
        self._endpoint.abandon()

    # ---- events ----

    def on_data(self, off: int, size: int) -> None:
        if not off:
            # The client moved it out of the shared pool.
            self._on_bytes(self._endpoint.client().recv(self._handle, size))
            return
        if not self._receiving:
            # Paused by another callback of this batch: kept, in order. Closing: dropped.
            self._on_bytes(self._mm[off : off + size])
            return
        if self._buffered:
            self._run(self._fill, self._endpoint.client().memory, off, off + size)
            return
        self._on_bytes(self._mm[off : off + size])

    def _on_bytes(self, data: bytes) -> None:
        if not self._receiving:
            self._defer(self._on_bytes, data)
        elif self._buffered:
            self._run(self._fill, memoryview(data), 0, len(data))
        else:
            try:
                self._run(self._protocol.data_received, data)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._fault(exc)

    def _fill(self, memory: memoryview, off: int, end: int) -> None:
        # A BufferedProtocol: as many get_buffer/buffer_updated rounds as the data needs. If it
        # pauses, or becomes a plain protocol in between, the rest goes that way.
        while off < end and not self._conn_lost:
            if not self._receiving or not self._buffered:
                rest = bytes(memory[off:end])
                if not self._receiving:
                    self._defer(self._on_bytes, rest, first=True)
                else:
                    self._protocol.data_received(rest)
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
                    self._defer(self._on_bytes, bytes(memory[off:end]), first=True)
                raise
            except BaseException as exc:
                self._fatal_error(exc, f"Fatal error: protocol.{what}() call failed.")
                break
        self._left_unread(end - off)

    def on_eof(self) -> None:
        if self._receiving:
            super().on_eof()
        else:
            self._defer(self.on_eof)

    def _kept_open(self) -> None:
        super()._kept_open()
        if not self._closing:
            self._stop_reading()
            self._defer(self.on_eof)  # read again when reading resumes, as the kernel's

    def on_error(self, code: int) -> None:
        if not self._receiving:
            self._defer(self._drain, code)
        else:
            self._run(self._fatal_error, error(code), READ_FAILED)

    def _drain(self, code: int) -> None:
        # The socket failed while reading was paused: what had arrived before comes first.
        while self._receiving:
            try:
                data = self._endpoint.client().recv(self._handle, self.max_size)
            except OSError as exc:
                self._run(self._fatal_error, exc, READ_FAILED)
                return
            if not data:
                self._run(self._fatal_error, error(code), READ_FAILED)
                return
            self._on_bytes(data)
        self._defer(self._drain, code, first=True)

    def on_writable(self) -> None:
        self._endpoint.call_writers()
        super().on_writable()

    def on_connect(self, code: int) -> None: ...
    def on_accept(self, handle: int, off: int) -> None: ...
    def on_readable(self) -> None: ...

    def on_lost(self) -> None:
        self._c = None
        self._receiving = self._sending = False
        self._unsendable = self._ended()
        self._run(self._force_close, self._ended())
        self._detach()
        self._endpoint.lose()

    def on_detach(self) -> None:
        # The loop is closed: no more callbacks; writes must not reach the freed client.
        self._c = None
        self._closing = True
        self._detach()
        self._conn_lost += 1

    # ---- what came while reading was paused ----

    def _defer(self, callback: Callable[..., None], *args: Any, first: bool = False) -> None:
        # For _release_deferred. first: the rest of what was being handed out, before anything that
        # came after it.
        if self._closing:
            self._forget([(callback, args)])
            return
        if self._deferred is None:
            self._deferred = collections.deque()
            if self._receiving:  # an interrupt came out of a callback
                self._receiving = False
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
            raw_untake(self._c, self._handle, size)

    def _release_deferred(self) -> None:
        deferred = self._deferred
        if deferred is None or self._paused or self._closing:
            return
        self._receiving = True
        try:
            while deferred and self._receiving:
                callback, args = deferred.popleft()
                callback(*args)
        finally:
            if not deferred:
                self._deferred = None
            if self._receiving:
                if deferred:
                    self._receiving = False
                    self._loop.call_soon(self._release_deferred)
                else:
                    raw_push(self._c, self._handle, True)

    # ---- the rest ----

    def _make_extra(self, name: str) -> Any:
        endpoint = self._endpoint
        if name == "peername":
            return endpoint.peername()
        if name == "sockname":
            return endpoint.sockname()
        return Socket(self._owner or StackSocket._borrow(endpoint))

    def __repr__(self) -> str:
        return self._named(f"handle={self._handle}")
