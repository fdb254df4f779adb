"""One HTTP server, for `ffloop bench`: `server.py LOOP APP BYTES [HOST]` (asyncio, uvloop, ffloop;
raw, aiohttp).

Prints one line of JSON when it listens: its port, and the pid of the ffloop instance if there is
one. Ends on SIGTERM, or when its standard input does (so that it cannot outlive the benchmark).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable

RAW_RESPONSE = 602  # bytes in all, for BYTES = 0: a small page with its header


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    if name == "uvloop":
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
        return factory
    import ffloop

    return ffloop.new_event_loop


def raw_response(size: int) -> bytes:
    if size:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
        return head + b"x" * size
    body = RAW_RESPONSE - len(b"HTTP/1.1 200 OK\r\nContent-Length: 000\r\n\r\n")
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % body + b"x" * body


async def serve_raw(size: int, host: str) -> int:
    response = raw_response(size)

    class Http(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.write = transport.write  # type: ignore[attr-defined]

        def data_received(self, data: bytes) -> None:
            if data.endswith(b"\r\n\r\n"):
                self.write(response)

    server = await asyncio.get_running_loop().create_server(Http, host, 0, backlog=1024)
    port: int = server.sockets[0].getsockname()[1]
    return port


async def serve_aiohttp(size: int, host: str) -> int:
    from aiohttp import web

    body = b"x" * size

    async def hello(request: web.Request) -> web.Response:
        if size:
            return web.Response(body=body)
        return web.Response(text="Hello, world")

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, 0, backlog=1024).start()
    port: int = runner.addresses[0][1]
    return port


def instance_pid(loop: asyncio.AbstractEventLoop) -> int | None:
    instance = getattr(loop, "instance", None)
    return getattr(instance, "pid", None)


async def main(app: str, size: int, host: str = "127.0.0.1") -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(0, stop.set)
    port = await {"raw": serve_raw, "aiohttp": serve_aiohttp}[app](size, host)
    line = {"port": port, "pid": os.getpid(), "instance": instance_pid(loop)}
    with contextlib.suppress(BrokenPipeError):  # the command was interrupted and has gone
        os.write(1, json.dumps(line).encode() + b"\n")
        await stop.wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory(sys.argv[1])) as runner:
        runner.run(main(sys.argv[2], int(sys.argv[3]), *sys.argv[4:]))
