"""create_connection: refused, local addresses, happy eyeballs, cancellation at any point."""

import asyncio
import errno
import socket

import pytest
from common.ports import unused_port

from .test_server import needs_ipv6
from .util import HOST, HOST6, HOSTS, PEER, Log, serve, until

IP_FREEBIND = 15  # linux/in.h; not in the socket module


def test_refused(run, no_leaks):
    async def main():
        with pytest.raises(ConnectionRefusedError) as caught:
            await asyncio.get_running_loop().create_connection(Log, HOST, unused_port(PEER))
        assert caught.value.errno == errno.ECONNREFUSED

    run(main())


def test_refused_has_asyncios_words(run_std):
    async def main():
        port = unused_port(PEER)
        with pytest.raises(OSError) as caught:
            await asyncio.get_running_loop().create_connection(Log, HOST, port)
        assert str(caught.value) == f"[Errno 111] Connect call failed ('{HOST}', {port})"

    run_std(main())


def test_all_errors(run_std):
    async def main():
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.get_running_loop().create_connection(
                Log, HOST, unused_port(PEER), all_errors=True
            )
        assert [type(e) for e in caught.value.exceptions] == [ConnectionRefusedError]

    import sys

    if sys.version_info < (3, 12):
        pytest.skip("all_errors is of Python 3.12")
    run_std(main())


def test_several_addresses_one_answers(run_std):
    """The first address refuses, the second one serves."""

    async def main():
        loop = asyncio.get_running_loop()
        async with serve(host=HOSTS[1]) as (_, (_, port)):

            async def resolve(host, port, **kwargs):
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in HOSTS[:2]]

            loop.getaddrinfo = resolve
            transport, protocol = await loop.create_connection(Log, "two.example", port)
            assert transport.get_extra_info("peername")[0] == HOSTS[1]
            transport.abort()
            await protocol.lost

    run_std(main())


@needs_ipv6
def test_happy_eyeballs(run_std, no_leaks):
    async def main():
        loop = asyncio.get_running_loop()
        async with serve() as (_, (_, port)):

            async def resolve(host, port, **kwargs):
                return [
                    (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (HOST6, port, 0, 0)),
                    (socket.AF_INET, socket.SOCK_STREAM, 6, "", (HOST, port)),
                ]

            loop.getaddrinfo = resolve
            transport, protocol = await loop.create_connection(
                Log, "both.example", port, happy_eyeballs_delay=0.25
            )
            assert transport.get_extra_info("peername") == (HOST, port)
            transport.abort()
            await protocol.lost

    run_std(main())


def test_local_addr(run):
    async def main():
        async with serve() as (_, addr):
            port = unused_port(PEER)
            transport, protocol = await asyncio.get_running_loop().create_connection(
                Log, *addr, local_addr=(HOSTS[2], port)
            )
            assert transport.get_extra_info("sockname") == (HOSTS[2], port)
            transport.abort()
            await protocol.lost

    run(main())


def test_local_addr_taken(run_std):
    async def main():
        async with serve() as (_, addr), serve() as (_, taken):
            with pytest.raises(OSError, match="error while attempting to bind on address"):
                await asyncio.get_running_loop().create_connection(Log, *addr, local_addr=taken)

    run_std(main())


def test_local_addr_of_another_family(run_std):
    async def main():
        async with serve() as (_, addr):
            with pytest.raises(OSError):
                await asyncio.get_running_loop().create_connection(
                    Log, *addr, local_addr=("::1", 0), family=socket.AF_INET
                )

    run_std(main())


@pytest.mark.parametrize("iterations", range(8))
def test_cancelled_at_any_point(run, iterations, no_leaks):
    async def main():
        loop = asyncio.get_running_loop()
        async with serve() as (_server, addr):
            task = asyncio.create_task(loop.create_connection(Log, *addr))
            for _ in range(iterations):
                await asyncio.sleep(0)
            task.cancel()
            try:
                transport, protocol = await task
            except asyncio.CancelledError:
                pass
            else:
                transport.abort()
                await protocol.lost
            # The loop goes on as before.
            transport, protocol = await loop.create_connection(Log, *addr)
            transport.abort()
            assert await protocol.lost is None

    run(main())


