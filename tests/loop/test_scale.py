"""Many connections on one loop. FFLOOP_SCALE=full runs the full sizes (10,000 and 24,000), with the
memory of a connection in the output (pytest -s)."""

import asyncio
import contextlib
import gc
import os
import pathlib
import resource
import socket
import time

import psutil

from .util import HOST, until, until_told

FULL = os.environ.get("FFLOOP_SCALE") == "full"
IDLE, ACTIVE, ROUNDS = (10_000, 1000, 20) if FULL else (800, 80, 10)
SHORT = 24_000 if FULL else 1500
IDLE_SECONDS = 20 if FULL else 3


def many_descriptors(stack: contextlib.ExitStack) -> None:
    """Room for the kernel's ends of the connections, which this process holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))


def resident(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def open_sockets(loop) -> tuple[int, int]:
    """As the application and as the instance count them, if there is one."""
    stats = loop.ffloop_stats()
    if loop.instance.direct:
        return stats["app_sockets"], stats["app_sockets"]
    return stats["app_sockets"], stats["inst_sockets"]


class Echo(asyncio.Protocol):
    open = 0

    def connection_made(self, transport):
        Echo.open += 1
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def connection_lost(self, exc):
        Echo.open -= 1


def test_idle_and_active(run_ff, no_leaks):
    """10,000 open, 1,000 of them busy: all are answered, and what they cost is given back."""

    def dial(address, count):
        return [socket.create_connection(address) for _ in range(count)]

    def play(peers):
        took = []
        for turn in range(ROUNDS):
            began = time.perf_counter()
            for i, peer in enumerate(peers):
                peer.sendall(b"%06d %06d" % (turn, i))
            for i, peer in enumerate(peers):
                assert peer.recv(100) == b"%06d %06d" % (turn, i)
            took.append(time.perf_counter() - began)
        return sorted(took)[len(took) // 2]

    async def main():
        loop = asyncio.get_running_loop()
        Echo.open = 0
        server = await loop.create_server(Echo, HOST, 0, backlog=1024)
        address = server.sockets[0].getsockname()
        gc.collect()
        before = resident(os.getpid()), resident(loop.instance.pid)
        peers = await loop.run_in_executor(None, dial, address, IDLE)
        await until(lambda: Echo.open == IDLE)
        after = resident(os.getpid()), resident(loop.instance.pid)
        assert open_sockets(loop)[1] == IDLE + 1
        median = await loop.run_in_executor(None, play, peers[:: IDLE // ACTIVE])
        app, instance = ((b - a) / IDLE for a, b in zip(before, after, strict=True))
        print(
            f"\n{IDLE} connections: {app:.0f} bytes each in the application (the kernel's ends "
            f"included), {instance:.0f} in the instance; {ACTIVE} echoes in {median * 1e3:.1f} ms"
        )
        for peer in peers:
            peer.close()
        await until(lambda: not Echo.open)
        await until_told(lambda: open_sockets(loop) == (1, 1))
        server.close()
        await server.wait_closed()

    with contextlib.ExitStack() as stack:
        many_descriptors(stack)
        run_ff(main())


def on_cpu(pid: int) -> float:
    """Seconds that the threads of a process have run, to the nanosecond."""
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sum(int((t / "schedstat").read_text().split()[0]) for t in tasks) / 1e9


def test_idle_costs_nothing(run_ff, no_leaks):
    """1,000 open connections, and nobody says a word: application and instance together take less
    than one percent of a CPU."""

    async def main():
        loop = asyncio.get_running_loop()
        Echo.open = 0
        server = await loop.create_server(Echo, HOST, 0, backlog=1024)
        address = server.sockets[0].getsockname()
        peers = await loop.run_in_executor(
            None, lambda: [socket.create_connection(address) for _ in range(1000)]
        )
        await until(lambda: Echo.open == 1000)
        pids = os.getpid(), loop.instance.pid
        gc.collect()
        began, before = time.monotonic(), [on_cpu(pid) for pid in pids]
        await asyncio.sleep(IDLE_SECONDS)
        share = [
            100 * (on_cpu(pid) - b) / (time.monotonic() - began)
            for pid, b in zip(pids, before, strict=True)
        ]
        print(
            f"\nidle: {share[0]:.3f}% of a CPU in the application, {share[1]:.3f}% in the instance"
        )
        assert sum(share) < 1
        for peer in peers:
            peer.close()
        await until(lambda: not Echo.open)
        server.close()
        await server.wait_closed()

    with contextlib.ExitStack() as stack:
        many_descriptors(stack)
        run_ff(main())


def test_short_connections(run_ff, no_leaks):
    """24,000 that live for one question: no handle, buffer or receiver is left behind."""

    def ask(address):
        for i in range(SHORT):
            with socket.create_connection(address) as peer:
                peer.sendall(b"%d" % i)
                assert peer.recv(100) == b"%d" % i

    async def main():
        loop = asyncio.get_running_loop()
        Echo.open = 0
        server = await loop.create_server(Echo, HOST, 0, backlog=1024)
        address = server.sockets[0].getsockname()
        began = time.perf_counter()
        await loop.run_in_executor(None, ask, address)
        print(f"\n{SHORT / (time.perf_counter() - began):.0f} short connections a second")
        await until_told(lambda: open_sockets(loop) == (1, 1))
        assert loop.ffloop_stats()["accepts"] == SHORT
        server.close()
        await server.wait_closed()

    run_ff(main())
