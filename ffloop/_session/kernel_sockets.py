"""The TCP and UDP sockets of a process, as /proc shows them: those of its loops in direct mode, and
whatever else it has."""

import contextlib
import ipaddress
import os
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

_TABLES = (("tcp", "tcp"), ("tcp6", "tcp"), ("udp", "udp"), ("udp6", "udp"))
_STATES = {1: "connected", 2: "connecting", 3: "connecting", 8: "peer done", 10: "listening"}
_CLOSED = 7  # or not connected yet; and all of UDP that has no peer
_INODE = re.compile(r"socket:\[(\d+)\]")


class KernelSocket(NamedTuple):
    """`queued`, `held`: bytes that the kernel has not sent, and that the process has not read."""

    fd: int
    type: str  # "tcp" or "udp"
    state: str
    local: tuple[str, int]
    peer: tuple[str, int] | None
    queued: int
    held: int


def of(pid: int) -> list[KernelSocket]:
    """By descriptor. Raises PermissionError for another user's process, FileNotFoundError where it
    is gone."""
    fds: dict[str, int] = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            if inode := _INODE.fullmatch(os.readlink(f"/proc/{pid}/fd/{name}")):
                fds[inode[1]] = min(int(name), fds.get(inode[1], int(name)))
    return sorted(_listed(pid, fds)) if fds else []


def _listed(pid: int, fds: dict[str, int]) -> Iterator[KernelSocket]:
    for table, kind in _TABLES:
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/net/{table}") as file:
            next(file)
            for line in file:
                _, local, peer, state, queues, _, _, _, _, inode, *_ = line.split()
                if inode in fds:
                    queued, held = (int(part, 16) for part in queues.split(":"))
                    where, there = _address(local), _address(peer)
                    said = _state(int(state, 16), where)
                    other = there if there[1] else None
                    yield KernelSocket(fds[inode], kind, said, where, other, queued, held)


def _state(number: int, local: tuple[str, int]) -> str:
    if number == _CLOSED:
        return "bound" if local[1] else "open"
    return _STATES.get(number, "closing")


def _address(text: str) -> tuple[str, int]:
    # Words of the machine's byte order, each in hexadecimal.
    host, port = text.split(":")
    words = [int(host[i : i + 8], 16) for i in range(0, len(host), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return str(ipaddress.ip_address(packed)), int(port, 16)
