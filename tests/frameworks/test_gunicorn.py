"""gunicorn with ffloop's workers for aiohttp and for uvicorn."""

import importlib
import socket
import sys

import pytest
from common.processes import completed
from loop.util import BIND, PEER

from .util import EXAMPLES, LOOPS, command, get, process, server, server_at, unused_port

pytest.importorskip("gunicorn")


@pytest.fixture
def gunicorn(stack, tmp_path):
    """Its command line and environment, for a port."""
    home = {"HOME": str(tmp_path)}  # it keeps a control socket there

    def of(port, worker):
        argv = (command("gunicorn"), "-w2", f"-b{BIND}:{port}", f"-kffloop.workers.{worker}")
        # A worker that is told to end while it starts does not hear it (gunicorn's own race).
        return (*argv, "--graceful-timeout=5"), home

    return of


AIOHTTP = """
import asyncio, os
from aiohttp import web

async def hello(request):
    loop = type(asyncio.get_running_loop()).__module__
    return web.json_response({"loop": loop, "pid": os.getpid()})

app = web.Application()
app.add_routes([web.get("/", hello)])
"""


def test_aiohttp(gunicorn, tmp_path):
    pytest.importorskip("aiohttp")
    (tmp_path / "aio.py").write_text(AIOHTTP)
    port = unused_port()
    argv, home = gunicorn(port, "AiohttpWorker")
    with server(*argv, "aio:app", port=port, env=home, cwd=tmp_path) as made:
        pids = set()
        while len(pids) < 2:
            told = get(port)
            assert told["loop"] in LOOPS
            pids.add(told["pid"])
        assert made.popen.pid not in pids
        assert made.stop() == 0


def test_under_ffloop_run(gunicorn, tmp_path):
    """aiohttp's own worker, where gunicorn's command line is not to change."""
    pytest.importorskip("aiohttp")
    (tmp_path / "aio.py").write_text(AIOHTTP)
    port = unused_port()
    argv, home = gunicorn(port, "AiohttpWorker")
    argv = (command("ffloop"), "run", *argv, "-kaiohttp.GunicornWebWorker", "aio:app")
    with server(*argv, port=port, env=home, cwd=tmp_path) as made:
        assert get(port)["loop"] in LOOPS
        assert made.stop() == 0


def test_uvicorn(gunicorn, stack):
    pytest.importorskip("uvicorn_worker")
    pytest.importorskip("fastapi")
    port = unused_port()
    argv, home = gunicorn(port, "UvicornWorker")
    with server(*argv, "fastapi_app:app", port=port, env=home, cwd=EXAMPLES) as made:
        for number in range(20):
            assert get(port, f"/items/{number}") == {"item": number}
        assert get(port)["loop"] in LOOPS
        # The arbiter listens: the host stack cannot have its port, and F-Stack has its own.
        assert server_at(port) == ("stack" if stack == "fstack" else "kernel")
        assert made.stop() == 0


# Descriptor 3, as systemd has it; LISTEN_PID is the server's own.
ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_systemd_activation(gunicorn, tmp_path):
    """The service manager binds and listens, and goes on holding the socket."""
    pytest.importorskip("aiohttp")
    (tmp_path / "aio.py").write_text(AIOHTTP)
    with socket.create_server((BIND, 0)) as sock:
        port = sock.getsockname()[1]
        argv, home = gunicorn(port, "AiohttpWorker")
        with server(
            *(sys.executable, "-c", ACTIVATE, str(sock.fileno()), *argv, "aio:app"),
            port=port,
            env=home,
            cwd=tmp_path,
            pass_fds=[sock.fileno()],
        ) as made:
            assert get(port)["loop"] in LOOPS
            assert made.stop() == 0
        sock.setblocking(False)
        with socket.create_connection((PEER, port)):
            sock.accept()[0].close()  # it is still the manager's


@pytest.mark.ring
def test_the_arbiters_listener_cannot_move_to_the_host_stack(gunicorn, tmp_path):
    """It listens itself, on the only port that there is: the worker says what to do."""
    (tmp_path / "aio.py").write_text(AIOHTTP)
    argv, home = gunicorn(unused_port(), "AiohttpWorker")
    home["FFLOOP_KERNEL_SOCKETS"] = "adopt"
    with process(*argv, "aio:app", env=home, cwd=tmp_path) as made:
        assert made.popen.wait() != 0
        assert "another process holds the address" in made.output
        assert "kernel_sockets='kernel'" in made.output


def test_without_gunicorn():
    code = (
        "import sys\n"
        "sys.modules['gunicorn'] = None\n"
        "import ffloop.workers\n"
        "for name in ('AiohttpWorker', 'UvicornWorker', 'OtherWorker'):\n"
        "    try: getattr(ffloop.workers, name)\n"
        "    except Exception as exc: print(type(exc).__name__, exc)\n"
    )
    done = completed(sys.executable, "-P", "-c", code)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ModuleNotFoundError this worker needs gunicorn and aiohttp")
    assert lines[0].endswith("pip install gunicorn aiohttp")
    assert lines[1].endswith("pip install gunicorn uvicorn-worker")
    assert lines[2].startswith("AttributeError")


def test_classes():
    pytest.importorskip("aiohttp")
    workers = importlib.import_module("ffloop.workers")
    assert workers.AiohttpWorker is workers.AiohttpWorker
    assert issubclass(
        workers.AiohttpWorker, importlib.import_module("gunicorn.workers.base").Worker
    )
