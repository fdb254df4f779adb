"""create_server and Server."""

import asyncio
import errno
import socket
import sys

import pytest

from .util import HOST, HOST6, HOSTS, Log, asyncio_leaves_sockets, pair, serve, until


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback")
needs_313 = pytest.mark.skipif(sys.version_info < (3, 13), reason="Server of Python 3.13")


def test_port_zero_is_a_real_port(run, no_leaks):
    async def main():
        async with serve() as (server, (host, port)):
            assert host == HOST
            assert port > 0
            assert server.is_serving()
            assert server.get_loop() is asyncio.get_running_loop()
            sock = server.sockets[0]
            assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) != 0
        await server.wait_closed()
        assert not server.is_serving()
        assert not server.sockets

    run(main())


@asyncio_leaves_sockets
@pytest.mark.parametrize("backlog", [1.5, "1", None])
def test_a_backlog_is_an_integer(run, backlog):
    async def main():
        with pytest.raises(TypeError, match="integer"):
            await asyncio.get_running_loop().create_server(Log, HOST, 0, backlog=backlog)

    run(main())


def test_several_hosts(run_std):  # uvloop listens twice on a host that is named twice
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Log, [*HOSTS[:2], HOST], 0)
        assert sorted(s.getsockname()[0] for s in server.sockets) == HOSTS[:2]
        for sock in server.sockets:
            transport, _ = await loop.create_connection(Log, *sock.getsockname())
            transport.abort()
        server.close()

    run_std(main())


@needs_ipv6
def test_ipv6(run):
    async def main():
        async with serve(host=HOST6) as (server, addr):
            assert server.sockets[0].family == socket.AF_INET6
            assert len(server.sockets[0].getsockname()) == 4
            transport, protocol = await asyncio.get_running_loop().create_connection(Log, *addr)
            assert transport.get_extra_info("peername")[:2] == tuple(addr)
            assert len(transport.get_extra_info("sockname")) == 4
            transport.abort()
            await protocol.lost

    run(main())


@needs_ipv6
def test_no_host_means_both_families(run):
    async def main():
        server = await asyncio.get_running_loop().create_server(Log, None, 0)
        families = {s.family for s in server.sockets}
        assert families == {socket.AF_INET, socket.AF_INET6}
        server.close()

    run(main())


def test_reuse_port(run):
    async def main():
        loop = asyncio.get_running_loop()
        first = await loop.create_server(Log, HOST, 0, reuse_port=True)
        port = first.sockets[0].getsockname()[1]
        second = await loop.create_server(Log, HOST, port, reuse_port=True)
        assert second.sockets[0].getsockname()[1] == port
        first.close()  # the other one goes on
        transport, _ = await loop.create_connection(Log, HOST, port)
        assert transport.get_extra_info("peername")[1] == port
        transport.abort()
        second.close()

    run(main())


def test_port_in_use(run):
    async def main():
        loop = asyncio.get_running_loop()
        async with serve() as (_, (host, port)):
            with pytest.raises(OSError) as caught:
                await loop.create_server(Log, host, port)
            assert caught.value.errno == errno.EADDRINUSE

    run(main())


def test_port_in_use_has_asyncios_words(run_std):
    async def main():
        loop = asyncio.get_running_loop()
        async with serve() as (_, (host, port)):
            with pytest.raises(OSError, match="error while attempting to bind on address") as e:
                await loop.create_server(Log, host, port)
            assert "already in use" in str(e.value)

    run_std(main())


@pytest.mark.parametrize("first", ["0.0.0.0", None], ids=["wildcard", "address"])
def test_a_wildcard_has_the_port_of_every_address(run, first):
    async def main():
        loop = asyncio.get_running_loop()
        async with serve(host=first or HOST) as (_, (_, port)):
            with pytest.raises(OSError) as caught:
                await loop.create_server(Log, HOST if first else "0.0.0.0", port)
            assert caught.value.errno == errno.EADDRINUSE

    run(main())


def test_port_in_use_by_the_kernel(run):
    async def main():
        with socket.create_server((HOST, 0)) as taken:
            with pytest.raises(OSError) as caught:
                await asyncio.get_running_loop().create_server(Log, *taken.getsockname())
            assert caught.value.errno == errno.EADDRINUSE

    run(main())


def test_address_that_is_not_local(run_std):
    async def main():
        with pytest.raises(OSError) as caught:
            await asyncio.get_running_loop().create_server(Log, "192.0.2.1", 0)
        return caught.value.errno, str(caught.value)

    expected = run_std(main())
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert runner.run(main()) == expected


