"""TLS: asyncio's SSLProtocol, with reads and writes by the compiled Tls (_native/hot/tls.c).

Handshake, shutdown, errors and time-outs are asyncio's.
"""

import ssl
from asyncio import sslproto
from collections.abc import Iterable
from typing import Any

from .._session.hot import Tls

_Protocol: Any = sslproto.SSLProtocol
_Transport: Any = sslproto._SSLProtocolTransport


def _drop(data: Any) -> None:
    """The write() of a transport that has let go of its connection."""


class SSLTransport(_Transport):  # type: ignore[misc]
    """The transport of the application's protocol. Made by the loop, never by the user."""

    def __init__(self, loop: Any, protocol: "SSLProtocol") -> None:
        super().__init__(loop, protocol)
        self.write = protocol.write  # compiled, with no frame of Python's before it

    def close(self) -> None:
        """As asyncio's: the second call lets go of the connection, and of its context."""
        super().close()
        if self._ssl_protocol is None:
            self.write = _drop

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))


class SSLProtocol(Tls, _Protocol):  # type: ignore[misc]
    """The stream's protocol, between it and the application's transport and protocol."""

    # asyncio makes a buffer so large for each connection. A stream of ffloop's has one for all, so
    # only another's, which calls get_buffer(), needs it.
    max_size = 0
    _app_transport: Any
    _app_transport_created: bool

    def __init__(self, loop: Any, *args: Any, **more: Any) -> None:
        """As asyncio's."""
        super().__init__(loop, *args, **more)
        face: Any = self._sslobj
        own = type(face) is not ssl.SSLObject  # an application's, by its context's sslobject_class
        self._use(loop._batches, face if own else face._sslobj)

    def take_read_ahead(self, protocol: Any) -> None:
        """Takes the bytes that a StreamReader has read ahead, which belong to the handshake."""
        reader = getattr(protocol, "_stream_reader", None)
        if reader is not None and reader._buffer:
            self._incoming.write(reader._buffer)
            reader._buffer.clear()

    def get_buffer(self, n: int) -> Any:
        self.max_size = _Protocol.max_size
        return super().get_buffer(n)

    def _set_app_protocol(self, app_protocol: Any) -> None:
        super()._set_app_protocol(app_protocol)
        if not hasattr(app_protocol, "data_received"):  # as without TLS: by its methods
            self._app_protocol_is_buffer = hasattr(app_protocol, "get_buffer")

    def _get_app_transport(self) -> Any:
        if not self._app_transport_created:
            self._app_transport = SSLTransport(self._loop, self)
            self._app_transport_created = True
        return super()._get_app_transport()

    def _write_slow(self, data: Any) -> None:
        # What write(), the base class's, does not do by itself.
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data: expecting a bytes-like instance, got {type(data).__name__}")
        if type(data) is not bytes:
            self.write(bytes(data))
        elif data:
            self._write_later(memoryview(data))

    def _write_later(self, view: memoryview) -> None:
        # A view, since asyncio takes slices, a record at a time.
        self._write_appdata((view,))
