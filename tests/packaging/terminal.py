"""A user at a terminal, as process 1 of a machine that test_pages.py makes of namespaces.

Standard input has the steps, as JSON: a command line for bash, and what is typed meanwhile in a
second terminal, or null. A line that serves is asked by HTTP, and ended by Ctrl-C; an instance
stays until all is done. Everything must end well, and leave no process behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request

_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_LISTENS = "0A"  # of /proc/net/tcp
ENDED = (0, 130, -signal.SIGINT)  # by Ctrl-C


def bring_loopback_up() -> None:
    with socket.socket() as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def ports() -> set[int]:
    """At which somebody listens."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == _LISTENS:
                found.add(int(local.rpartition(":")[2], 16))
    return found


class Job:
    """A command line in the foreground of a terminal."""

    def __init__(self, line: str) -> None:
        print(f"$ {line}", flush=True)
        self.line = line
        self.said = pathlib.Path("said")
        self.before = ports()
        with self.said.open("wb") as output:
            self.popen = subprocess.Popen(
                ["bash", "-c", line], stdout=output, stderr=output, stdin=-3, start_new_session=True
            )

    def status(self) -> int | None:
        """Once it has ended, or runs for good: None."""
        while (status := self.popen.poll()) is None:
            if self.is_instance():
                if b"ffloop instance ready" in self.said.read_bytes():
                    return None
            elif self.new_ports() or ("ffloop top" in self.line and self.said.stat().st_size):
                return None
            time.sleep(0.01)
        return status

    def is_instance(self) -> bool:
        return " instance " in self.line

    def new_ports(self) -> set[int]:
        return ports() - self.before

    def promised(self) -> set[int]:
        """Statuses that its own comment names."""
        return {0, *map(int, re.findall(r"#.*exit status (\d+)", self.line))}

    def ask(self) -> None:
        for port in self.new_ports():
            path = "metrics" if "--metrics" in self.line else ""
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=60) as answer:
                print(f"port {port}: {answer.status}", flush=True)

    def interrupt(self) -> None:
        os.killpg(self.popen.pid, signal.SIGINT)
        self.expect(self.popen.wait(), ENDED)
        while self.new_ports():
            time.sleep(0.01)

    def expect(self, status: int, good: tuple[int, ...] | set[int]) -> None:
        words = self.said.read_text()
        print(words, flush=True)
        if status not in good or "Traceback" in words:
            sys.exit(f"{self.line}: status {status}")


def do(line: str, meanwhile: str | None) -> Job | None:
    """One step; its job where that is an instance, which runs on."""
    job = Job(line)
    status = job.status()
    if status is not None:
        job.expect(status, job.promised())
        return None
    if meanwhile is not None:
        print(f"meanwhile $ {meanwhile}", flush=True)
        if status := subprocess.run(["bash", "-emc", meanwhile], stdin=-3, check=False).returncode:
            sys.exit(f"{meanwhile}: status {status}\n{job.said.read_text()}")
    elif job.is_instance():
        job.said = job.said.rename(f"said.{job.popen.pid}")
        return job
    else:
        job.ask()
    job.interrupt()
    return None


def nothing_is_left() -> None:
    """What a line has started ends with it, at its own pace."""
    while {name for name in os.listdir("/proc") if name.isdigit()} != {"1"}:
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            pass
        time.sleep(0.01)


if __name__ == "__main__":
    bring_loopback_up()
    instances = [job for line, meanwhile in json.load(sys.stdin) if (job := do(line, meanwhile))]
    for job in instances:
        job.interrupt()
    nothing_is_left()
