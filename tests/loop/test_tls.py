"""TLS: servers and clients, start_tls on both sides, TLS in TLS, half-open and failing peers."""

import asyncio
import os
import ssl

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
