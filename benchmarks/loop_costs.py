"""CPU time that a loop itself costs: callbacks, timers, wake-ups, literals, connections within it.

`python benchmarks/loop_costs.py` compares asyncio, uvloop and rloop (those that are installed) and
ffloop in one run: five rounds per row, in each of which every loop does the row in a process of its
own. A figure is the median of the process's CPU nanoseconds per operation; the one beside it is the
speed in times uvloop's (more is better). A loop that fails a row, or does not end it, has `nan`
there, and a line on standard error.
"""

import argparse
import asyncio
import importlib
import importlib.util
import json
import math
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine
from typing import Any

LOOPS = ("asyncio", "uvloop", "rloop", "ffloop")
LIMIT = 60.0  # seconds for one row of one loop; most take less than two
Row = Callable[[asyncio.AbstractEventLoop, int], Coroutine[Any, Any, None]]


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    module = asyncio if name == "asyncio" else importlib.import_module(name)
    made: asyncio.AbstractEventLoop = module.new_event_loop()
    return made


async def _chain(loop: asyncio.AbstractEventLoop, count: int, *args: Any) -> None:
    done = loop.create_future()
    left = count

    def step(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(step, *args)
        else:
            done.set_result(None)

    loop.call_soon(step, *args)
    await done


async def call_soon(loop: asyncio.AbstractEventLoop, count: int) -> None:
    await _chain(loop, count)


async def call_soon_with_arguments(loop: asyncio.AbstractEventLoop, count: int) -> None:
    await _chain(loop, count, 1, "two", None)


async def timers_that_fire(loop: asyncio.AbstractEventLoop, count: int) -> None:
    done = loop.create_future()
    left = count

    def fired() -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set_result(None)

    for i in range(count):
        loop.call_later((i % 100) / 1e5, fired)
    await done


async def timers_that_are_cancelled(loop: asyncio.AbstractEventLoop, count: int) -> None:
    for i in range(count):
        loop.call_later(60 + i % 7, print).cancel()
        if i % 100 == 0:
            await asyncio.sleep(0)


async def call_soon_threadsafe(loop: asyncio.AbstractEventLoop, count: int) -> None:
    done = loop.create_future()
    turn = threading.Semaphore(0)

    def other() -> None:
        for _ in range(count):
            loop.call_soon_threadsafe(turn.release)
            turn.acquire()
        loop.call_soon_threadsafe(done.set_result, None)

    thread = threading.Thread(target=other)
    thread.start()
    await done
    thread.join()


async def sleep_zero(loop: asyncio.AbstractEventLoop, count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def getaddrinfo_of_a_literal(loop: asyncio.AbstractEventLoop, count: int) -> None:
    for _ in range(count):
        await loop.getaddrinfo("127.0.0.1", 80)


class _Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = transport.write  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.write(data)


class _Asks(asyncio.Protocol):
    """Sends `count` messages of `size` bytes, each after the answer to the one before."""

    def __init__(self, done: "asyncio.Future[None]", size: int, count: int) -> None:
        self.done, self.message, self.left, self.missing = done, b"x" * size, count, size

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.transport.write(self.message)

    def data_received(self, data: bytes) -> None:
        self.missing -= len(data)
        if self.missing:
            return
        self.left -= 1
        if not self.left:
            self.transport.close()
            self.done.set_result(None)
            return
        self.missing = len(self.message)
        self.transport.write(self.message)


async def echo_1_kib(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """One message at a time; both ends are in this loop."""
    server = await loop.create_server(_Echo, "127.0.0.1", 0)
    done: asyncio.Future[None] = loop.create_future()
    address = server.sockets[0].getsockname()
    await loop.create_connection(lambda: _Asks(done, 1024, count), *address)
    await done
    server.close()


async def streams_echo_1_kib(loop: asyncio.AbstractEventLoop, count: int) -> None:
    served = loop.create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()
        served.set_result(None)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    for _ in range(count):
        writer.write(b"x" * 1024)
        await reader.readexactly(1024)
    writer.close()
    await served
    server.close()


class _Datagrams(asyncio.DatagramProtocol):
    """Answers what it gets, `count` times; then `done` is."""

    def __init__(self, count: float, done: "asyncio.Future[None] | None" = None) -> None:
        self.left, self.done = count, done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        if self.done:
            self.transport.sendto(b"x" * 100)

    def datagram_received(self, data: bytes, source: Any) -> None:
        self.left -= 1
        if self.left:
            self.transport.sendto(data, None if self.done else source)
        elif self.done:
            self.done.set_result(None)


async def udp_echo(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """One datagram at a time; both ends are in this loop."""
    done: asyncio.Future[None] = loop.create_future()
    served, _ = await loop.create_datagram_endpoint(
        lambda: _Datagrams(float("inf")), local_addr=("127.0.0.1", 0)
    )
    asks, _ = await loop.create_datagram_endpoint(
        lambda: _Datagrams(count, done), remote_addr=served.get_extra_info("sockname")
    )
    await done
    asks.close()
    served.close()


async def udp_bursts(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """20 datagrams at once; both ends are in this loop."""
    left = 0

    class Counts(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, source: Any) -> None:
            nonlocal left
            left -= 1
            if not left:
                turn.set()

    turn = asyncio.Event()
    served, _ = await loop.create_datagram_endpoint(Counts, local_addr=("127.0.0.1", 0))
    sends, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=served.get_extra_info("sockname")
    )
    for _ in range(count // 20):
        left = 20
        turn.clear()
        for _ in range(20):
            sends.sendto(b"x" * 100)
        await turn.wait()
    sends.close()
    served.close()


async def add_reader(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """A byte through a socket pair, for a callback of add_reader()."""
    near, far = socket.socketpair()
    done, left = loop.create_future(), count

    def readable() -> None:
        nonlocal left
        left -= len(far.recv(16))
        near.send(b"x") if left else done.set_result(None)

    with near, far:
        loop.add_reader(far.fileno(), readable)
        near.send(b"x")
        await done
        loop.remove_reader(far.fileno())


async def add_and_remove_reader(loop: asyncio.AbstractEventLoop, count: int) -> None:
    near, far = socket.socketpair()
    with near, far:
        for _ in range(count):
            loop.add_reader(far, print)
            loop.remove_reader(far)


async def add_writer(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """A callback of add_writer() on a socket that stays writable."""
    near, far = socket.socketpair()
    done, left = loop.create_future(), count

    def writable() -> None:
        nonlocal left
        left -= 1
        if not left:
            loop.remove_writer(near)
            done.set_result(None)

    with near, far:
        loop.add_writer(near, writable)
        await done


async def sock_accept(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """A sock_accept() that waits, and the sock_connect() that it waits for."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        for _ in range(count):
            with socket.socket() as sock:
                sock.setblocking(False)
                accepting = loop.create_task(loop.sock_accept(listener))
                await loop.sock_connect(sock, listener.getsockname())
                (await accepting)[0].close()


async def sock_calls_echo(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """512 bytes at a time by sock_sendall and sock_recv; both ends are in this loop."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)

    async def serve() -> None:
        while data := await loop.sock_recv(far, 1024):
            await loop.sock_sendall(far, data)

    with near, far:
        served = loop.create_task(serve())
        for _ in range(count):
            await loop.sock_sendall(near, b"x" * 512)
            await loop.sock_recv(near, 1024)
        near.shutdown(socket.SHUT_WR)
        await served


async def in_the_executor(loop: asyncio.AbstractEventLoop, count: int) -> None:
    for _ in range(count):
        await loop.run_in_executor(None, int)


async def getaddrinfo_of_a_name(loop: asyncio.AbstractEventLoop, count: int) -> None:
    for _ in range(count):
        await loop.getaddrinfo("localhost", 80)


async def subprocesses(loop: asyncio.AbstractEventLoop, count: int) -> None:
    for _ in range(count):
        child = await asyncio.create_subprocess_exec("true")
        await child.wait()


async def tasks_with_a_timeout(loop: asyncio.AbstractEventLoop, count: int) -> None:
    for _ in range(count):
        await asyncio.wait_for(asyncio.sleep(0), 5)


async def pipe_512(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """512 bytes at a time, through a pipe's transports to a stream."""
    reader = asyncio.StreamReader()
    ends = [os.fdopen(fd, mode, 0) for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True)]
    reading, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), ends[0])
    writing, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, ends[1])
    for _ in range(count):
        writing.write(b"x" * 512)
        await reader.readexactly(512)
    writing.close()
    reading.close()


async def unix_connections(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """As new_connections, over a unix socket."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/socket"
        server = await loop.create_unix_server(_Echo, path)
        for _ in range(count):
            done: asyncio.Future[None] = loop.create_future()
            await loop.create_unix_connection(lambda done=done: _Asks(done, 16, 1), path)  # type: ignore[misc]
            await done
        server.close()


async def events(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """Two tasks that wait for each other by asyncio.Event."""
    near, far = asyncio.Event(), asyncio.Event()

    async def other() -> None:
        for _ in range(count):
            await near.wait()
            near.clear()
            far.set()

    task = loop.create_task(other())
    for _ in range(count):
        near.set()
        await far.wait()
        far.clear()
    await task


async def gathered(loop: asyncio.AbstractEventLoop, count: int) -> None:
    async def nothing() -> None:
        pass

    for _ in range(count // 100):
        await asyncio.gather(*(nothing() for _ in range(100)))


async def signals(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """A callback of add_signal_handler() per signal."""
    done, left = loop.create_future(), count

    def caught() -> None:
        nonlocal left
        left -= 1
        os.kill(os.getpid(), signal.SIGUSR1) if left else done.set_result(None)

    loop.add_signal_handler(signal.SIGUSR1, caught)
    os.kill(os.getpid(), signal.SIGUSR1)
    await done
    loop.remove_signal_handler(signal.SIGUSR1)


async def bulk_stream_64_kib(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """Pieces of 64 KiB from one end to the other, with flow control; both ends are in this loop."""
    done: asyncio.Future[None] = loop.create_future()
    left = count * 65536

    class Sink(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            nonlocal left
            left -= len(data)
            if not left:
                done.set_result(None)

    server = await loop.create_server(Sink, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    piece = b"x" * 65536
    for _ in range(count):
        writer.write(piece)
        await writer.drain()
    await done
    writer.close()
    server.close()


async def new_connections(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """Each connects, sends one message, takes its answer and closes."""
    server = await loop.create_server(_Echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    for _ in range(count):
        done: asyncio.Future[None] = loop.create_future()
        await loop.create_connection(lambda done=done: _Asks(done, 16, 1), *address)  # type: ignore[misc]
        await done
    server.close()


async def streams_connections(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """As new_connections, by streams."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    for _ in range(count):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"x" * 16)
        await reader.read()
        writer.close()
        await writer.wait_closed()
    server.close()


ROWS: dict[str, tuple[Row, int]] = {
    "call_soon": (call_soon, 300_000),
    "call_soon, 3 arguments": (call_soon_with_arguments, 300_000),
    "timer that fires": (timers_that_fire, 100_000),
    "timer that is cancelled": (timers_that_are_cancelled, 100_000),
    "call_soon_threadsafe": (call_soon_threadsafe, 20_000),
    "sleep(0)": (sleep_zero, 200_000),
    "getaddrinfo of a literal": (getaddrinfo_of_a_literal, 10_000),
    "echo of 1 KiB": (echo_1_kib, 20_000),
    "streams echo of 1 KiB": (streams_echo_1_kib, 20_000),
    "UDP echo of 100 bytes": (udp_echo, 20_000),
    "UDP, 20 at once": (udp_bursts, 40_000),
    "add_reader": (add_reader, 50_000),
    "add_writer": (add_writer, 100_000),
    "add_reader, remove_reader": (add_and_remove_reader, 30_000),
    "sock_sendall, sock_recv": (sock_calls_echo, 10_000),
    "sock_accept, sock_connect": (sock_accept, 3_000),
    "pipe, 512 bytes": (pipe_512, 20_000),
    "run_in_executor": (in_the_executor, 5_000),
    "getaddrinfo of a name": (getaddrinfo_of_a_name, 1_000),
    "subprocess": (subprocesses, 100),
    "wait_for": (tasks_with_a_timeout, 20_000),
    "bulk stream of 64 KiB": (bulk_stream_64_kib, 10_000),
    "connect, ask, close": (new_connections, 3_000),
    "the same, unix": (unix_connections, 3_000),
    "the same, streams": (streams_connections, 2_000),
    "Event": (events, 20_000),
    "gather": (gathered, 50_000),
    "signal": (signals, 10_000),
}


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(name: str, row: str) -> float:
    """Nanoseconds of CPU time per operation, in this process."""
    work, count = ROWS[row]
    loop = new_loop(name)
    try:
        loop.run_until_complete(work(loop, count // 10))
        before = cpu()
        loop.run_until_complete(work(loop, count))
        return (cpu() - before) / count * 1e9
    finally:
        loop.close()


def in_a_process(name: str, row: str) -> float:
    """As measure(); nan, and a line that says why, where the loop has not the row or does not end
    it, as rloop 0.5.0 its rows of streams."""
    command = [sys.executable, "-P", __file__, "--one", name, row]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT)
        return float(json.loads(ran.stdout))
    except subprocess.CalledProcessError as exc:
        why = exc.stderr.strip().split("\n")[-1]
    except subprocess.TimeoutExpired:
        why = f"not done after {LIMIT:.0f} s"
    print(f"{row}: {name}: {why}", file=sys.stderr, flush=True)
    return math.nan


def medians(row: str, loops: list[str], rounds: int) -> dict[str, float]:
    """By loop; nan for one that failed, which is not asked again."""
    seen: dict[str, list[float]] = {name: [] for name in loops}
    failed: set[str] = set()
    for _ in range(rounds):
        for name in loops:
            if name not in failed:
                seen[name].append(in_a_process(name, row))
            if math.isnan(seen[name][-1]):
                failed.add(name)
    return {name: math.nan if name in failed else statistics.median(seen[name]) for name in loops}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--one", nargs=2, metavar=("LOOP", "ROW"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one)))
        return
    loops = [name for name in LOOPS if importlib.util.find_spec(name)]
    print(f"{'ns of CPU':26}" + "".join(f"{name:>18}" for name in loops), flush=True)
    for row in args.rows:
        taken = medians(row, loops, args.rounds)
        bar = taken.get("uvloop", taken["asyncio"])
        figures = "".join(f"{v:10.0f} {bar / v:6.2f}x" for v in taken.values())
        print(f"{row:26}" + figures, flush=True)


if __name__ == "__main__":
    main()
