"""TLS: servers and clients, start_tls on both sides, TLS in TLS, half-open and failing peers."""

import asyncio
import gc
import os
import ssl
import weakref

import pytest

from .util import HOST, Log, pair, serve, until


def test_server_and_client(run, tls, no_leaks):
    async def main():
        server_ctx, client_ctx = tls

        async def handle(reader, writer):
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(handle, HOST, 0, ssl=server_ctx)
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=client_ctx, server_hostname="localhost"
        )
        assert writer.get_extra_info("ssl_object") is not None
        assert writer.get_extra_info("peername") == server.sockets[0].getsockname()
        payload = os.urandom(2_000_000)

        async def send():
            for off in range(0, len(payload), 100_000):
                writer.write(payload[off : off + 100_000])
                await writer.drain()

        sending = asyncio.create_task(send())
        assert await reader.readexactly(len(payload)) == payload
        await sending
        writer.close()
        await writer.wait_closed()
        server.close()

    run(main())


def test_protocol_gets_the_data(run, tls):
    async def main():
        server_ctx, client_ctx = tls
        async with pair(ssl_server=server_ctx, ssl_client=client_ctx) as (client, server):
            client.transport.write(b"x" * 300_000)
            assert await server.got(300_000) == b"x" * 300_000
            server.transport.write(b"y" * 300_000)
            assert await client.got(300_000) == b"y" * 300_000

    run(main())


def test_untrusted_certificate(run, tls):
    async def main():
        server_ctx, _ = tls
        async with serve(ssl=server_ctx) as (_, addr):
            with pytest.raises(ssl.SSLCertVerificationError):
                await asyncio.get_running_loop().create_connection(
                    Log, *addr, ssl=ssl.create_default_context(), server_hostname="localhost"
                )

    run(main())


def test_plain_client_at_a_tls_server(run, tls):
    async def main():
        server_ctx, _ = tls
        async with serve(ssl=server_ctx) as (_, addr):
            transport, client = await asyncio.get_running_loop().create_connection(Log, *addr)
            transport.write(b"GET / HTTP/1.1\r\n\r\n" * 10)
            await client.lost
            assert b"HTTP" not in client.data

    run(main())


def test_handshake_timeout(run, tls):
    async def main():
        server_ctx, _ = tls
        async with serve(ssl=server_ctx, ssl_handshake_timeout=0.1) as (_, addr):
            _, client = await asyncio.get_running_loop().create_connection(Log, *addr)
            await client.lost
            assert not client.data  # the server was to speak second

    run(main())


def test_start_tls(run, tls):
    async def main():
        server_ctx, client_ctx = tls
        loop = asyncio.get_running_loop()

        class Upgrade(Log):
            def data_received(self, data):
                if self.data == b"" and data == b"STARTTLS\n":
                    self.transport.write(b"OK\n")
                    self.upgrading = asyncio.create_task(self.upgrade())
                else:
                    super().data_received(data)

            async def upgrade(self):
                self.transport = await loop.start_tls(
                    self.transport, self, server_ctx, server_side=True
                )
                self.transport.write(b"welcome")

        async with pair(Upgrade) as (client, server):
            client.transport.write(b"STARTTLS\n")
            assert await client.got(3) == b"OK\n"
            client.transport = await loop.start_tls(
                client.transport, client, client_ctx, server_hostname="localhost"
            )
            assert await client.got(10) == b"OK\nwelcome"
            client.transport.write(b"secret" * 50_000)
            assert await server.got(300_000) == b"secret" * 50_000
            assert server.transport.get_extra_info("ssl_object") is not None

    run(main())


def test_tls_in_tls(run_std, tls):
    async def main():
        server_ctx, client_ctx = tls
        loop = asyncio.get_running_loop()

        class Inner(Log):
            def connection_made(self, transport):
                if self.transport is None:
                    super().connection_made(transport)
                    self.upgrading = asyncio.create_task(self.upgrade())

            async def upgrade(self):
                self.transport = await loop.start_tls(
                    self.transport, self, server_ctx, server_side=True
                )

        async with pair(Inner, ssl_server=server_ctx, ssl_client=client_ctx) as (client, server):
            client.transport = await loop.start_tls(
                client.transport, client, client_ctx, server_hostname="localhost"
            )
            await server.upgrading
            client.transport.write(b"twice" * 1000)
            assert await server.got(5000) == b"twice" * 1000
            server.transport.write(b"back" * 1000)
            assert await client.got(4000) == b"back" * 1000

    run_std(main())


def test_peer_vanishes_in_the_handshake(run_std, tls):
    async def main():
        server_ctx, _ = tls
        made = []
        async with serve(lambda: made.append(1) or Log(), ssl=server_ctx) as (_, addr):
            transport, client = await asyncio.get_running_loop().create_connection(Log, *addr)
            await until(lambda: made)
            transport.abort()
            assert await client.lost is None

    run_std(main())


