"""An echo server with streams, and a client: `python examples/streams_echo.py`."""

import asyncio

import ffloop


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


async def main() -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    print("listening on", address, "through", ffloop.instance())
    reader, writer = await asyncio.open_connection(*address)
    for word in ("one", "two", "three"):
        writer.write(f"{word}\n".encode())
        print("echoed:", (await reader.readline()).decode().strip())
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


if __name__ == "__main__":
    ffloop.run(main())
