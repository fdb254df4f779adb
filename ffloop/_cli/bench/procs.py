"""CPU time, memory and listening ports of processes, from /proc."""

from __future__ import annotations

import os
import pathlib
import re

PROC = pathlib.Path("/proc")


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads: from schedstat (nanoseconds), or else stat (ticks)."""
    total = 0
    try:
        for task in (PROC / str(pid) / "task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
        if total:
            return total / 1e9
    except (FileNotFoundError, ProcessLookupError):
        pass
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_kib(pid: int) -> int:
    found = re.search(r"^VmRSS:\s+(\d+)", (PROC / str(pid) / "status").read_text(), re.M)
    return int(found[1]) if found else 0


def listener(port: int) -> int | None:
    """The pid of the process that listens on a TCP port of this kernel; None where none can be
    seen."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in (PROC / "net" / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for process in PROC.iterdir():
        if process.name.isdigit():
            try:
                for fd in (process / "fd").iterdir():
                    if os.readlink(fd) in inodes:
                        return int(process.name)
            except (PermissionError, FileNotFoundError, ProcessLookupError):
                continue
    return None
