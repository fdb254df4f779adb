"""What stays on the kernel while the loop is on F-Stack, and what is on both."""

import asyncio
import errno
import socket

import pytest
from loop.util import Log, until

import ffloop
from ffloop._loop.stream import StreamTransport
from fstack import net


class Echo(asyncio.Protocol):
    """Answers with the name of its transport's class."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(type(self.transport).__name__.encode())


def ask(*addr):
    with socket.create_connection(addr, 10) as sock:
        sock.sendall(b"who?")
        return sock.recv(100)


KERNEL, STACK = b"_SelectorSocketTransport", b"StreamTransport"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_stays_on_the_kernel(on_fstack, host):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, host, 0)
        addr = server.sockets[0].getsockname()[:2]
        assert await asyncio.to_thread(ask, *addr) == KERNEL
        transport, protocol = await loop.create_connection(Log, *addr)
        assert not isinstance(transport, StreamTransport)
        transport.write(b"x")
        assert await protocol.got(len(KERNEL)) == KERNEL
        transport.abort()
        server.close()

    ffloop.run(main())


def test_destinations_by_rule(on_fstack):
    """The peer is reached over the wire by the stack, or by the kernel when a rule says so."""

    async def main(expected):
        with socket.create_server((net.PEER, 0)) as listener:
            transport, _ = await asyncio.get_running_loop().create_connection(
                Log, *listener.getsockname()
            )
            peer, source = listener.accept()
            assert source[0] == expected
            assert isinstance(transport, StreamTransport) == (expected == net.STACK)
            transport.abort()
            peer.close()

    ffloop.run(main(net.STACK))
    ffloop.run(main(net.PEER), routes=f"{net.PEER}/32=kernel")


def test_a_rule_takes_loopback_to_the_stack(on_fstack):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Log, "127.0.0.1", 0)
        assert isinstance(server.sockets[0]._sock, ffloop.socket)
        server.close()
        with pytest.raises(OSError, match=r"192\.0\.2\.1.*cannot assign") as caught:
            await loop.create_server(Log, "192.0.2.1", 0)  # nobody's
        assert caught.value.errno == errno.EADDRNOTAVAIL

    ffloop.run(main(), routes="127.0.0.0/8=stack")


@pytest.mark.parametrize("host", [None, "0.0.0.0", net.STACK, [net.STACK, net.STACKS[1]]])
def test_dual_listen(on_fstack, host):
    """The port answers on the stack's address, and on the machine's loopback."""

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, host, 8090)
        assert await asyncio.to_thread(ask, net.STACK, 8090) == STACK
        assert await asyncio.to_thread(ask, "127.0.0.1", 8090) == KERNEL
        if host is None:
            assert await asyncio.to_thread(ask, net.STACK6, 8090) == STACK
            assert await asyncio.to_thread(ask, "::1", 8090) == KERNEL
        server.close()
        for addr in ((net.STACK, 8090), ("127.0.0.1", 8090)):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.to_thread(ask, *addr)

    ffloop.run(main(), dual_listen=True)


def test_dual_listen_for_one_server(on_fstack):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, net.STACK, 0, dual_listen=True)
        (_, port), twin = (sock.getsockname() for sock in server.sockets)
        assert twin == ("127.0.0.1", port)
        assert await asyncio.to_thread(ask, *twin) == KERNEL
        server.close()
        server = await loop.create_server(Echo, net.STACK, 0)
        assert len(server.sockets) == 1
        server.close()

    ffloop.run(main())


def test_dual_listen_while_the_instance_is_away(fstack, on_fstack):
    """The health check goes on; the stack's side is back with the instance."""

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, None, 8090)
        fstack.kill()
        await until(lambda: not loop._session.attached)
        assert await asyncio.to_thread(ask, "127.0.0.1", 8090) == KERNEL
        fstack.start()
        await until(lambda: loop._session.attached)
        assert await asyncio.to_thread(ask, net.STACK, 8090) == STACK
        server.close()

    ffloop.run(main(), dual_listen=True)


@pytest.mark.parametrize("only", [False, True])
def test_an_ipv6_wildcard_that_is_handed_in(on_fstack, only):
    """anyio listens so. IPv4 is served or not as the kernel's socket says: FreeBSD's default is
    another."""

    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(
            ("::", 8092), family=socket.AF_INET6, dualstack_ipv6=not only
        ) as s:
            server = await loop.create_server(Echo, sock=s)
            assert await asyncio.to_thread(ask, net.STACK6, 8092) == STACK
            if only:
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.to_thread(ask, net.STACK, 8092)
            else:
                assert await asyncio.to_thread(ask, net.STACK, 8092) == STACK
            server.close()

    ffloop.run(main())


def test_a_listener_that_is_handed_in(on_fstack):
    """What uvicorn's workers and systemd do: the stack serves in the kernel socket's place."""

    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            sock.bind(("0.0.0.0", 8091))
            server = await loop.create_server(Echo, sock=sock)
            assert await asyncio.to_thread(ask, net.STACK, 8091) == STACK
            with pytest.raises(ConnectionRefusedError):
                await asyncio.to_thread(ask, "127.0.0.1", 8091)
            server.close()

    ffloop.run(main())
