"""The transport of kernel datagram sockets: asyncio's own, with its usual ways compiled
(_native/hot/datagram.c)."""

import socket
from typing import Any

from .._session.hot import Datagrams
from .asyncio_private import LOG_LOST_WRITES, SelectorDatagram, logger

_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class KernelDatagramTransport(Datagrams, SelectorDatagram):  # type: ignore[misc]
    """A kernel datagram socket. Made by the loop, never by the user."""

    def __init__(self, loop: Any, sock: Any, *args: Any, **more: Any) -> None:
        self._paused = False  # older releases of asyncio cannot pause it
        super().__init__(loop, sock, *args, **more)
        self._family = sock.family
        self._connected = bool(self._extra["peername"])

    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        if self._sock is not None:
            super()._fatal_error(exc, message)
            return
        # sendto() after the end: what asyncio's would tell has gone with the socket
        if self._conn_lost >= LOG_LOST_WRITES:
            logger.warning("socket.send() raised exception.")
        self._conn_lost += 1

    @staticmethod
    def serves(sock: Any) -> bool:
        """Is it of a family whose addresses are known, and of the plain socket class?"""
        return type(sock) is socket.socket and sock.family in _FAMILIES
