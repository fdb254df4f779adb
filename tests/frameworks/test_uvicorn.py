"""FastAPI on uvicorn: in one process, with workers, with --reload."""

import asyncio
import contextlib
import os
import signal

import pytest
from loop.util import BIND, HOST, PEER

from .util import EXAMPLES, LOOPS, command, get, on_stack, server, server_at, unused_port

uvicorn = pytest.importorskip("uvicorn")
fastapi = pytest.importorskip("fastapi")
from fastapi.responses import StreamingResponse  # noqa: E402


def make_app():
    events = []

    @contextlib.asynccontextmanager
    async def lifespan(app):
        events.append("up")
        yield
        events.append("down")

    app = fastapi.FastAPI(lifespan=lifespan)
    app.state.events = events

    @app.get("/items/{number}")
    async def item(number: int, q: str = ""):
        return {"item": number, "q": q}

    @app.get("/sync")
    def sync():
        return {"thread": True}

    @app.post("/echo")
    async def echo(request: fastapi.Request):
        pieces = [piece async for piece in request.stream()]
        return StreamingResponse(iter(pieces))

    @app.websocket("/ws")
    async def ws(socket: fastapi.WebSocket):
        await socket.accept()
        with contextlib.suppress(fastapi.WebSocketDisconnect):
            while True:
                await socket.send_text((await socket.receive_text()).upper())

    return app


@contextlib.asynccontextmanager
async def serving(app, **options):
    """uvicorn in this loop; its port."""
    config = uvicorn.Config(app, host=HOST, port=0, log_level="warning", loop="none", **options)
    config.timeout_keep_alive = 600
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext
    task = asyncio.create_task(server.serve())
    while not server.started:
        assert not task.done(), task
        await asyncio.sleep(0)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_fastapi(run_ff, http):
    if http == "httptools":
        pytest.importorskip("httptools")
    aiohttp = pytest.importorskip("aiohttp")
    body = os.urandom(300_000)

    async def main():
        app = make_app()
        async with serving(app, http=http) as port:
            async with aiohttp.ClientSession(f"http://{HOST}:{port}") as session:

                async def ask(number):
                    async with session.get(f"/items/{number}?q=x") as response:
                        assert await response.json() == {"item": number, "q": "x"}

                await asyncio.gather(*map(ask, range(100)))
                async with session.get("/sync") as response:
                    assert await response.json() == {"thread": True}
                async with session.post("/echo", data=body) as response:
                    assert await response.read() == body
                async with session.get("/items/none") as response:
                    assert response.status == 422
                async with session.ws_connect("/ws") as ws:
                    assert on_stack(ws._response.connection.transport)
                    for word in ("one", "two"):
                        await ws.send_str(word)
                        assert await ws.receive_str() == word.upper()
            assert app.state.events == ["up"]
        assert app.state.events == ["up", "down"]

    run_ff(main())


def test_tls(run_ff, tls, tmp_path):
    """uvicorn makes its own context, of files."""
    trustme = pytest.importorskip("trustme")
    aiohttp = pytest.importorskip("aiohttp")
    ca = trustme.CA()
    cert = ca.issue_cert(HOST)
    cert.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "all.pem"))
    import ssl

    client_tls = ssl.create_default_context()
    ca.configure_trust(client_tls)

    async def main():
        async with serving(make_app(), ssl_certfile=str(tmp_path / "all.pem")) as port:
            async with aiohttp.ClientSession() as session:
                url = f"https://{HOST}:{port}/items/1"
                async with session.get(url, ssl=client_tls) as response:
                    assert (await response.json())["item"] == 1

    run_ff(main())


# ---- uvicorn's own command ----

UVICORN = (command("uvicorn"), "--loop", "ffloop:new_event_loop")


def test_one_worker(stack):
    port = unused_port()
    at = (f"--host={HOST}", f"--port={port}")
    with server(*UVICORN, *at, "fastapi_app:app", port=port, cwd=EXAMPLES) as made:
        assert get(port)["loop"] in LOOPS
        assert get(port, "/items/3") == {"item": 3}
        direct = os.environ.get("FFLOOP_INSTANCE") == "direct"
        assert server_at(port) == ("kernel" if direct else "stack")
        assert made.stop(signal.SIGINT) in (0, -signal.SIGINT)


@pytest.mark.parametrize("policy", ["kernel", "adopt"])
def test_workers(stack, policy):
    """The parent binds. The kernel serves its socket with the host stack, unless it is adopted."""
    port, host = unused_port(), HOST if policy == "adopt" else PEER
    with server(
        *(*UVICORN, f"--host={BIND}", f"--port={port}", "--workers=2", "fastapi_app:app"),
        port=port,
        host=host,
        cwd=EXAMPLES,
        env={"FFLOOP_KERNEL_SOCKETS": policy},
    ):
        for number in range(20):
            assert get(port, f"/items/{number}", host) == {"item": number}
        assert get(port, host=host)["loop"] in LOOPS
        assert server_at(port) == ("stack" if policy == "adopt" else "kernel")


@pytest.mark.parametrize("policy", ["kernel", "adopt"])
def test_reload(stack, tmp_path, policy):
    text = (EXAMPLES / "fastapi_app.py").read_text()
    app = tmp_path / "reloaded.py"
    app.write_text(text)
    port, host = unused_port(), HOST if policy == "adopt" else PEER
    at = (f"--host={BIND}", f"--port={port}")
    with server(
        *(*UVICORN, *at, "--reload", "--reload-delay=0.05", "reloaded:app"),
        port=port,
        host=host,
        cwd=tmp_path,
        env={"FFLOOP_KERNEL_SOCKETS": policy},
    ) as made:
        assert get(port, "/items/3", host) == {"item": 3}
        app.write_text(text.replace('{"item": number}', '{"item": number + 1}'))
        os.utime(app, (0, os.stat(app).st_mtime + 10))  # whatever the clock's grain
        made.wait_for("Reloading...")
        while get(port, "/items/3", host) != {"item": 4}:
            pass
        assert get(port, host=host)["loop"] in LOOPS
        assert server_at(port) == ("stack" if policy == "adopt" else "kernel")


def test_an_inherited_descriptor(stack):
    """uvicorn --fd, as systemd and supervisors hand sockets over."""
    import socket

    with socket.create_server((BIND, 0)) as sock:
        port = sock.getsockname()[1]
        fd = sock.fileno()
        with server(
            *(*UVICORN, f"--fd={fd}", "fastapi_app:app"), port=port, cwd=EXAMPLES, pass_fds=[fd]
        ):
            assert get(port, "/items/3") == {"item": 3}
