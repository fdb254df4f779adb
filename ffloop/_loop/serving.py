"""The arguments and the sockets of create_server."""

import errno
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .asyncio_private import PY313, logger

_Make = Callable[[int, int, int], Any]
Maker = Callable[[Any], _Make | None]  # of one of getaddrinfo's answers


@dataclass(frozen=True, slots=True)
class Binding:
    """How create_server's sockets are made."""

    reuse_address: bool
    reuse_port: bool
    keep_alive: bool
    dual: bool  # what the stack serves is served on the kernel too
    debug: bool

    def bind(self, make: _Make, info: Any) -> Any:
        """A bound socket, made by `make`, for one of getaddrinfo's answers; None for an answer that
        create_server of the running Python skips."""
        family, kind, proto, _, address = info
        try:
            sock = make(family, kind, proto)
        except OSError as exc:
            if exc.errno not in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EINVAL):
                raise
            if self.debug:
                logger.warning(
                    "create_server() failed to create socket.socket(%r, %r, %r)",
                    family,
                    kind,
                    proto,
                    exc_info=True,
                )
            return None
        try:
            self._set_options(sock, family)
            try:
                sock.bind(address)
            except OSError as exc:
                reason = (exc.strerror or str(exc)).lower()
                message = f"error while attempting to bind on address {address!r}: {reason}"
                if not PY313 or exc.errno != errno.EADDRNOTAVAIL:
                    raise OSError(exc.errno, message) from None
                if self.debug:
                    logger.warning(message)
                sock.close()
                return None
        except BaseException:
            sock.close()
            raise
        return sock

    def _set_options(self, sock: Any, family: int) -> None:
        if self.reuse_address:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
        if self.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
        if self.keep_alive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, True)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)


def _kernels_twin(info: Any, port: int) -> Any:
    """The kernel's address for a dual listen: `info`'s where that is the wildcard, else this
    machine's loopback, since an address of the stack's is not the kernel's."""
    family, kind, proto, name, address = info
    wildcard, loopback = ("::", "::1") if family == socket.AF_INET6 else ("0.0.0.0", "127.0.0.1")
    host = wildcard if address[0] in (wildcard, "") else loopback
    return family, kind, proto, name, (host, port, *address[2:])


def bind_sockets(infos: list[Any], how: Binding, maker: Maker | None = None) -> list[Any]:
    """Bound sockets, not yet listening, for getaddrinfo's answers: on the stack where `maker(info)`
    makes one, else on the kernel. Raises and skips as create_server of the running Python."""
    sockets: list[Any] = []
    twins: dict[Any, None] = {}  # several addresses of the stack's may have one
    try:
        for info in infos:
            make = maker(info) if maker is not None else None
            sock = how.bind(make or socket.socket, info)
            if sock is not None:
                sockets.append(sock)
                if make is not None and how.dual:
                    twins[_kernels_twin(info, sock.getsockname()[1])] = None
        for info in twins:
            sock = how.bind(socket.socket, info)
            if sock is not None:
                sockets.append(sock)
        if PY313 and not sockets:
            tried = [info[4] for info in infos]
            raise OSError(f"could not bind on any address out of {tried!r}")
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def check_given(sock: Any) -> None:
    """Raises TypeError, ValueError as asyncio where `sock` cannot be served."""
    if sock is None:
        raise ValueError("Neither host/port nor sock were specified")
    if isinstance(sock, ssl.SSLSocket):
        raise TypeError("Socket cannot be of type SSLSocket")
    if sock.type != socket.SOCK_STREAM:
        raise ValueError(f"A Stream Socket was expected, got {sock!r}")


def check_tls(
    context: Any, handshake_timeout: float | None, shutdown_timeout: float | None
) -> None:
    """Raises TypeError, ValueError as asyncio where the arguments do not go together."""
    if isinstance(context, bool):
        raise TypeError("ssl argument must be an SSLContext or None")
    if handshake_timeout is not None and context is None:
        raise ValueError("ssl_handshake_timeout is only meaningful with ssl")
    if shutdown_timeout is not None and context is None:
        raise ValueError("ssl_shutdown_timeout is only meaningful with ssl")
