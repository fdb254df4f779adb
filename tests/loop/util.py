"""Protocols and helpers that the loop tests share."""

import asyncio
import contextlib
import os
import pathlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

# Where the loop's own sockets are, the test's kernel sockets (the peer), and what a server's parent
# binds to on the kernel, which has no address of the stack's. On F-Stack conftest puts the
# network's addresses in their place, here and in the test's module.
HOSTS = [f"127.0.0.{n}" for n in range(1, 5)]
HOST = PEER = BIND = HOSTS[0]
HOST6 = "::1"


class Log(asyncio.Protocol):
    """Writes down every callback; futures tell of the important ones."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.calls: list[Any] = []
        self.data = bytearray()
        self.transport: Any = None
        self.made = loop.create_future()
        self.eof = loop.create_future()
        self.lost = loop.create_future()
        self._wanted: list[tuple[int, asyncio.Future[None]]] = []
        self.keep_open = False
        self.paused = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.calls.append("made")
        if not self.made.done():
            self.made.set_result(transport)

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        assert data
        if not self.calls or self.calls[-1] != "data":
            self.calls.append("data")
        self.data += data
        self._wake()

    def _wake(self) -> None:
        for size, fut in self._wanted:
            if len(self.data) >= size and not fut.done():
                fut.set_result(None)

    def eof_received(self) -> bool:
        self.calls.append("eof")
        if not self.eof.done():
            self.eof.set_result(None)
        return self.keep_open

    def connection_lost(self, exc: BaseException | None) -> None:
        self.calls.append(("lost", type(exc)))
        for _, fut in self._wanted:
            if not fut.done():
                fut.set_exception(exc or ConnectionError("lost"))
        if not self.lost.done():
            self.lost.set_result(exc)

    def pause_writing(self) -> None:
        self.paused += 1
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    async def got(self, size: int) -> bytes:
        """Waits until `size` bytes were received in all; returns everything so far."""
        fut: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wanted.append((size, fut))
        self._wake()
        await fut
        return bytes(self.data)


def asyncio_leaves_sockets(test: Any) -> Any:
    """Marks a test in which asyncio's own code leaves a socket to the collector."""
    ignored = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
    return ignored(pytest.mark.usefixtures("collected")(test))


@contextlib.asynccontextmanager
async def serve(factory: Any = Log, **kwargs: Any) -> AsyncIterator[tuple[Any, tuple[str, int]]]:
    """A server on a port of its own: (server, address)."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, kwargs.pop("host", HOST), 0, **kwargs)
    try:
        yield server, server.sockets[0].getsockname()[:2]
    finally:
        server.close()


@contextlib.asynccontextmanager
async def pair(
    server_factory: Any = Log, client_factory: Any = Log, **kwargs: Any
) -> AsyncIterator[tuple[Any, Any]]:
    """A connection: (client protocol, server protocol), both after connection_made."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[Any] = loop.create_future()

    def factory() -> Any:
        protocol = server_factory()
        if not made.done():
            made.set_result(protocol)
        return protocol

    server_kwargs = {k: v for k, v in kwargs.items() if k == "ssl_server"}
    client_kwargs = {k: v for k, v in kwargs.items() if k == "ssl_client"}
    async with serve(factory, ssl=server_kwargs.get("ssl_server")) as (_, addr):
        more = {}
        if client_kwargs:
            more = {"ssl": client_kwargs["ssl_client"], "server_hostname": "localhost"}
        transport, client = await loop.create_connection(client_factory, *addr, **more)
        server = await made
        if hasattr(server, "made"):
            await server.made
        try:
            yield client, server
        finally:
            for each in (transport, getattr(server, "transport", None)):
                if each is not None and not each.is_closing():  # asyncio: never after a close
                    each.abort()
            for protocol in (client, server):
                if hasattr(protocol, "lost"):
                    await protocol.lost


async def until(predicate: Callable[[], Any]) -> None:
    """Waits until the predicate holds (the test's time limit bounds it).

    Another thread looks, so that the loop may sleep, and what is to come has to wake it: a loop
    that looked itself would never sleep, and a lost wake-up would fail no test.
    """
    for _ in range(3):
        if predicate():
            return
        await asyncio.sleep(0)
    loop, over = asyncio.get_running_loop(), threading.Event()
    found: asyncio.Future[None] = loop.create_future()

    def tell(exc: BaseException | None) -> None:
        if not found.done():
            found.set_exception(exc) if exc else found.set_result(None)

    def look() -> None:
        problem = None
        try:
            while not predicate():
                if over.wait(0.0005):
                    return
        except BaseException as exc:
            problem = exc
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, problem)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        await found
    finally:
        over.set()
        looking.join()


async def until_told(question: Callable[[], Any]) -> None:
    """Waits until the loop's own figures, which only its thread may ask for, say so."""
    while not question():
        await asyncio.sleep(0.01)


def listeners(port: int) -> set[str]:
    """The names of the processes that hold a listening TCP socket of the kernel's at this port."""
    inodes = {
        line.split()[9]
        for table in ("tcp", "tcp6")
        for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
    }
    return {
        pathlib.Path("/proc", pid, "comm").read_text().strip()
        for pid in os.listdir("/proc")
        if inodes and pid.isdigit() and _holds(pid, inodes)
    }


def _holds(pid: str, inodes: set[str]) -> bool:
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/{pid}/fd/{fd}")
                if target.startswith("socket:[") and target[8:-1] in inodes:
                    return True
    return False
