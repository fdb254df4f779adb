"""Each example runs as its first comment says."""

import contextlib
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest
from common.ports import unused_port
from common.processes import completed

from .util import listeners

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"


@contextlib.contextmanager
def running(name: str) -> Iterator[int]:
    """The example as a process of its own; its port, once it listens."""
    port = unused_port()
    with subprocess.Popen(
        [sys.executable, "-P", EXAMPLES / name, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            while True:
                assert process.poll() is None
                with contextlib.suppress(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                time.sleep(0.01)
            yield port
            process.send_signal(signal.SIGINT)  # Ctrl-C
            _, words = process.communicate()
            assert "Traceback" not in words
        finally:
            process.kill()


def test_aiohttp_server_and_client():
    pytest.importorskip("aiohttp")
    with running("aiohttp_server.py") as port:
        with urllib.request.urlopen(f"http://localhost:{port}/you") as response:
            assert response.read() == b"hello, you\n"
        done = subprocess.run(
            [sys.executable, "-P", EXAMPLES / "aiohttp_client.py", f"http://localhost:{port}/"],
            stdout=-1,
            check=True,
        )
        assert done.stdout.startswith(b"200")
        assert b"hello, world" in done.stdout


@pytest.mark.parametrize("how, owner", [("direct", "python"), ("spawn", "ffloop-instance")])
def test_whose_the_listener_is(monkeypatch, how, owner):
    """`ss -ltnp` shows the instance, where there is one: Python itself has no TCP socket."""
    monkeypatch.setenv("FFLOOP_INSTANCE", how)
    with running("protocol_echo.py") as port:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b"echo me")
            assert sock.recv(100) == b"echo me"
            assert {name.rstrip("0123456789.") for name in listeners(port)} == {owner}


def test_selector_echo():
    with running("selector_echo.py") as port:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            payload = bytes(range(256)) * 2000
            sock.sendall(payload)
            got = bytearray()
            while len(got) < len(payload):
                got += sock.recv(1 << 20)
            assert got == payload


def test_streams_echo():
    done = subprocess.run(
        [sys.executable, "-P", EXAMPLES / "streams_echo.py"], stdout=-1, check=True
    )
    assert done.stdout.count(b"echoed: ") == 3


def test_tls_server():
    with running("tls_server.py") as port:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        url = f"https://localhost:{port}/"
        with urllib.request.urlopen(url, context=context) as response:
            assert response.read() == b"hello over TLS\n"


@pytest.mark.parametrize(
    "command",
    [
        # With what its comment asks for: this project's own tests have pytest-timeout too.
        [sys.executable, "-m", "pytest", "-p", "no:timeout", "examples/pytest_suite"],
        [sys.executable, "examples/unittest_suite.py"],
    ],
    ids=["pytest", "unittest"],
)
def test_suites(command, tmp_path):
    """In a checkout, as their comments say."""
    pytest.importorskip("pytest_asyncio")
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    shutil.copytree(EXAMPLES, checkout / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(EXAMPLES.parent / "pyproject.toml", checkout)
    done = completed(*command, cwd=checkout)
    assert done.returncode == 0, done.stdout + done.stderr
