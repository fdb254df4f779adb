"""Control messages: a datagram's ancillary data as (level, type, data). Pure functions."""

import errno
import struct
from collections.abc import Iterable

from .._session.binding import CTL_MAX
from ..errors import error

Message = tuple[int, int, bytes]

_HEADER = struct.Struct("=Qii")  # struct cmsghdr of 64-bit Linux
_ALIGN = 8


def _space(length: int) -> int:
    return -(-length // _ALIGN) * _ALIGN


def parse(raw: bytes, room: int) -> tuple[list[Message], bool]:
    """(messages, complete): the messages of a msg_control that fit into `room` bytes, and whether
    these are all."""
    messages: list[Message] = []
    at = 0
    while at + _HEADER.size <= len(raw):
        length, level, kind = _HEADER.unpack_from(raw, at)
        if not _HEADER.size <= length <= len(raw) - at:
            break
        if at + length > room:
            return messages, False
        messages.append((level, kind, raw[at + _HEADER.size : at + length]))
        at += _space(length)
    return messages, True


def build(messages: Iterable[tuple[int, int, bytes | bytearray | memoryview]]) -> bytes:
    """The msg_control of these messages. Raises OSError (ENOBUFS) for more than an entry takes."""
    raw = b""
    for level, kind, data in messages:
        packed = _HEADER.pack(_HEADER.size + len(bytes(data)), level, kind) + bytes(data)
        raw += packed.ljust(_space(len(packed)), b"\0")
    if len(raw) > CTL_MAX:
        raise error(errno.ENOBUFS)
    return raw
