"""hypercorn: HTTP/1.1, and HTTP/2 over TLS, in one loop and with its own workers."""

import asyncio
import ssl

import pytest
from loop.util import BIND, HOST, PEER

from .util import EXAMPLES, LOOPS, command, get, server, server_at, unused_port

pytest.importorskip("hypercorn")
httpx = pytest.importorskip("httpx")
pytest.importorskip("h2")
from hypercorn.asyncio import serve  # noqa: E402
from hypercorn.config import Config  # noqa: E402

BODY = bytes(range(256)) * 2000


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "http":
        body = b""
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        version = scope["http_version"].encode()
        headers = [(b"x-version", version)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize("policy", ["kernel", "adopt"])
def test_h1_and_h2(run_ff, tmp_path, policy):
    """hypercorn binds by itself and hands the sockets in."""
    host = HOST if policy == "adopt" else PEER
    trustme = pytest.importorskip("trustme")
    ca = trustme.CA()
    cert = ca.issue_cert(host)
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    for blob in cert.cert_chain_pems:
        blob.write_to_path(str(chain), append=True)
    cert.private_key_pem.write_to_path(str(key))
    client_tls = ssl.create_default_context()
    ca.configure_trust(client_tls)

    async def main():
        plain, secure = unused_port(), unused_port()
        config = Config()
        config.bind, config.insecure_bind = [f"{BIND}:{secure}"], [f"{BIND}:{plain}"]
        config.certfile, config.keyfile = str(chain), str(key)
        config.keep_alive_timeout = 600  # as no client of this test's has a limit
        config.accesslog = config.errorlog = None
        stop = asyncio.Event()
        task = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))
        async with httpx.AsyncClient(http2=True, verify=client_tls, timeout=None) as client:

            async def ask(url):
                while True:
                    try:
                        return await client.post(url, content=BODY)
                    except httpx.ConnectError:
                        assert not task.done(), task
                        await asyncio.sleep(0.01)

            for scheme, port, version in (("http", plain, "1.1"), ("https", secure, "2")):
                url = f"{scheme}://{host}:{port}/"
                await ask(url)
                for answer in await asyncio.gather(*(ask(url) for _ in range(20))):
                    assert answer.content == BODY
                    assert answer.headers["x-version"] == version
        served = await asyncio.to_thread(server_at, plain)
        assert served == ("stack" if policy == "adopt" else "kernel")
        stop.set()
        await task

    run_ff(main(), kernel_sockets=policy)


@pytest.mark.parametrize("policy", ["kernel", "adopt"])
def test_workers(stack, policy):
    """Its command knows no loop of ours: `ffloop run` brings it, to its workers too."""
    pytest.importorskip("fastapi")
    port = unused_port()
    host = HOST if policy == "adopt" else PEER
    hypercorn = (command("hypercorn"), "-w2", f"-b{BIND}:{port}", "fastapi_app:app")
    with server(
        *(command("ffloop"), "run", "--kernel-sockets", policy, *hypercorn),
        port=port,
        host=host,
        cwd=EXAMPLES,
    ):
        for number in range(20):
            assert get(port, f"/items/{number}", host) == {"item": number}
        assert get(port, host=host)["loop"] in LOOPS
        assert server_at(port) == ("stack" if policy == "adopt" else "kernel")