def test_start_serving_later(run):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Log, HOST, 0, start_serving=False)
        assert not server.is_serving()
        addr = server.sockets[0].getsockname()
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(Log, *addr)
        await server.start_serving()
        transport, protocol = await loop.create_connection(Log, *addr)
        transport.abort()
        await protocol.lost
        server.close()

    run(main())


def test_serve_forever_is_cancelled(run):
    async def main():
        async with serve() as (server, _):
            task = asyncio.create_task(server.serve_forever())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not server.is_serving()

    run(main())


def test_closed_server_refuses(run_std):
    """At once: nothing has to turn in between."""

    async def main():
        for _ in range(50):
            async with serve() as (server, addr):
                server.close()
                with socket.socket() as sock:
                    assert sock.connect_ex(addr) == errno.ECONNREFUSED

    run_std(main())


def test_connections_survive_the_server(run):
    async def main():
        async with serve() as (_server, _addr):
            loop = asyncio.get_running_loop()
            seen = []
            server2 = await loop.create_server(lambda: seen.append(Log()) or seen[-1], HOST, 0)
            transport, client = await loop.create_connection(Log, *server2.sockets[0].getsockname())
            await until(lambda: seen)
            await seen[0].made
            server2.close()
            transport.write(b"still here")
            assert await seen[0].got(10) == b"still here"
            seen[0].transport.write(b"yes")
            assert await client.got(3) == b"yes"
            transport.abort()
            await client.lost

    run(main())


@needs_313
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
def test_close_and_abort_clients(run_std, method):
    async def main():
        seen = []
        async with serve(lambda: seen.append(Log()) or seen[-1]) as (server, addr):
            _transport, client = await asyncio.get_running_loop().create_connection(Log, *addr)
            await until(lambda: seen)
            await seen[0].made
            server.close()
            getattr(server, method)()
            await server.wait_closed()
            assert await seen[0].lost is None
            await client.lost

    run_std(main())


@asyncio_leaves_sockets
def test_protocol_factory_raises(run_std):
    """One bad connection is dropped; the server goes on."""

    async def main():
        calls = []

        def factory():
            calls.append(1)
            if len(calls) == 1:
                raise ZeroDivisionError
            return Log()

        async with serve(factory) as (_, addr):
            loop = asyncio.get_running_loop()
            _, first = await loop.create_connection(Log, *addr)
            await first.lost
            transport, second = await loop.create_connection(Log, *addr)
            await until(lambda: len(calls) == 2)
            transport.abort()
            await second.lost

    run_std(main())


def test_connection_made_raises(run_std):
    async def main():
        class Bad(Log):
            def connection_made(self, transport):
                super().connection_made(transport)
                raise ZeroDivisionError

        async with pair(Bad) as (client, server):
            client.transport.write(b"abc")
            assert await server.got(3) == b"abc"  # reading goes on, as asyncio's

    run_std(main())
    assert [type(e["exception"]) for e in run_std.errors] == [ZeroDivisionError]
    run_std.errors.clear()


def test_keep_alive_argument(run_ff):
    async def main():
        async with serve(keep_alive=True) as (server, _):
            assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1

    run_ff(main())


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"ssl": True}, TypeError),
        ({"ssl_handshake_timeout": 1}, ValueError),
        ({"ssl_shutdown_timeout": 1}, ValueError),
    ],
)
def test_bad_arguments(run, kwargs, error):
    async def main():
        with pytest.raises(error):
            await asyncio.get_running_loop().create_server(Log, HOST, 0, **kwargs)

    run(main())


def test_neither_host_nor_sock(run):
    async def main():
        with pytest.raises(ValueError, match=r"(?i)neither host/port nor sock"):
            await asyncio.get_running_loop().create_server(Log)

    run(main())


@pytest.mark.ring
def test_closing_a_server_with_accepted_ahead_connections(run_ff, no_leaks):
    """Connections that were accepted but not handed on are closed with the server."""

    async def main():
        seen = []

        class Closer(Log):
            def connection_made(self, transport):
                super().connection_made(transport)
                server.close()

        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: seen.append(Closer()) or seen[-1], HOST, 0)
        addr = server.sockets[0].getsockname()
        socks = [socket.create_connection(addr) for _ in range(20)]
        await until(lambda: seen)
        for protocol in seen:
            protocol.transport.abort()
            await protocol.lost
        for sock in socks:
            sock.settimeout(60)
            try:
                assert await asyncio.to_thread(sock.recv, 1) == b""
            except ConnectionResetError:
                pass
            sock.close()
        assert not loop._session.receivers

    run_ff(main())


def test_dual_listen_on_one_kernel(run_ff):
    """With the host stack there is nothing to serve besides; it must not fail."""

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Log, HOST, 0, dual_listen=True)
        assert len(server.sockets) == (2 if loop.instance.stack == "fstack" else 1)
        server.close()

    run_ff(main())
