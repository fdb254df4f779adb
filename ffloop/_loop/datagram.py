"""Datagram endpoints on the stack: the transport, and how its socket comes about.

The order of callbacks, the flow control and the errors are those of asyncio's own
_SelectorDatagramTransport; datagrams are pulled, several per readiness event.
"""

import asyncio
import collections
import contextlib
import contextvars
import socket
import warnings
from typing import TYPE_CHECKING, Any

from .._net.endpoint import Endpoint
from .._net.sockets import StackSocket
from .._session.binding import PEER, READ, WRITE
from ..errors import InstanceGone, error
from .asyncio_private import (
    LOG_LOST_WRITES,
    PY313,
    FlowControl,
    TransportSocket,
    logger,
    transport_repr,
)

_LARGEST = 65536  # bytes: no datagram is larger
_PER_ITERATION = 64  # datagrams of one socket, then the others' turn
_HEADER = 8 if PY313 else 0  # bytes that a buffered datagram counts beyond its own


class DatagramTransport(FlowControl, asyncio.DatagramTransport):
    """A UDP socket on the stack. Made by the loop, never by the user."""

    if TYPE_CHECKING:  # of the base classes
        _loop: Any
        _extra: dict[str, Any]

        def _maybe_pause_protocol(self) -> None: ...
        def _maybe_resume_protocol(self) -> None: ...

    def __init__(
        self,
        loop: Any,
        sock: StackSocket,
        protocol: Any,
        address: Any,
        waiter: "asyncio.Future[None]",
    ) -> None:
        """`sock` is closed with the transport. `address`: the destination of every datagram; None:
        sendto's argument."""
        endpoint = sock._ep()
        extra = {
            "socket": TransportSocket(sock),
            "sockname": endpoint.sockname(),
            "peername": _peer(sock),
        }
        super().__init__(extra, loop)
        self._sock: Any = sock
        self._endpoint: Endpoint = endpoint
        self._handle = endpoint.handle
        self._protocol = protocol
        self._address = address
        self._connected = extra["peername"] is not None
        self._buffer: collections.deque[tuple[bytes, Any]] = collections.deque()
        self._buffer_size = 0
        self._conn_lost = 0
        self._closing = False
        self._open = True
        self._context = contextvars.copy_context()
        endpoint.client()
        endpoint.open_session().receivers[self._handle] = self
        loop.call_soon(self._begin, waiter)

    def own(self, sock: Any) -> None:
        """Closes the application's socket object with the transport, as asyncio does."""
        self._sock = sock

    def _begin(self, waiter: "asyncio.Future[None]") -> None:
        try:
            self._protocol.connection_made(self)
        finally:
            if not self._closing:
                self._want(READ)
            if not waiter.done():
                waiter.set_result(None)

    def _want(self, filters: int) -> None:
        if self._endpoint.live:
            try:
                self._endpoint.client().want(self._handle, filters)
            except InstanceGone:  # just now: on_lost() follows
                pass

    # ---- reading ----

    def on_readable(self) -> None:
        self._context.run(self._read)

    def _read(self) -> None:
        for _ in range(_PER_ITERATION):
            if self._conn_lost or self._closing:
                return
            try:
                data, source = self._endpoint.client().recvfrom(self._handle, _LARGEST)
            except (BlockingIOError, InterruptedError):
                break
            except InstanceGone:
                return  # on_lost() follows
            except OSError as exc:
                self._tell("error_received", exc)
            else:
                self._tell("datagram_received", data, source)
        if not self._closing:
            self._want(READ)

    def _tell(self, what: str, *args: Any) -> None:
        # An exception out of the protocol is reported and the socket lives on, as asyncio has it.
        try:
            getattr(self._protocol, what)(*args)
        except (SystemExit, KeyboardInterrupt):
            self._want(READ)
            raise
        except BaseException as exc:
            self._loop.call_exception_handler(
                {
                    "message": f"Exception in callback {type(self._protocol).__qualname__}.{what}",
                    "exception": exc,
                    "transport": self,
                    "protocol": self._protocol,
                }
            )

    def on_error(self, code: int) -> None:
        if not self._closing:
            self._context.run(self._tell, "error_received", error(code))
            self._want(READ)

    def on_data(self, off: int, size: int) -> None:
        raise AssertionError("datagrams are pulled")

    def on_eof(self) -> None:
        pass

    def on_accept(self, handle: int, off: int) -> None:
        raise AssertionError("a datagram socket does not listen")

    def on_connect(self, code: int) -> None:
        pass

    def on_lost(self) -> None:
        self._force_close(self._endpoint.open_session().gone())
        self._endpoint.lose()

    def on_detach(self) -> None:
        pass

    # ---- writing ----

    def sendto(self, data: Any, addr: Any = None) -> None:
        self._endpoint.enter()
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"data argument must be a bytes-like object, not {type(data).__name__!r}"
            )
        if not data and not PY313:
            return
        if self._address:
            if addr not in (None, self._address):
                raise ValueError(f"Invalid address: must be None or {self._address}")
            addr = self._address
        if self._conn_lost and (self._address or not self._open):
            if self._conn_lost >= LOG_LOST_WRITES:
                logger.warning("socket.send() raised exception.")
            self._conn_lost += 1
            return
        if not self._buffer:
            if self._send(data, addr):
                return
            self._want(WRITE)
        self._buffer.append((bytes(data), addr))  # the caller may change it after we return
        self._buffer_size += len(data) + _HEADER
        self._maybe_pause_protocol()

    def _send(self, data: Any, addr: Any) -> bool:
        # False: there is no room now. An error is the protocol's, and the datagram is gone.
        try:
            to = PEER if self._connected else addr
            self._endpoint.client().sendto(self._handle, self._endpoint.family, data, to)
        except (BlockingIOError, InterruptedError):
            return False
        except InstanceGone:
            pass  # on_lost() follows
        except OSError as exc:
            self._protocol.error_received(exc)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal write error on datagram transport")
        return True

    def on_writable(self) -> None:
        self._endpoint.call_writers()
        self._context.run(self._flush)

    def _flush(self) -> None:
        while self._buffer:
            data, addr = self._buffer[0]
            if not self._send(data, addr):
                self._want(WRITE)
                return
            if not self._buffer:  # the error's receiver has aborted
                return
            self._buffer.popleft()
            self._buffer_size -= len(data) + _HEADER
        self._maybe_resume_protocol()  # which may send more
        if not self._buffer and self._closing and not self._conn_lost:
            self._conn_lost += 1
            self._call_connection_lost(None)

    def get_write_buffer_size(self) -> int:
        return self._buffer_size

    # ---- closing ----

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if self._closing or self._endpoint.passed_on(self.close):
            return
        self._closing = True
        if not self._buffer:
            self._conn_lost += 1
            self._loop.call_soon(self._call_connection_lost, None)

    def abort(self) -> None:
        if not self._endpoint.passed_on(self.abort):
            self._force_close(None)

    def _fatal_error(self, exc: BaseException, message: str) -> None:
        self._loop.call_exception_handler(
            {"message": message, "exception": exc, "transport": self, "protocol": self._protocol}
        )
        self._force_close(exc)

    def _force_close(self, exc: BaseException | None) -> None:
        if self._conn_lost:
            return
        self._buffer.clear()
        self._buffer_size = 0
        self._closing = True
        self._conn_lost += 1
        self._loop.call_soon(self._call_connection_lost, exc)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        try:
            self._protocol.connection_lost(exc)
        finally:
            self._open = False
            endpoint = self._endpoint
            if endpoint.refs > 1 and endpoint.live:
                endpoint.take()  # a dup of the socket lives on
            self._sock.close()
            self._protocol = self._loop = None

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if getattr(self, "_open", False):
            self._open = False
            with contextlib.suppress(RuntimeError):  # another thread: the socket's own end does it
                self._sock.close()
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)

    # ---- the rest ----

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        number, sends = f"handle={self._handle}", bool(self._buffer)
        return transport_repr(self, number, not self._closing, sends, self._buffer_size)


