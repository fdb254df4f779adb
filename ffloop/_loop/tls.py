"""SSLProtocol: asyncio's, with the way of plain data made shorter."""

from asyncio import sslproto
from typing import Any

_RECORD = 16384  # bytes: SSL_read gives no more at once
_Base: Any = sslproto.SSLProtocol


class SSLProtocol(_Base):  # type: ignore[misc]
    """asyncio asks until OpenSSL says "want read", which is an exception each time, and with room
    for 256 KiB, which is allocated each time. Here nothing is asked for when nothing is left."""

    def _do_read__copied(self) -> None:
        read, incoming = self._sslobj.read, self._incoming
        chunks: list[bytes] = []
        ended = False
        try:
            while chunk := read(_RECORD):
                chunks.append(chunk)
                if not incoming.pending and not self._sslobj.pending():
                    break
            else:
                ended = True
        except sslproto.SSLAgainErrors:
            pass
        if chunks:
            self._app_protocol.data_received(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        if ended:  # close_notify
            self._call_eof_received()
            self._start_shutdown()
