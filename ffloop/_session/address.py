"""Socket addresses: Python's tuples and the 28 bytes of struct ffl_addr. Pure functions.

Tuples are the socket module's: (host, port) for AF_INET, (host, port, flowinfo, scope_id) for
AF_INET6 (shorter ones are accepted).
"""

import socket
import struct
from typing import Any

ADDR_SIZE = 28
ADDRESSES_SIZE = 2 * ADDR_SIZE
_OF_IPV4 = "0123456789abcdefABCDEFxX."  # what inet_aton() takes: decimal, octal, hexadecimal
_PACK = struct.Struct("=H2s4sI16s")  # family, port_be, flowinfo (network order), scope_id, ip

SockAddr = tuple[Any, ...]


def look_up_literal(
    host: Any, port: Any, family: int, kind: int, proto: int, flags: int
) -> list[Any] | None:
    """socket.getaddrinfo's answer for a numeric host and port; None for a name. Raises only what
    socket.getaddrinfo would raise."""
    if not host or not isinstance(host, str | bytes):
        return None
    if isinstance(host, str) and ":" not in host and host.strip(_OF_IPV4):
        return None
    numeric = int(flags) | int(socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)
    try:
        return socket.getaddrinfo(host, port, family, kind, proto, numeric)
    except socket.gaierror:
        return None  # a name, or an error that the whole look-up words


def is_literal(family: int, address: Any) -> bool:
    """Is it an address that connect() takes as it stands?"""
    if family not in (socket.AF_INET, socket.AF_INET6):
        return True  # others have no names
    try:
        host, port = address[:2]
        socket.inet_pton(family, host)
    except (OSError, TypeError, ValueError):
        return False
    return isinstance(port, int)


def numeric(host: Any, port: Any) -> tuple[int, SockAddr] | None:
    """The family and the address of a numeric host and port without a scope; None for others."""
    if type(host) is str and type(port) is int:
        for family, more in ((socket.AF_INET, ()), (socket.AF_INET6, (0, 0))):
            try:
                socket.inet_pton(family, host)
            except (OSError, ValueError):
                continue
            return family, (host, port, *more)
    return None


def decode(raw: bytes) -> SockAddr | None:
    """28 bytes to a tuple, or None where the family is 0 (no address known)."""
    family, port, flowinfo, scope_id, ip = _PACK.unpack(raw)
    if family == socket.AF_INET:
        return socket.inet_ntoa(ip[:4]), port[0] << 8 | port[1]
    if family == socket.AF_INET6:
        return (
            socket.inet_ntop(socket.AF_INET6, ip),
            port[0] << 8 | port[1],
            int.from_bytes(flowinfo, "big"),
            scope_id,
        )
    return None


def literal(family: int, address: Any) -> bytes:
    """The 28 bytes of an address that is numeric, whatever its family; else of the wildcard."""
    host = str(address[0]).partition("%")[0] if address else ""
    for kind in (socket.AF_INET, socket.AF_INET6):
        try:
            ip = socket.inet_pton(kind, host)
        except (OSError, ValueError):
            continue
        return _PACK.pack(kind, b"\0\0", b"\0\0\0\0", 0, ip.ljust(16, b"\0"))
    return _PACK.pack(family, b"\0\0", b"\0\0\0\0", 0, bytes(16))


def text(host: str, port: int) -> str:
    """HOST:PORT; an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def unset(family: int) -> SockAddr:
    """getsockname's answer for a socket that was never bound."""
    return ("::", 0, 0, 0) if family == socket.AF_INET6 else ("0.0.0.0", 0)


def encode(family: int, address: Any, what: str = "address") -> bytes:
    """A tuple to 28 bytes. Resolves a host name as the socket module does (it may block).

    Raises TypeError, OverflowError and socket.gaierror as the socket module does.
    """
    if not isinstance(address, tuple):
        raise TypeError(f"{what}(): address must be a tuple, not {type(address).__name__}")
    wanted = (2,) if family == socket.AF_INET else (2, 3, 4)
    if len(address) not in wanted:
        shape = "a pair (host, port)" if family == socket.AF_INET else "a tuple (host, port[, ...])"
        raise TypeError(f"{what}(): address must be {shape}")
    host, port = address[:2]
    if not isinstance(port, int):
        raise TypeError(f"{what}(): port must be an int, not {type(port).__name__}")
    if not 0 <= port <= 0xFFFF:
        raise OverflowError(f"{what}(): port must be 0-65535.")
    flowinfo = address[2] if len(address) > 2 else 0
    if not 0 <= flowinfo <= 0xFFFFF:
        raise OverflowError(f"{what}(): flowinfo must be 0-1048575.")
    scope_id = address[3] if len(address) > 3 else 0
    ip, zone = _resolve(family, host)
    return _PACK.pack(
        family,
        port.to_bytes(2, "big"),
        flowinfo.to_bytes(4, "big"),
        scope_id or zone,
        ip.ljust(16, b"\0"),
    )


def _resolve(family: int, host: Any) -> tuple[bytes, int]:
    """(packed ip, scope id)."""
    if isinstance(host, (bytes, bytearray)):
        host = bytes(host).decode("idna")
    if not isinstance(host, str):
        raise TypeError(f"str, bytes or bytearray expected, not {type(host).__name__}")
    if host == "":
        return bytes(4 if family == socket.AF_INET else 16), 0
    if host == "<broadcast>" and family == socket.AF_INET:
        return b"\xff\xff\xff\xff", 0
    try:
        return socket.inet_pton(family, host), 0
    except OSError:
        pass
    infos = socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)
    found = infos[0][4]
    ip = socket.inet_pton(family, str(found[0]).partition("%")[0])
    return ip, int(found[3]) if family == socket.AF_INET6 and len(found) > 3 else 0
