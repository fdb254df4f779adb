"""Large bodies through an unmodified aiohttp app, byte-exact, up and down, with and without TLS,
the readers pausing at random. FFLOOP_BULK_MIB sets the size (1024 for a release)."""

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from .util import HOST

MIB = int(os.environ.get("FFLOOP_BULK_MIB", "48"))
BLOCK = random.Random(7).randbytes(1 << 20)


def block(i: int) -> bytes:
    """The i-th MiB: differs from the others by more than its place."""
    return i.to_bytes(8, "big") + BLOCK[8:]


def expected() -> str:
    digest = hashlib.sha256()
    for i in range(MIB):
        digest.update(block(i))
    return digest.hexdigest()


async def read_all(content: Any, rng: random.Random) -> tuple[str, int]:
    """The sha256 and length of a stream; now and then the reader does something else, so that
    the transport's flow control stops and starts."""
    digest, size = hashlib.sha256(), 0
    async for chunk in content.iter_chunked(1 << 20):
        digest.update(chunk)
        size += len(chunk)
        if rng.random() < 0.1:
            for _ in range(rng.randrange(20)):
                await asyncio.sleep(0)
    return digest.hexdigest(), size


async def blocks() -> AsyncIterator[bytes]:
    for i in range(MIB):
        yield block(i)


@pytest.mark.timeout(60 + MIB * 2)
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_upload_and_download(run, tls, secure):
    aiohttp = pytest.importorskip("aiohttp")
    from aiohttp import web

    server_tls, client_tls = tls if secure else (None, None)
    rng = random.Random(MIB)

    async def upload(request: web.Request) -> web.Response:
        return web.json_response(await read_all(request.content, rng))

    async def download(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for data in blocks():
            await response.write(data)
        return response

    async def main() -> None:
        app = web.Application(client_max_size=0)
        app.add_routes([web.post("/", upload), web.get("/", download)])
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, HOST, 0, ssl_context=server_tls)
        await site.start()
        url = f"{'https' if secure else 'http'}://{HOST}:{runner.addresses[0][1]}/"
        timeout = aiohttp.ClientTimeout(total=None)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session:
                async with session.post(url, data=blocks(), ssl=client_tls) as answer:
                    up = await answer.json()
                async with session.get(url, ssl=client_tls) as answer:
                    down = await read_all(answer.content, rng)
        finally:
            await runner.cleanup()
        assert up == [expected(), MIB << 20]
        assert down == (expected(), MIB << 20)

    run(main())
