"""A good client's round trips beside hostile sessions of the same instance.

python benchmarks/neighbours.py [SECONDS]

One application echoes 1 KiB to itself over a connection, while another one does, as fast as it can,
what costs its instance most. For each kind of work: the good one's round trips in ms, at the 50th,
99th and 99.9th percentile. The neighbour's entries are valid; 50 ms at the 99.9th are promised
(docs/trust.md). The figures are those of a quiet machine.
"""

import asyncio
import contextlib
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ffloop
from ffloop._session.discovery import executable

HOST = "127.0.0.1"
SIZE = 1024
THINK_S = 0.0002  # between round trips


# ---- what a neighbour does ---------------------------------------------------------------------


def listeners() -> None:
    kept: list[ffloop.socket] = []
    while len(kept) < 3000:
        kept.append(ffloop.socket())
        kept[-1].bind((HOST, 0))
        kept[-1].listen()
    binds()


def binds() -> None:
    with ffloop.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        while True:
            with contextlib.suppress(OSError):
                sock.bind((HOST, 0))


async def opens() -> None:
    while True:
        with contextlib.suppress(OSError):  # EMFILE, until the handles come back
            for _ in range(256):
                ffloop.socket().close()
        await asyncio.sleep(0)


def datagrams(count: int = 1) -> None:
    socks = [ffloop.socket(type=socket.SOCK_DGRAM) for _ in range(count)]
    while True:
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.sendto(bytes(65000), (HOST, 9))


def queues_of_datagrams() -> None:
    datagrams(500)


def memberships() -> None:
    group = socket.inet_aton("239.255.7.7") + socket.inet_aton(HOST)
    with ffloop.socket(type=socket.SOCK_DGRAM) as sock:
        while True:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, group)


async def refused() -> None:
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(OSError):
            await loop.create_connection(asyncio.Protocol, HOST, 1)


async def pours() -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 20):
            pass

    async def pour(port: int) -> None:
        _, writer = await asyncio.open_connection(HOST, port)
        while True:
            writer.write(bytes(1 << 20))
            await writer.drain()

    server = await asyncio.start_server(swallow, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    await asyncio.gather(*(pour(port) for _ in range(8)))


KINDS: tuple[Callable[[], object], ...] = (
    listeners, binds, opens, datagrams, queues_of_datagrams, memberships, refused, pours,
)  # fmt: skip


def neighbour(kind: int, path: str) -> None:
    os.environ["FFLOOP_INSTANCE"] = path
    work = KINDS[kind]
    if asyncio.iscoroutinefunction(work):
        ffloop.run(work(), instance=path)

    async def within() -> None:
        work()

    ffloop.run(within(), instance=path)


# ---- the good client ---------------------------------------------------------------------------


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def good(seconds: float) -> list[float]:
    """Round trips, in ms."""
    server = await asyncio.get_running_loop().create_server(Echo, HOST, 0)
    reader, writer = await asyncio.open_connection(HOST, server.sockets[0].getsockname()[1])
    took = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        writer.write(bytes(SIZE))
        await reader.readexactly(SIZE)
        took.append((time.perf_counter() - began) * 1e3)
        await asyncio.sleep(THINK_S)
    writer.close()
    server.close()
    return took


@contextlib.contextmanager
def instance() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "i.sock")
        process = subprocess.Popen([executable(), "--socket", path], stdout=subprocess.DEVNULL)
        try:
            while not os.path.exists(path):
                time.sleep(0.01)
            yield path
        finally:
            process.kill()
            process.wait()


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    spawn = multiprocessing.get_context("spawn")
    print(f"{'beside':22} {'round trips':>11} {'p50':>7} {'p99':>7} {'p99.9':>7}  ms")
    for kind in range(-1, len(KINDS)):
        with instance() as path:
            other = spawn.Process(target=neighbour, args=(kind, path), daemon=True)
            if kind >= 0:
                other.start()
            took = ffloop.run(good(seconds + 1), instance=path)
            if kind >= 0:
                assert other.is_alive(), "the neighbour has ended"
                other.kill()
        cut = statistics.quantiles(took, n=1000)
        name = KINDS[kind].__name__ if kind >= 0 else "nobody"
        print(f"{name:22} {len(took):11} {cut[499]:7.2f} {cut[989]:7.2f} {cut[998]:7.2f}")


if __name__ == "__main__":
    main()
