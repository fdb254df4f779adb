"""A server for `ffloop bench`: `server.py LOOP APP BYTES [HOST]`.

LOOP: asyncio, uvloop, rloop, ffloop, ffloop-ring. APP, HTTP: raw (an asyncio.Protocol), tls (raw
over TLS), aiohttp; echo: echo-protocol, echo-streams, echo-sockets.

Prints one line of JSON when it listens: its port and pid, and the pid of the ffloop instance or
null. Ends on SIGTERM, or with its standard input, so that it cannot outlive the benchmark.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine

CHUNK = 256 * 1024  # bytes that an echo reads at once at most
RAW_RESPONSE = 602  # bytes of the response for BYTES = 0: a small page with its header


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """A function that makes a loop, by the loop's name in the tables."""
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    if name == "ffloop-ring":
        import ffloop

        return functools.partial(ffloop.new_event_loop, instance="spawn")
    factory: Callable[[], asyncio.AbstractEventLoop]
    factory = importlib.import_module(name).new_event_loop
    return factory


def raw_response(size: int) -> bytes:
    if size:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
        return head + b"x" * size
    body = RAW_RESPONSE - len(b"HTTP/1.1 200 OK\r\nContent-Length: 000\r\n\r\n")
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % body + b"x" * body


async def serve(
    factory: Callable[[], asyncio.BaseProtocol], host: str, tls: ssl.SSLContext | None = None
) -> int:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, host, 0, backlog=1024, ssl=tls)
    port: int = server.sockets[0].getsockname()[1]
    return port


class Written(asyncio.Protocol):
    """Base of both protocols: keeps the transport's write."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = transport.write  # type: ignore[attr-defined]


async def serve_raw(size: int, host: str, tls: ssl.SSLContext | None = None) -> int:
    response = raw_response(size)

    class Http(Written):
        def data_received(self, data: bytes) -> None:
            if data.endswith(b"\r\n\r\n"):
                self.write(response)

    return await serve(Http, host, tls)


def tls_context() -> ssl.SSLContext:
    """A server context with a self-signed certificate. Raises CalledProcessError where openssl
    fails."""
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=bench"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        files = (f"{folder}/certificate", f"{folder}/key")
        command = ["openssl", *made.split(), "-out", files[0], "-keyout", files[1]]
        subprocess.run(command, check=True, capture_output=True)
        context.load_cert_chain(*files)
    return context


async def serve_tls(size: int, host: str) -> int:
    return await serve_raw(size, host, tls_context())


class Echo(Written):
    def data_received(self, data: bytes) -> None:
        self.write(data)


async def serve_protocol(size: int, host: str) -> int:
    return await serve(Echo, host)


async def serve_streams(size: int, host: str) -> int:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await reader.read(CHUNK):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, host, 0, backlog=1024)
    port: int = server.sockets[0].getsockname()[1]
    return port


async def serve_sockets(size: int, host: str) -> int:
    loop = asyncio.get_running_loop()
    listener = new_socket(loop)
    listener.bind((host, 0))
    listener.listen(1024)

    async def echo(connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := await loop.sock_recv(connection, CHUNK):
                await loop.sock_sendall(connection, data)

    async def accept() -> None:
        while True:
            connection, _ = await loop.sock_accept(listener)
            task = loop.create_task(echo(connection))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    tasks = {loop.create_task(accept())}
    port: int = listener.getsockname()[1]
    return port


def new_socket(loop: asyncio.AbstractEventLoop) -> socket.socket:
    """A non-blocking socket: ffloop.socket where ffloop is loaded, else socket.socket."""
    module = sys.modules.get("ffloop")
    made: socket.socket = (socket if module is None else module).socket()
    made.setblocking(False)
    return made


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


APPS: dict[str, Callable[[int, str], Coroutine[None, None, int]]] = {
    "raw": serve_raw,
    "tls": serve_tls,
    "aiohttp": serve_aiohttp,
    "echo-protocol": serve_protocol,
    "echo-streams": serve_streams,
    "echo-sockets": serve_sockets,
}


def instance_pid(loop: asyncio.AbstractEventLoop) -> int | None:
    instance = getattr(loop, "instance", None)
    return getattr(instance, "pid", None)


async def main(app: str, size: int, host: str = "127.0.0.1") -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(0, stop.set)
    port = await APPS[app](size, host)
    line = {"port": port, "pid": os.getpid(), "instance": instance_pid(loop)}
    with contextlib.suppress(BrokenPipeError):  # the command was interrupted and has ended
        os.write(1, json.dumps(line).encode() + b"\n")
        await stop.wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory(sys.argv[1])) as runner:
        runner.run(main(sys.argv[2], int(sys.argv[3]), *sys.argv[4:]))
