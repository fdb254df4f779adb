"""Servers of the command line on the real F-Stack: what their parents bound, the stack serves."""

import socket

import pytest
from fstack import net

from .util import EXAMPLES, command, get, server

APP = "fastapi_app:app"
PORT = 8101


@pytest.mark.parametrize(
    ("argv", "needs"),
    [
        (["uvicorn", "--loop=ffloop:new_event_loop", "--workers=2", "--host=0.0.0.0"], "uvicorn"),
        (["gunicorn", "-w2", "-kffloop.workers.UvicornWorker"], "gunicorn"),
        (["ffloop", "run", command("hypercorn"), "-w2"], "hypercorn"),
        (["ffloop", "run", "--workers=2"], "uvicorn"),
    ],
)
def test_workers(fstack, tmp_path, argv, needs):
    pytest.importorskip(needs)
    pytest.importorskip("fastapi")
    where = [f"-b0.0.0.0:{PORT}"] if needs in ("gunicorn", "hypercorn") else [f"--port={PORT}"]
    env = {"FFLOOP_INSTANCE": fstack.path, "FFLOOP_STACK": "fstack", "HOME": str(tmp_path)}
    with (
        net.within(fstack.net.peer),
        server(
            *(command(argv[0]), *argv[1:], *where, APP),
            port=PORT,
            host=net.STACK,
            env=env,
            cwd=EXAMPLES,
        ) as made,
    ):
        for number in range(20):
            assert get(PORT, f"/items/{number}", host=net.STACK) == {"item": number}
        assert get(PORT, host=net.STACK) == {"loop": "ffloop._loop"}
        # Nobody answers on the kernel: refused, or reset where the parent listens.
        with pytest.raises(ConnectionError):
            with socket.create_connection((net.PEER, PORT), timeout=10) as sock:
                sock.recv(1)
        made.stop()