def test_bytes_one_at_a_time(run_std, tls):
    async def main():
        server_ctx, client_ctx = tls
        async with serve(ssl=server_ctx) as (server, addr):
            del server
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            peer = client_ctx.wrap_bio(incoming, outgoing, server_hostname="localhost")
            reader, writer = await asyncio.open_connection(*addr)

            async def ask(call, *args):
                while True:
                    try:
                        return call(*args)
                    except ssl.SSLWantReadError:
                        writer.write(outgoing.read())
                        incoming.write(await reader.read(65536))

            await ask(peer.do_handshake)
            peer.write(b"x" * 100)
            for byte in outgoing.read():
                writer.write(bytes([byte]))
                await writer.drain()
            with pytest.raises(ssl.SSLWantReadError):  # nothing came back of an incomplete record
                peer.read()
            peer.write(b"last")
            with pytest.raises(ssl.SSLWantReadError):
                peer.unwrap()
            writer.write(outgoing.read())  # the data and close_notify at once, and nothing after it
            await ask(peer.unwrap)
            assert await reader.read() == b""
            writer.close()

    run_std(main())


def test_a_reader_that_pauses_and_buffers(run_std, tls):
    payload = os.urandom(700_000)

    class Buffered(asyncio.BufferedProtocol):
        def __init__(self):
            self.done = asyncio.get_running_loop().create_future()

        def connection_made(self, transport):
            self.transport, self.data, self.room = (
                transport,
                bytearray(),
                memoryview(bytearray(1000)),
            )

        def get_buffer(self, sizehint):
            return self.room

        def buffer_updated(self, nbytes):
            self.data += self.room[:nbytes]
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self.transport.resume_reading)
            if len(self.data) == len(payload):
                self.done.set_result(None)

    async def main():
        server_ctx, client_ctx = tls
        async with pair(Buffered, ssl_server=server_ctx, ssl_client=client_ctx) as (client, server):
            client.transport.write(payload)
            client.transport.writelines([])
            await server.done
            assert server.data == payload

    run_std(main())


def test_a_large_write_to_a_slow_reader(run_std, tls):
    payload = os.urandom(12_000_000)

    async def main():
        server_ctx, client_ctx = tls
        async with pair(ssl_server=server_ctx, ssl_client=client_ctx) as (client, server):
            server.transport.pause_reading()
            client.transport.write(payload)
            client.transport.writelines([bytearray(b"tail"), memoryview(b"end")])
            server.transport.resume_reading()
            assert await server.got(len(payload) + 7) == payload + b"tailend"

    run_std(main())


def test_a_fault_of_the_protocol_ends_the_connection(run_std, tls):
    class Faulty(Log):
        def data_received(self, data):
            raise ZeroDivisionError

    async def main():
        server_ctx, client_ctx = tls
        async with pair(Faulty, ssl_server=server_ctx, ssl_client=client_ctx) as (client, server):
            client.transport.write(b"x")
            assert isinstance(await server.lost, ZeroDivisionError)
            with pytest.raises(TypeError):
                client.transport.write("text")

    run_std(main())
    assert [type(error["exception"]) for error in run_std.errors] == [ZeroDivisionError]
    run_std.errors.clear()


def test_a_closed_transport_keeps_nothing(run_std, tls):
    """asyncio's transport lets go of its connection when it is closed once more."""

    async def main():
        server_ctx, client_ctx = tls
        async with pair(ssl_server=server_ctx, ssl_client=client_ctx) as (client, server):
            transport = client.transport
            connection = weakref.ref(transport._ssl_protocol)
            transport.close()
            transport.close()
            await client.lost
            await asyncio.sleep(0)  # the callback that told has ended
            gc.collect()
            assert connection() is None
            assert transport.is_closing()

    run_std(main())


def test_what_was_read_ahead_of_start_tls(run, tls):
    if run.name != "ffloop":
        pytest.skip("asyncio's own from Python 3.14 on")

    async def main():
        server_ctx, client_ctx = tls
        got = asyncio.get_running_loop().create_future()

        async def upgrade(reader, writer):
            await reader.readline()
            while not reader._buffer:  # the beginning of the handshake
                await reader._wait_for_data("test")
            await writer.start_tls(server_ctx)
            got.set_result(await reader.readline())
            writer.close()

        server = await asyncio.start_server(upgrade, HOST, 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        writer.write(b"STARTTLS\n")
        await writer.start_tls(client_ctx, server_hostname="localhost")
        writer.write(b"secret\n")
        assert await got == b"secret\n"
        writer.close()
        server.close()

    run(main())
