"""BufferedProtocol, and changes of protocol."""

import asyncio
import os

import pytest

from .util import Log, pair, until


class Buffered(asyncio.BufferedProtocol):
    def __init__(self, size=1000):
        self.buffer = bytearray(size)
        self.data = bytearray()
        self.lost = asyncio.get_running_loop().create_future()
        self.eof = asyncio.get_running_loop().create_future()
        self.transport = None

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.data += self.buffer[:nbytes]

    def eof_received(self):
        self.eof.set_result(None)

    def connection_lost(self, exc):
        self.lost.set_result(exc)


class PausesInBetween(Buffered):
    def buffer_updated(self, nbytes):
        super().buffer_updated(nbytes)
        self.transport.pause_reading()
        asyncio.get_running_loop().call_soon(self.transport.resume_reading)


class PausesFirst(Buffered):
    def get_buffer(self, sizehint):
        self.transport.pause_reading()
        asyncio.get_running_loop().call_soon(self.transport.resume_reading)
        return super().get_buffer(sizehint)


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (Buffered, 1),
        (Buffered, 1000),
        (Buffered, 65536),
        (PausesInBetween, 997),
    ],
)
def test_buffered_protocol(run, kind, size):
    async def main():
        async with pair(lambda: kind(size)) as (client, server):
            payload = os.urandom(100_000)
            client.transport.write(payload)
            client.transport.write_eof()
            await server.eof
            assert server.data == payload

    run(main())


def test_a_pause_in_get_buffer_does_not_stop_the_read(run_std):
    async def main():
        async with pair(lambda: PausesFirst(997)) as (client, server):
            client.transport.write(b"x" * 10_000)
            await until(lambda: server.data == b"x" * 10_000)

    run_std(main())


@pytest.mark.parametrize("bad", ["empty", "raises", "updated"])
def test_buffered_protocol_errors(run_std, bad):
    async def main():
        class Bad(Buffered):
            def get_buffer(self, sizehint):
                if bad == "raises":
                    raise ZeroDivisionError
                return bytearray() if bad == "empty" else self.buffer

            def buffer_updated(self, nbytes):
                raise ZeroDivisionError

        async with pair(Bad) as (client, server):
            client.transport.write(b"x")
            exc = await server.lost
            assert type(exc) is (RuntimeError if bad == "empty" else ZeroDivisionError)

    run_std(main())
    name = "buffer_updated" if bad == "updated" else "get_buffer"
    assert [e["message"] for e in run_std.errors] == [
        f"Fatal error: protocol.{name}() call failed."
    ]
    run_std.errors.clear()


def test_set_protocol(run):
    async def main():
        async with pair() as (client, server):
            client.transport.write(b"one")
            await server.got(3)
            second = Buffered()
            second.transport = server.transport
            server.transport.set_protocol(second)
            assert server.transport.get_protocol() is second
            client.transport.write(b"two")
            await until(lambda: len(second.data) == 3)
            assert (server.data, second.data) == (b"one", b"two")
            server.transport.set_protocol(server)
            client.transport.write(b"three")
            assert await server.got(8) == b"onethree"

    run(main())


def test_buffered_gives_way_to_plain_in_the_middle(run_ff):
    async def main():
        plain = Log()

        class First(Buffered):
            def buffer_updated(self, nbytes):
                super().buffer_updated(nbytes)
                self.transport.set_protocol(plain)

        async with pair(lambda: First(10)) as (client, server):
            client.transport.write(b"0123456789abcdef")
            assert await plain.got(6) == b"abcdef"
            assert server.data == b"0123456789"
            plain.transport = server.transport
            server.transport.abort()
            await plain.lost
            server.lost.set_result(None)

    run_ff(main())


def test_a_protocol_without_methods_for_data(run_std):
    class Deaf(asyncio.BaseProtocol):
        def __init__(self):
            self.lost = asyncio.get_running_loop().create_future()

        def connection_lost(self, exc):
            self.lost.set_result(exc)

    async def main():
        async with pair(Deaf) as (client, server):
            client.transport.write(b"x")
            assert type(await server.lost) is AttributeError

    run_std(main())
    message = "Fatal error: protocol.data_received() call failed."
    assert [e["message"] for e in run_std.errors] == [message]
    run_std.errors.clear()


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_a_protocol_of_no_class_is_buffered_by_its_methods(run_ff, tls, secure):
    """As by uvloop."""

    class Plain(asyncio.BaseProtocol):
        __init__, connection_made = Buffered.__init__, Buffered.connection_made
        get_buffer, buffer_updated = Buffered.get_buffer, Buffered.buffer_updated
        eof_received, connection_lost = Buffered.eof_received, Buffered.connection_lost

    async def main():
        contexts = dict(zip(("ssl_server", "ssl_client"), tls, strict=True)) if secure else {}
        async with pair(Plain, **contexts) as (client, server):
            client.transport.write(b"x" * 5000)
            await until(lambda: server.data == b"x" * 5000)

    run_ff(main())


def test_methods_that_are_replaced_meanwhile(run_std):
    class Steps(Log):
        def data_received(self, data):
            super().data_received(data)
            self.data_received = self.second

        def second(self, data):
            super().data_received(data.upper())

    async def main():
        async with pair(Steps) as (client, server):
            client.transport.write(b"one")
            await server.got(3)
            client.transport.write(b"two")
            assert await server.got(6) == b"oneTWO"

    run_std(main())
