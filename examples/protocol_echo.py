"""An echo server with a Protocol: `python examples/protocol_echo.py`, then `nc localhost 8081`."""

import asyncio
import contextlib
import sys

import ffloop


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Echo, None, port)
    for sock in server.sockets:
        print("listening on", sock.getsockname(), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        ffloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8081))
