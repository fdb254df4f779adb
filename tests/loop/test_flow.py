"""What a transport's write takes, and when; pausing and resuming."""

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import sys

import pytest

import ffloop

from .util import Log, pair, serve, until

MB = 1_000_000


def test_flow_control(run_std):
    async def main():
        async with pair() as (client, server):
            low, high = client.transport.get_write_buffer_limits()
            assert (low, high) == (16384, 65536)
            server.transport.pause_reading()
            written = 0
            while not client.paused:
                client.transport.write(b"x" * 65536)
                written += 65536
            assert client.transport.get_write_buffer_size() > high
            assert client.calls == ["made", "pause"]
            server.transport.resume_reading()
            await server.got(written)
            await until(lambda: client.calls[-1] == "resume")
            assert client.transport.get_write_buffer_size() <= low

    run_std(main())


def test_write_buffer_limits(run):
    async def main():
        async with pair() as (client, _server):
            client.transport.set_write_buffer_limits(high=100)
            assert client.transport.get_write_buffer_limits() == (25, 100)
            client.transport.set_write_buffer_limits(low=10)
            assert client.transport.get_write_buffer_limits() == (10, 40)
            with pytest.raises(ValueError):
                client.transport.set_write_buffer_limits(high=1, low=2)

    run(main())


def test_write_buffer_limits_that_were_divided(run_std):
    async def main():
        async with pair() as (client, _server):
            client.transport.set_write_buffer_limits(high=1001 / 2)
            assert [int(n) for n in client.transport.get_write_buffer_limits()] == [125, 500]

    run_std(main())


def test_a_write_buffer_without_a_limit(run_std):
    async def main():
        async with pair() as (client, _server):
            client.transport.set_write_buffer_limits(math.inf, 0)
            low, high = client.transport.get_write_buffer_limits()
            assert low == 0 and high >= sys.maxsize

    run_std(main())


def test_resume_writing_may_write(run_ff):
    async def main():
        class Pump(Log):
            left = 40

            def resume_writing(self):
                super().resume_writing()
                if self.left:
                    self.left -= 1
                    self.transport.write(b"y" * 300_000)

        async with pair(client_factory=Pump) as (client, server):
            sock = client.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            client.transport.write(b"x" * MB)
            total = MB + 40 * 300_000
            data = await server.got(total)
            assert data == b"x" * MB + b"y" * (total - MB)

    run_ff(main())


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_write_takes(run, kind):
    async def main():
        async with pair() as (client, server):
            data = kind(b"0123456789" * 100_000)
            client.transport.write(data)
            client.transport.write(kind(b""))
            assert await server.got(len(data)) == bytes(data)

    run(main())


def test_a_view_of_every_other_byte_is_written(run_ff):
    async def main():
        async with pair() as (client, server):
            sent = 0
            for size in (10, MB):  # the second time some must wait
                view = memoryview(b"ab" * size)[::2]
                client.transport.write(view)
                client.transport.writelines([view, b"", view])
                sent += 3 * size
                assert await server.got(sent) == b"a" * sent

    run_ff(main())


def test_a_bytearray_may_change_after_write(run_ff):
    async def main():
        async with pair() as (client, server):
            data = bytearray(b"a" * (4 * MB))
            client.transport.write(data)
            data[:] = b"b"
            assert await server.got(4 * MB) == b"a" * (4 * MB)

    run_ff(main())


@pytest.mark.parametrize("bad", ["text", None, 5, [b"x"]])
def test_what_write_refuses(run_std, bad):
    async def main():
        async with pair() as (client, _server):
            with pytest.raises(TypeError):
                client.transport.write(bad)

    run_std(main())


def test_writelines(run):
    async def main():
        async with pair() as (client, server):
            client.transport.writelines([b"a", bytearray(b"b"), memoryview(b"c")])
            client.transport.writelines([])
            client.transport.writelines(iter([b"d" * 200_000, b"e"]))
            data = await server.got(200_004)
            assert data == b"abc" + b"d" * 200_000 + b"e"

    run(main())


FIRST = 64 * 1024  # what a large answer begins with by BBR, a send of its own


@pytest.mark.parametrize(
    "sizes",
    [
        (2 * FIRST + 1,),
        (FIRST, FIRST, 1),
        (FIRST - 1, 1, FIRST + 1),
        (FIRST - 1, 2, FIRST),
        (60, 300_000),
        (60, 0, FIRST - 60, 0, 100_000),
        (*range(1, 63), 300_000),
    ],
)
def test_a_large_answer_is_whole(run, sizes):
    """Wherever its first send ends in its pieces."""

    async def main():
        async with pair() as (client, server):
            with contextlib.suppress(OSError):  # the kernel may not have it
                sock = client.transport.get_extra_info("socket")
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
            pieces = [bytes([i + 1]) * size for i, size in enumerate(sizes)]
            client.transport.writelines(pieces)
            assert await server.got(sum(sizes)) == b"".join(pieces)
            for piece in pieces:
                client.transport.write(piece)
            assert await server.got(2 * sum(sizes)) == 2 * b"".join(pieces)

    run(main())


def test_many_small_writes_keep_their_order(run):
    async def main():
        async with pair() as (client, server):
            server.transport.pause_reading()
            expected = bytearray()
            for i in range(30_000):
                chunk = b"%d," % i * (i % 5)
                expected += chunk
                client.transport.write(chunk)
            server.transport.resume_reading()
            assert await server.got(len(expected)) == expected

    run(main())


