"""Whether a preloaded library would see a program's calls, by the program's ELF header."""

import os
import struct
from pathlib import Path

_PT_INTERP = 3
_PT_NOTE = 4
_GO = b"Go\0\0"  # the owner of the note that Go's linker writes: its build id


def obstacle(path: str) -> str | None:
    """Why a preloaded library would not see the program's sockets, in words that follow its name.
    None where no reason is known: a C program, a script, a file that cannot be read."""
    if not os.access(path, os.R_OK):
        return None
    segments = _segments(path)
    if not segments:
        return None
    if any(kind == _PT_NOTE and _owner(data) == _GO for kind, data in segments):
        return "is a Go program, which makes its system calls without the C library"
    interpreters = [data for kind, data in segments if kind == _PT_INTERP]
    if not interpreters:
        return "is linked statically, so that nothing can be preloaded"
    name = Path(os.fsdecode(interpreters[0].rstrip(b"\0"))).name
    if not name.startswith(("ld-linux", "ld64", "ld.so")):
        return f"has another C library than the GNU one (its loader is {name})"
    return None


def _segments(path: str) -> list[tuple[int, bytes]]:
    """Type and first 4 KiB of the PT_INTERP and PT_NOTE segments of a 64-bit ELF file; [] for any
    other file."""
    with open(path, "rb") as f:
        head = f.read(64)
        if len(head) < 64 or head[:5] != b"\x7fELF\x02":
            return []
        at, size, count = struct.unpack_from("=Q14xHH", head, 32)
        f.seek(at)
        table = f.read(size * count)
        found = []
        for i in range(len(table) // size if size >= 56 else 0):
            kind, offset, length = struct.unpack_from("=I4xQ16xQ", table, i * size)
            if kind in (_PT_INTERP, _PT_NOTE):
                f.seek(offset)
                found.append((kind, f.read(min(length, 4096))))
    return found


def _owner(note: bytes) -> bytes:
    """The owner of a segment's first note."""
    return note[12 : 12 + struct.unpack_from("=I", note)[0]] if len(note) >= 16 else b""