def test_timeout_of_a_connect_that_never_answers(run, no_leaks):
    """A full accept queue: the kernel drops the SYN, and the caller gives up."""

    async def main():
        with socket.socket() as listener:
            listener.bind((PEER, 0))
            listener.listen(0)
            addr = listener.getsockname()
            fill = [socket.socket() for _ in range(8)]
            for sock in fill:
                sock.setblocking(False)
                sock.connect_ex(addr)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await asyncio.get_running_loop().create_connection(Log, *addr)
            for sock in fill:
                sock.close()

    run(main())


def test_server_hostname_without_tls(run):
    async def main():
        with pytest.raises(ValueError, match="server_hostname"):
            await asyncio.get_running_loop().create_connection(
                Log, HOST, 1, server_hostname="localhost"
            )

    run(main())


@pytest.mark.ring
def test_a_fresh_socket_is_promoted(run_ff, no_leaks):
    """What aiohttp's client and anyio do: their own socket, loop.sock_connect, then sock=."""

    async def main():
        import ffloop

        loop = asyncio.get_running_loop()
        async with serve() as (_, addr):
            sock = socket.socket()
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            await loop.sock_connect(sock, addr)
            assert isinstance(sock, socket.socket)
            assert type(sock) is not socket.socket
            assert sock.getpeername() == addr
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            transport, protocol = await loop.create_connection(Log, sock=sock)
            assert isinstance(transport, ffloop._loop.stream.StreamTransport)
            assert transport.get_extra_info("socket")._sock is sock
            assert transport.get_extra_info("peername") == addr
            transport.abort()
            await protocol.lost
            assert sock.fileno() == -1

    run_ff(main())


def test_promotion_keeps_a_local_address(run_ff):
    async def main():
        loop = asyncio.get_running_loop()
        async with serve() as (_, addr):
            with socket.socket() as sock:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)  # it may be the stack's alone
                sock.bind((HOSTS[3], 0))
                local = sock.getsockname()
                await loop.sock_connect(sock, addr)
                assert sock.getsockname() == local

    run_ff(main())


def test_promoted_descriptor_mirrors_readiness(run_ff):
    """httpx polls it to see whether a kept-alive connection is still good."""

    async def main():
        import select

        loop = asyncio.get_running_loop()
        seen = []
        async with serve(lambda: seen.append(Log()) or seen[-1]) as (_, addr):
            with socket.socket() as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, addr)
                poll = select.poll()
                poll.register(sock.fileno(), select.POLLIN)
                assert poll.poll(0) == []
                await until(lambda: seen)
                await seen[0].made
                seen[0].transport.write(b"x")
                await until(lambda: poll.poll(0))
                assert await loop.sock_recv(sock, 10) == b"x"
                assert poll.poll(0) == []
                seen[0].transport.close()
                await until(lambda: poll.poll(0))
                assert await loop.sock_recv(sock, 10) == b""

    run_ff(main())


@pytest.mark.ring
def test_connected_kernel_sockets_stay_on_the_kernel(run_ff):
    async def main():
        import ffloop

        with socket.create_server((PEER, 0)) as listener:
            sock = socket.create_connection(listener.getsockname())
            peer, _ = listener.accept()
            sock.setblocking(False)
            transport, protocol = await asyncio.get_running_loop().create_connection(Log, sock=sock)
            assert not isinstance(transport, ffloop._loop.stream.StreamTransport)
            peer.send(b"kernel")
            assert await protocol.got(6) == b"kernel"
            transport.abort()
            await protocol.lost
            peer.close()

    run_ff(main())


def test_aiohttps_happy_eyeballs(run, no_leaks):
    """aiohappyeyeballs, as aiohttp calls it."""
    aiohappyeyeballs = pytest.importorskip("aiohappyeyeballs")

    async def main():
        loop = asyncio.get_running_loop()
        async with serve() as (_, (host, port)):
            infos = [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in (HOSTS[3], host)
            ]
            sock = await aiohappyeyeballs.start_connection(
                infos, happy_eyeballs_delay=0.25, interleave=1
            )
            transport, protocol = await loop.create_connection(Log, sock=sock)
            assert transport.get_extra_info("peername")[0] == host
            transport.abort()
            await protocol.lost

    run(main())
