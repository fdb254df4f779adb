"""Servers as processes of their own, and what answers at their ports."""

import contextlib
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from common import ports
from loop import util as where  # (its names change: see there)

SCRIPTS = pathlib.Path(sysconfig.get_path("scripts"))
EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"


def command(name: str) -> str:
    """The path of an installed console script."""
    return str(SCRIPTS / name)


def unused_port() -> int:
    """Of the peer's side: see loop/util.py."""
    return ports.unused_port(where.PEER)


class Process:
    """A server: its process, and everything that it wrote so far."""

    def __init__(self, popen: "subprocess.Popen[bytes]", output: int) -> None:
        self.popen = popen
        self._output = output  # a file that it appends to

    @property
    def output(self) -> str:
        size = os.fstat(self._output).st_size
        return os.pread(self._output, size, 0).decode(errors="replace")

    def wait_for(self, words: str, times: int = 1) -> None:
        """Until it wrote `words`; it may end with them."""
        ended = False
        while self.output.count(words) < times:
            assert not ended, self.output
            ended = self.popen.poll() is not None
            time.sleep(0.01)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Ends it; its exit status."""
        if self.popen.poll() is None:
            self.popen.send_signal(signum)
        return self.popen.wait()


@contextlib.contextmanager
def process(*argv: str | os.PathLike[str], **options: Any) -> Iterator[Process]:
    env = {**os.environ, "PYTHONUNBUFFERED": "1", **options.pop("env", {})}
    env.pop("_FFLOOP_EMBEDDED", None)
    with tempfile.TemporaryFile() as output:
        popen = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=env,
            start_new_session=True,
            **options,
        )
        made = Process(popen, output.fileno())
        try:
            yield made
            made.stop()
        except BaseException:
            print(made.output, file=sys.stderr)
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(popen.pid, signal.SIGKILL)
            popen.wait()


def on_stack(transport: Any) -> bool:
    """Whether a transport's socket is ffloop's; in direct mode on the host: the kernel's, whole."""
    sock = transport.get_extra_info("socket")
    direct = os.environ.get("FFLOOP_INSTANCE") == "direct"
    if direct and os.environ.get("FFLOOP_STACK") != "fstack":
        return type(sock._sock) is socket.socket
    return type(getattr(sock, "_sock", sock)).__module__.startswith("ffloop._net.")


def get(port: int, path: str = "/", host: str | None = None) -> Any:
    """The JSON that a server on the stack (or at `host`) answers with, once it answers."""
    url = f"http://{host or where.HOST}:{port}{path}"
    while True:
        try:
            with urllib.request.urlopen(url) as response:
                return json.load(response)
        except urllib.error.HTTPError:
            raise
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.02)


def answers(port: int, host: str | None = None) -> bool:
    """Whether a server on the stack (or at `host`) answers HTTP."""
    peer = http.client.HTTPConnection(host or where.HOST, port)
    with contextlib.closing(peer), contextlib.suppress(ConnectionError):
        peer.request("GET", "/")
        peer.getresponse().read()
        return True
    return False


# What `type(loop).__module__` says of ffloop's loops.
LOOPS = ("ffloop._loop.direct_loop", "ffloop._loop.session_loop")


def server_at(port: int) -> str:
    """Who serves there: "stack" or "kernel"."""
    if where.HOST == where.PEER:  # the host stack's port is the kernel's; but whose is the socket?
        return "stack" if "ffloop-instance" in where.listeners(port) else "kernel"
    serving = [answers(port), answers(port, where.PEER)]
    assert sum(serving) == 1, serving
    return "stack" if serving[0] else "kernel"


@contextlib.contextmanager
def server(
    *argv: str | os.PathLike[str], port: int, host: str | None = None, **options: Any
) -> Iterator[Process]:
    """A process that serves HTTP at `port` of the stack (or of `host`), once it does."""
    with process(*argv, **options) as made:
        while True:
            assert made.popen.poll() is None, f"it ended\n{made.output}"
            with contextlib.suppress(OSError):
                socket.create_connection((host or where.HOST, port)).close()
                break
            time.sleep(0.02)
        yield made
