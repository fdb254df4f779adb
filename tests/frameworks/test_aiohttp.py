"""aiohttp's server and client, both on ffloop."""

import asyncio
import contextlib
import hashlib
import random
import socket

import pytest
from loop.util import BIND, HOST, PEER

from .util import on_stack

aiohttp = pytest.importorskip("aiohttp")
from aiohttp import web  # noqa: E402

BODY = random.Random(5).randbytes(3 << 20)
CLOSED = web.AppKey("closed", asyncio.Future)


@contextlib.asynccontextmanager
async def serving(app, **site):
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    made = web.TCPSite(runner, HOST, 0, **site)
    await made.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def app_of(*routes):
    app = web.Application(client_max_size=0)
    app.add_routes(routes)
    return app


@contextlib.asynccontextmanager
async def client_of(app, **site):
    scheme = "https" if site.get("ssl_context") else "http"
    async with serving(app, **site) as port:
        async with aiohttp.ClientSession(f"{scheme}://{HOST}:{port}") as session:
            yield session


def test_requests(run_ff):
    async def hello(request):
        assert on_stack(request.transport)
        assert request.remote == HOST
        return web.json_response({"you": await request.json()})

    async def main():
        async with client_of(app_of(web.post("/", hello))) as session:

            async def ask(number):
                async with session.post("/", json={"number": number}) as response:
                    assert on_stack(response.connection.transport) if response.connection else True
                    return (await response.json())["you"]["number"]

            assert await asyncio.gather(*map(ask, range(200))) == list(range(200))
            async with session.get("/nothing") as response:
                assert response.status == 404

    run_ff(main())


def test_websocket(run_ff):
    async def echo(request):
        ws = web.WebSocketResponse(heartbeat=60)
        await ws.prepare(request)
        async for message in ws:
            if message.type is aiohttp.WSMsgType.TEXT:
                await ws.send_str(message.data)
            else:
                await ws.send_bytes(message.data)
        assert ws.close_code == 4001
        request.app[CLOSED].set_result(None)
        return ws

    async def main():
        app = app_of(web.get("/", echo))
        closed = app[CLOSED] = asyncio.get_running_loop().create_future()
        async with client_of(app) as session:
            async with session.ws_connect("/", max_msg_size=0) as ws:
                for i in range(100):
                    await ws.send_str(f"message {i}")
                assert [await ws.receive_str() for _ in range(100)] == [
                    f"message {i}" for i in range(100)
                ]
                await ws.send_bytes(BODY)
                assert await ws.receive_bytes() == BODY
                await ws.ping(b"x")
                await ws.close(code=4001)
            await closed

    run_ff(main())


def test_streaming_both_ways(run_ff):
    """A request and a response body of unknown length, each read while it is written."""

    async def digest(request):
        response = web.StreamResponse()
        await response.prepare(request)
        total = hashlib.sha256()
        async for chunk in request.content.iter_any():
            total.update(chunk)
            await response.write(chunk)
        await response.write(total.digest())
        return response

    async def produce():
        for at in range(0, len(BODY), 50_000):
            yield BODY[at : at + 50_000]
            await asyncio.sleep(0)

    async def main():
        async with client_of(app_of(web.post("/", digest))) as session:
            async with session.post("/", data=produce()) as response:
                body = await response.read()
        assert body == BODY + hashlib.sha256(BODY).digest()

    run_ff(main())


def test_file_response(run_ff, tmp_path):
    (tmp_path / "body").write_bytes(BODY)

    async def main():
        async with client_of(app_of(web.static("/", tmp_path))) as session:
            async with session.get("/body") as response:
                assert await response.read() == BODY
            async with session.get("/body", headers={"Range": "bytes=1000-99999"}) as response:
                assert response.status == 206
                assert await response.read() == BODY[1000:100_000]

    run_ff(main())


def test_tls(run_ff, tls):
    server, client = tls

    async def hello(request):
        assert request.secure
        assert on_stack(request.transport)
        return web.Response(body=BODY)

    async def main():
        async with serving(app_of(web.get("/", hello)), ssl_context=server) as port:
            async with aiohttp.ClientSession() as session:
                for _ in range(3):
                    async with session.get(f"https://{HOST}:{port}/", ssl=client) as response:
                        assert await response.read() == BODY
                with pytest.raises(aiohttp.ClientConnectorCertificateError):
                    await session.get(f"https://{HOST}:{port}/")

    run_ff(main())


def test_happy_eyeballs(run_ff):
    """A name with an address that nobody answers at, and one that serves."""

    class Resolver(aiohttp.abc.AbstractResolver):
        async def resolve(self, host, port=0, family=socket.AF_INET):
            assert host == "two.test"
            return [
                {
                    "hostname": host,
                    "host": address,
                    "port": port,
                    "family": family,
                    "proto": 0,
                    "flags": socket.AI_NUMERICHOST,
                }
                for address, family in (("::1", socket.AF_INET6), (HOST, socket.AF_INET))
            ]

        async def close(self): ...

    async def hello(request):
        return web.Response(text=request.host)

    async def main():
        async with serving(app_of(web.get("/", hello))) as port:
            connector = aiohttp.TCPConnector(
                resolver=Resolver(), happy_eyeballs_delay=0.05, interleave=1
            )
            async with aiohttp.ClientSession(connector=connector) as session:
                async with session.get(f"http://two.test:{port}/") as response:
                    assert await response.text() == f"two.test:{port}"

    run_ff(main())


@pytest.mark.parametrize("policy", ["kernel", "adopt"])
def test_sock_site(run_ff, policy):
    """A socket of the application's own, as it would come from systemd."""

    async def hello(request):
        assert on_stack(request.transport) == (policy == "adopt" or not run_ff.by_ring)
        return web.Response(text="hello")

    async def main():
        sock = socket.create_server((BIND, 0))
        port = sock.getsockname()[1]
        runner = web.AppRunner(app_of(web.get("/", hello)), access_log=None)
        await runner.setup()
        await web.SockSite(runner, sock).start()
        assert runner.addresses == [(BIND, port)]
        async with aiohttp.ClientSession() as session:
            host = HOST if policy == "adopt" else PEER
            async with session.get(f"http://{host}:{port}/") as response:
                assert await response.text() == "hello"
        await runner.cleanup()
        assert sock.fileno() == -1

    run_ff(main(), kernel_sockets=policy)


def test_a_server_that_goes(run_ff):
    """Errors are aiohttp's own: nothing of ffloop's leaks through."""

    async def cut(request):
        request.transport.abort()
        return web.Response()

    async def main():
        async with client_of(app_of(web.get("/", cut))) as session:
            with pytest.raises(aiohttp.ClientConnectionError):
                await session.get("/")
        with socket.socket() as unused:
            unused.bind((PEER, 0))
            port = unused.getsockname()[1]
            async with aiohttp.ClientSession() as session:
                with pytest.raises(aiohttp.ClientConnectorError):
                    await session.get(f"http://{PEER}:{port}/")

    run_ff(main())
