"""A few thousand requests on connections of their own, and on one: with any interpreter."""

import asyncio
import sys
from typing import Any

import ffloop

CONNECTIONS, REQUESTS = 2_000, 5_000  # 15 references to None a connection were once too few


class Echo(asyncio.Protocol):
    transport: Any

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Client(Echo):
    def __init__(self, requests: int) -> None:
        self.left = requests
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.write(b"ping")

    def data_received(self, data: bytes) -> None:
        self.left -= 1
        if self.left:
            self.transport.write(data)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.done.set_result(None)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=1)
    address = server.sockets[0].getsockname()

    async def ask(requests: int) -> int:
        _, client = await loop.create_connection(lambda: Client(requests), *address)
        await client.done
        return requests - client.left

    asked = await ask(REQUESTS)
    for _ in range(CONNECTIONS):
        asked += await ask(1)
    server.close()
    print(f"{asked} answers on Python {sys.version.split()[0]}")


ffloop.run(main())