def _peer(sock: StackSocket) -> Any:
    try:
        return sock.getpeername()
    except OSError:
        return None


async def open_datagram(
    loop: Any,
    local: Any,
    remote: Any,
    *,
    family: int,
    proto: int,
    flags: int,
    reuse_port: bool,
    broadcast: bool,
) -> tuple[StackSocket, Any] | None:
    """A stack socket bound to `local` and connected to `remote`, and the destination of its
    datagrams if there is one only. None: the router gives these addresses to the kernel. Raises as
    asyncio."""
    candidates: list[tuple[Any, Any]] = [((family, proto), [None, None])]
    if local or remote:
        candidates = await _resolve(loop, (local, remote), family, proto, flags)
    errors: list[OSError] = []
    for (fam, pro), (from_, to) in candidates:
        if not loop._router.on_stack(fam, to or from_ or ("", 0)):
            if errors:
                continue
            return None
        sock = None
        try:
            sock = StackSocket._open(loop._live_session(), fam, socket.SOCK_DGRAM, pro, False)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if broadcast:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            if local:
                sock.bind(from_)
            if remote and not broadcast:
                await loop.sock_connect(sock, to)
            return sock, to if remote else None
        except OSError as exc:
            if sock is not None:
                sock.close()
            errors.append(exc)
        except BaseException:
            if sock is not None:
                sock.close()
            raise
    try:
        raise errors[0]
    finally:
        del errors  # no cycle through the traceback


async def _resolve(
    loop: Any, addresses: tuple[Any, Any], family: int, proto: int, flags: int
) -> list[tuple[Any, Any]]:
    # ((family, proto), [local, remote]) for each pair that has an address for both that were given.
    found: dict[tuple[int, int], list[Any]] = {}
    for at, address in enumerate(addresses):
        if address is None:
            continue
        if not (isinstance(address, tuple) and len(address) == 2):
            raise TypeError("2-tuple is expected")
        infos = await loop._ensure_resolved(
            address, family=family, type=socket.SOCK_DGRAM, proto=proto, flags=flags, loop=loop
        )
        if not infos:
            raise OSError("getaddrinfo() returned empty list")
        for fam, _, pro, _, resolved in infos:
            found.setdefault((fam, pro), [None, None])[at] = resolved
    pairs = [
        (key, pair)
        for key, pair in found.items()
        if all(
            given is None or have is not None for given, have in zip(addresses, pair, strict=True)
        )
    ]
    if not pairs:
        raise ValueError("can not get address information")
    return pairs