def test_writes_after_the_connection_is_lost_warn(run_std, caplog):
    async def main():
        async with pair() as (client, _server):
            client.transport.abort()
            await client.lost
            for _ in range(6):
                client.transport.write(b"x")

    with caplog.at_level(logging.WARNING, "asyncio"):
        run_std(main())
    assert "socket.send() raised exception." in caplog.text


def test_pause_and_resume(run):
    async def main():
        async with pair() as (client, server):
            server.transport.pause_reading()
            assert not server.transport.is_reading()
            server.transport.pause_reading()
            client.transport.write(b"x" * 10)
            for _ in range(20):
                await asyncio.sleep(0)
            assert server.data == b""
            server.transport.resume_reading()
            server.transport.resume_reading()
            assert server.transport.is_reading()
            assert await server.got(10) == b"x" * 10

    run(main())


def test_pausing_slows_the_peer(run):
    """Nothing reads: what fits in the buffers on the way is taken, and no more."""

    async def main():
        async with pair() as (client, server):
            server.transport.pause_reading()
            client.transport.write(b"x" * (64 * MB))
            assert client.transport.get_write_buffer_size() > 0
            for _ in range(200):
                await asyncio.sleep(0)
            assert client.transport.get_write_buffer_size() > 32 * MB
            client.transport.abort()

    run(main())


def test_pause_from_inside_data_received(run):
    async def main():
        class OneAtATime(Log):
            def data_received(self, data):
                super().data_received(data)
                self.transport.pause_reading()
                asyncio.get_running_loop().call_soon(self.transport.resume_reading)

        async with pair(OneAtATime) as (client, server):
            payload = os.urandom(3 * MB)
            client.transport.write(payload)
            client.transport.write_eof()
            assert await server.got(3 * MB) == payload
            await server.eof
            assert server.calls.index("eof") == len(server.calls) - 1 - (
                "lost" in [c[0] for c in server.calls if isinstance(c, tuple)]
            )

    run(main())


def test_paused_in_connection_made(run_std):
    if run_std.name == "asyncio" and sys.version_info < (3, 12):
        pytest.skip("asyncio of Python 3.11 reads on after a pause in connection_made")

    async def main():
        class Paused(Log):
            def connection_made(self, transport):
                super().connection_made(transport)
                transport.pause_reading()

        async with pair(Paused) as (client, server):
            client.transport.write(b"abc")
            for _ in range(20):
                await asyncio.sleep(0)
            assert server.data == b""
            server.transport.resume_reading()
            assert await server.got(3) == b"abc"

    run_std(main())


@contextlib.asynccontextmanager
async def meddling(count, meddle):
    """So many connections to a server: (clients' transports, the server's protocols). Each of the
    latter that gets data calls `meddle` with each other's transport."""
    protocols = []

    class Meddler(Log):
        def connection_made(self, transport):
            super().connection_made(transport)
            protocols.append(self)

        def data_received(self, data):
            super().data_received(data)
            for other in protocols:
                if other is not self:
                    meddle(other.transport)

    async with serve(Meddler) as (_, addr):
        loop = asyncio.get_running_loop()
        clients = [(await loop.create_connection(Log, *addr))[0] for _ in range(count)]
        await until(lambda: len(protocols) == count)
        yield clients, protocols
        for transport in clients:
            transport.abort()


def test_paused_by_another_callback_of_the_batch(run_ff):
    """Both sockets' data is in one batch; the first callback pauses the second's transport."""

    async def main():
        async with meddling(2, lambda transport: transport.pause_reading()) as (clients, protocols):
            for transport in clients:
                transport.write(b"first")
                transport.write_eof()
            await until(lambda: any(p.data for p in protocols))
            for _ in range(50):
                await asyncio.sleep(0)
            got = sorted((bytes(p.data) for p in protocols), key=len)
            for protocol in protocols:
                protocol.transport.resume_reading()
                assert await protocol.got(5) == b"first"
                await protocol.eof
                assert protocol.calls[:3] == ["made", "data", "eof"]
            assert got[1] == b"first"

    run_ff(main())


def test_closed_by_another_callback_of_the_batch(run_ff):
    async def main():
        async with meddling(5, lambda transport: transport.abort()) as (clients, protocols):
            for transport in clients:
                transport.write(b"x")
            await until(lambda: any(p.data for p in protocols))
            for _ in range(20):
                await asyncio.sleep(0)
            assert sum(bool(p.data) for p in protocols) == 1

    run_ff(main())


@contextlib.asynccontextmanager
async def unread(count):
    """The transports of so many connections whose peers read nothing, by a loop on a ring."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as peers:
        transports = []
        for _ in range(count):
            transport, _ = await loop.create_connection(Log, *listener.getsockname())
            transports.append(transport)
            peers.enter_context(listener.accept()[0])
        yield transports
        for transport in transports:
            transport.abort()


def sleeps_for(transport):
    """Writes much: does that sleep?"""
    loop = asyncio.get_running_loop()
    before = loop.ffloop_stats()["sleeps"]
    transport.write(bytes(MB))
    return loop.ffloop_stats()["sleeps"] > before


def test_large_writes_do_not_run_ahead_of_the_instance():
    """One sleeps for it, and the next ones not again for an instance that does nothing."""

    async def main():
        async with unread(24) as transports:
            pid = asyncio.get_running_loop().instance.pid
            os.kill(pid, signal.SIGSTOP)
            slept = []
            for transport in transports:
                slept.append(sleeps_for(transport))
                await asyncio.sleep(0)
            os.kill(pid, signal.SIGCONT)
            assert not any(slept[:3])
            assert 0 < sum(slept) < len(slept) / 2
            assert not any(transport.get_write_buffer_size() for transport in transports)

    ffloop.run(main(), instance="spawn")
