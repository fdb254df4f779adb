"""Servers of Debian, unmodified: natively and under the shim the same outcome, a clean end.

While idle they take no CPU. .ci/run installs them; one that is not here is skipped.
"""

import os
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from common.ports import unused_port
from common.processes import completed
from programs import alive, children, get, until, until_up
from shim import Instance

HERE = "127.0.0.1"
EMBEDDED = [str(Path(sysconfig.get_path("scripts"), "ffloop")), "preload", "--"]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root: it becomes another user")


@dataclass
class Server:
    """One that is up, natively or under the shim."""

    port: int
    pid: int
    environment: dict[str, str]
    under: list[str]  # what starts it and its clients

    def client(self, *command: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        """A program that is under the shim if the server is, run to its end."""
        return completed(*self.under, *command, env=self.environment, **options)

    def get(self, path: str) -> bytes:
        return get(HERE, self.port, path)

    def connect(self) -> socket.socket:
        return socket.create_connection((HERE, self.port))


Command = Callable[[int], list[str]]  # with its port
Talk = Callable[[Server], Any]  # what was seen


def tree(pid: int) -> list[int]:
    try:
        return [pid, *(p for child in children(pid) for p in tree(child))]
    except (FileNotFoundError, ProcessLookupError):  # one that was still ending
        return []


def cpu(pid: int) -> int:
    """Its ticks until now; of one that has ended meanwhile, none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(fields[11]) + int(fields[12])


def is_quiet(pids: list[int]) -> bool:
    before = {pid: cpu(pid) for pid in pids}
    time.sleep(0.5)
    return sum(max(0, cpu(pid) - before[pid]) for pid in pids) <= os.sysconf("SC_CLK_TCK") / 10


def idles(pid: int) -> bool:
    """Some half second costs it a fifth of that at most: one that spins takes more in each."""
    pids = tree(pid)
    return any(is_quiet(pids) for _ in range(60))


@contextmanager
def served(
    command: list[str], port: int, environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """In a session of its own: apache ends its process group."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        until_up(HERE, port, process)
        yield process
    finally:
        process.kill()
        process.wait()


def listens(pids: list[int], port: int) -> bool:
    """Is the kernel's listener there one of theirs?"""
    tables = [Path("/proc/net", name).read_text() for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    inodes = {
        f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"
    }
    assert inodes
    fds = [fd for pid in pids for fd in Path(f"/proc/{pid}/fd").iterdir()]
    return any(os.readlink(fd) in inodes for fd in fds)


def same(
    instance: Instance | None,
    log: Path,
    command: Command,
    talk: Talk,
    end: int = signal.SIGTERM,
) -> None:
    """Natively, then under the shim: with this instance, or with one that is embedded, as a
    program needs that gives up its user and has children after that."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("FFLOOP", "FF_"))}
    shimmed = ([], instance.environment()) if instance else (EMBEDDED, plain)
    seen = []
    for under, environment in (([], plain), shimmed):
        port = unused_port()
        with served([*under, *command(port)], port, environment, log) as process:
            outcome = talk(Server(port, process.pid, environment, under))
            quiet = idles(process.pid)
            left = tree(process.pid)
            own = listens(left, port)
            process.send_signal(end)
            seen.append((outcome, quiet, process.wait()))
            until(lambda: not any(alive(pid) for pid in left))  # noqa: B023
    assert seen[0][1], "it does not idle natively"
    assert seen[1] == seen[0], log.read_text(errors="replace")
    assert not own, "not on the stack"


def by_datagram(port: int, question: bytes) -> bytes:
    """The answer; asked again until there is one: the port may come up after the stream's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as u:
        u.settimeout(1)
        while True:
            u.sendto(question, (HERE, port))
            try:
                return u.recv(512)
            except TimeoutError:
                continue


def at_once(n: int, what: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(what, range(n)))
