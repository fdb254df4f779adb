"""asyncio's streams, the same on every loop."""

import asyncio
import hashlib
import os
import socket

import pytest

from .util import HOST


def test_echo(run, no_leaks):
    async def main():
        async def handle(reader, writer):
            async for line in reader:
                writer.write(line)
                await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(handle, HOST, 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for i in range(50):
                line = b"%d\n" % i * (i + 1)
                writer.write(line)
                assert await reader.readexactly(len(line)) == line
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

    run(main())


def test_many_connections_at_once(run, no_leaks):
    async def main():
        async def handle(reader, writer):
            writer.write((await reader.readexactly(4))[::-1])
            writer.close()

        server = await asyncio.start_server(handle, HOST, 0)
        addr = server.sockets[0].getsockname()

        async def one(i):
            reader, writer = await asyncio.open_connection(*addr)
            writer.write(b"%04d" % i)
            assert await reader.read() == (b"%04d" % i)[::-1]
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(*(one(i) for i in range(200)))
        server.close()
        await server.wait_closed()

    run(main())


def test_a_callback_that_replaces_itself(run_std):
    """What it leaves in the protocol stays there."""

    async def main():
        seen = asyncio.get_running_loop().create_future()

        def connected(reader, writer):
            writer.transport.get_protocol()._client_connected_cb = None
            seen.set_result(writer)

        async with await asyncio.start_server(connected, HOST, 0) as server:
            with socket.create_connection(server.sockets[0].getsockname()):
                writer = await seen
                await asyncio.sleep(0)
                assert writer.transport.get_protocol()._client_connected_cb is None
                writer.close()
                await writer.wait_closed()

    run_std(main())


@pytest.mark.parametrize("size", [1, 65536, 5_000_000])
def test_bytes_are_exact_both_ways(run, size):
    async def main():
        async def handle(reader, writer):
            digest = hashlib.sha256()
            while chunk := await reader.read(70_000):
                digest.update(chunk)
                writer.write(chunk)
                await writer.drain()
            writer.write(digest.digest())
            writer.close()

        server = await asyncio.start_server(handle, HOST, 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        payload = os.urandom(size)

        async def send():
            for off in range(0, size, 40_000):
                writer.write(payload[off : off + 40_000])
                await writer.drain()
            writer.write_eof()

        sending = asyncio.create_task(send())
        back = await reader.read()
        await sending
        assert back == payload + hashlib.sha256(payload).digest()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


def test_one_large_write_to_a_slow_reader(run):
    """A single write far beyond every buffer, with drain() as the only brake."""
    size = 20_000_000

    async def main():
        payload = os.urandom(1_000_000) * (size // 1_000_000)

        async def handle(reader, writer):
            writer.write(payload)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(handle, HOST, 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        digest = hashlib.sha256()
        got = 0
        while chunk := await reader.read(10_000 if got < 500_000 else 1_000_000):
            digest.update(chunk)
            got += len(chunk)
        assert got == size
        assert digest.digest() == hashlib.sha256(payload).digest()
        writer.close()
        await writer.wait_closed()
        server.close()

    run(main())


def test_addresses_and_repr(run):
    async def main():
        seen = asyncio.get_running_loop().create_future()

        async def handle(reader, writer):
            seen.set_result((writer.get_extra_info("sockname"), writer.get_extra_info("peername")))
            writer.close()

        server = await asyncio.start_server(handle, HOST, 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        local, peer = await seen
        assert local == writer.get_extra_info("peername") == server.sockets[0].getsockname()
        assert peer == writer.get_extra_info("sockname")
        assert await reader.read() == b""
        repr(writer)
        writer.close()
        await writer.wait_closed()
        assert writer.get_extra_info("peername") == local
        assert repr(writer.transport)
        server.close()

    run(main())


def test_peer_resets(run):
    async def main():
        async def handle(reader, writer):
            await reader.read(1)
            writer.transport.abort()

        server = await asyncio.start_server(handle, HOST, 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x")
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            pass
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionResetError:
            pass
        server.close()

    run(main())


class Reader(asyncio.StreamReader):
    def feed_data(self, data):
        super().feed_data(data.upper())


class ReaderProtocol(asyncio.StreamReaderProtocol):
    def data_received(self, data):
        super().data_received(data + b"!")


@pytest.mark.parametrize(
    ("reader_class", "protocol_class", "seen"),
    [
        (asyncio.StreamReader, asyncio.StreamReaderProtocol, b"bytes"),
        (Reader, asyncio.StreamReaderProtocol, b"BYTES"),
        (asyncio.StreamReader, ReaderProtocol, b"bytes!"),
    ],
)
def test_derived_streams_are_asked(run, reader_class, protocol_class, seen):
    """asyncio's own are fed in compiled code, others by their methods."""

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with theirs:
            reader = reader_class(loop=loop)
            protocol = protocol_class(reader, loop=loop)
            transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
            theirs.send(b"bytes")
            assert await reader.readexactly(len(seen)) == seen
            transport.close()

    run(main())


def test_methods_changed_in_the_class_are_used(run, monkeypatch):
    fed: list[bytes] = []
    feed_data = asyncio.StreamReader.feed_data

    def note(self, data):
        fed.append(data)
        feed_data(self, data)

    monkeypatch.setattr(asyncio.StreamReader, "feed_data", note)

    async def main():
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            theirs.send(b"bytes")
            assert await reader.readexactly(5) == b"bytes"
            writer.close()
        assert fed == [b"bytes"]

    run(main())


def test_a_reader_is_paused_at_twice_its_limit(run):
    async def main():
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours, limit=100)
            for chunk in (b"a" * 100, b"b" * 100):  # as much as it may hold
                theirs.send(chunk)
                await until(lambda chunk=chunk: reader._buffer.endswith(chunk))
                assert writer.transport.is_reading()
            theirs.send(b"c")
            await until(lambda: not writer.transport.is_reading())
            assert await reader.readexactly(201) == b"a" * 100 + b"b" * 100 + b"c"
            assert writer.transport.is_reading()
            writer.close()

    async def until(true):
        while not true():
            await asyncio.sleep(0)

    run(main())


def test_who_waits_and_is_cancelled_loses_nothing(run):
    async def main():
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            waits = asyncio.ensure_future(reader.readexactly(5))
            await asyncio.sleep(0)
            waits.cancel()
            theirs.send(b"by")
            with pytest.raises(asyncio.CancelledError):
                await waits
            theirs.send(b"tes")
            assert await reader.readexactly(5) == b"bytes"
            theirs.close()
            assert await reader.read() == b""
            writer.close()

    run(main())
