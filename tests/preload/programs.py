"""Programs under the shim: finding, starting, asking and loading them."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from common import ON_FSTACK
from shim import Instance

EXAMPLES = Path(__file__).parents[2] / "examples"
either_stack = pytest.mark.parametrize("instance", ["host", *ON_FSTACK[:1]], indirect=True)
FULL = os.environ.get("FFLOOP_SCALE") == "full"


def need(program: str) -> str:
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if not found:
        pytest.skip(f"{program} is not installed")
    return found


def get(address: str, port: int, path: str = "/") -> bytes:
    with urllib.request.urlopen(f"http://{address}:{port}{path}") as answer:
        return bytes(answer.read())


def until_up(address: str, port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with socket.socket() as s:
            if s.connect_ex((address, port)) == 0:
                return
        time.sleep(0.02)
    pytest.fail(f"{process.args} ended with {process.returncode}")


@contextmanager
def running(
    instance: Instance, port: int, *command: str, address: str = "", **more: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A server under the shim, once it answers (at the instance's address unless told)."""
    process = subprocess.Popen(command, env=instance.environment(**more))
    try:
        until_up(address or instance.address, port, process)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def until(what: Callable[[], object]) -> None:
    """Until it is true; the test's time limit bounds it."""
    while not what():
        time.sleep(0.005)


def alive(pid: int) -> bool:
    """Still running (a zombie that nobody waits for is not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Load:
    """Threads that ask for a page, a new connection each time; `failed` has what went wrong."""

    def __init__(
        self, address: str, port: int, page: bytes, threads: int = 4, path: str = "/"
    ) -> None:
        self.address, self.port, self.page, self.path = address, port, page, path
        self.answered = 0
        self.failed: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                assert get(self.address, self.port, self.path) == self.page
                self.answered += 1
            except Exception as exc:
                self.failed.append(repr(exc))
                time.sleep(0.01)

    def more(self, n: int) -> None:
        """Until n more were answered, or one failed."""
        before = self.answered, len(self.failed)
        until(lambda: self.answered >= before[0] + n or len(self.failed) > before[1])

    def answered_more(self, n: int) -> None:
        """Until n more were answered, whatever fails meanwhile."""
        before = self.answered
        until(lambda: self.answered >= before + n)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
