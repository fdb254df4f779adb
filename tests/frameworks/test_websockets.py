"""The websockets library, server and client, on ffloop."""

import asyncio
import random

import pytest
from loop.util import HOST

from .util import on_stack

websockets = pytest.importorskip("websockets")
from websockets.asyncio.client import connect  # noqa: E402
from websockets.asyncio.server import serve  # noqa: E402

PATIENT = {"open_timeout": None, "ping_interval": None, "close_timeout": None}
BODY = random.Random(6).randbytes(700_000)


async def echo(connection):
    assert on_stack(connection.transport)
    async for message in connection:
        await connection.send(message)


@pytest.mark.parametrize("secure", [False, True])
def test_echo(run_ff, tls, secure):
    server_tls, client_tls = tls if secure else (None, None)
    scheme = "wss" if secure else "ws"

    async def main():
        async with serve(echo, HOST, 0, ssl=server_tls, **PATIENT) as server:
            port = server.sockets[0].getsockname()[1]
            url = f"{scheme}://{HOST}:{port}/"

            async def talk(number):
                async with connect(url, ssl=client_tls, **PATIENT) as connection:
                    assert on_stack(connection.transport)
                    for i in range(20):
                        await connection.send(f"{number} {i}")
                    for i in range(20):
                        assert await connection.recv() == f"{number} {i}"
                    await (await connection.ping())

            await asyncio.gather(*map(talk, range(10)))
            async with connect(url, ssl=client_tls, **PATIENT) as connection:
                await connection.send(BODY)
                assert await connection.recv() == BODY
                # A fragmented message, and a close with a reason.
                await connection.send(iter(["in ", "two"]))
                assert await connection.recv() == "in two"
                await connection.close(4000, "enough")
            assert (connection.close_code, connection.close_reason) == (4000, "enough")

    run_ff(main())


def test_a_server_that_closes(run_ff):
    async def main():
        server = await serve(echo, HOST, 0, **PATIENT)
        url = f"ws://{HOST}:{server.sockets[0].getsockname()[1]}/"
        async with connect(url, **PATIENT) as connection:
            server.close()
            with pytest.raises(websockets.ConnectionClosed):
                await connection.recv()
        await server.wait_closed()
        with pytest.raises(OSError):
            await connect(url, **PATIENT)

    run_ff(main())
