"""How connections end: what came before a reset is delivered; the peer learns what nobody read."""

import asyncio
import errno
import os
import pathlib
import signal
import socket
import struct

import pytest

import ffloop

from . import util
from .util import Log, until, until_told

RESET = struct.pack("ii", 1, 0)
ANSWER = b"HTTP/1.0 413 too large\r\n\r\n" + b"x" * 5000


def reset(peer):
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    peer.close()


def freebsd():
    """Is the stack F-Stack? It keeps no end of a stream that a reset follows in the same burst."""
    return util.HOST != util.PEER


async def connected(protocol):
    """A transport of the loop's, and the kernel socket at its other end."""
    with socket.create_server((util.PEER, 0)) as server:
        transport, made = await asyncio.get_running_loop().create_connection(
            protocol, *server.getsockname()
        )
        peer, _ = server.accept()
    return transport, made, peer


async def accepted(protocol):
    """The same the other way round; with the server."""
    loop = asyncio.get_running_loop()
    protocols = []

    def factory():
        protocols.append(protocol())
        return protocols[-1]

    server = await loop.create_server(factory, util.HOST, 0)
    peer = socket.socket()
    peer.setblocking(False)
    await loop.sock_connect(peer, server.sockets[0].getsockname())
    await until(lambda: protocols and protocols[0].transport is not None)
    return server, protocols[0], peer


def in_state(port, state):
    """Is a socket of this kernel in this state, at the other end of the port on 127.0.0.1?"""
    rows = pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(row.split()[2:4] == [f"0100007F:{port:04X}", state] for row in rows)


async def known(transport):
    """Waits until a reset has come."""
    sock = transport.get_extra_info("socket")
    await until_told(lambda: sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\7")
    if stack := getattr(transport, "_endpoint", None):
        for _ in range(2):  # an iteration of the instance's lies between the answers
            stack.client().ping()


def test_the_end_comes_with_the_connection():
    """The instance hears at once of the connection, its data and its end."""

    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
            address = listener.getsockname()
            with socket.create_connection(address):  # keeps the others out
                connecting = asyncio.ensure_future(asyncio.open_connection(*address))
                await until(lambda: in_state(address[1], "02"))  # SYN_SENT
                os.kill(loop.instance.pid, signal.SIGSTOP)
                for _ in range(2):
                    peer, _ = listener.accept()
                    peer.sendall(b"x")
                    peer.close()
                os.kill(loop.instance.pid, signal.SIGCONT)
            reader, writer = await connecting
            assert await reader.read() == b"x"
            writer.close()
            await writer.wait_closed()

    ffloop.run(main(), instance="spawn")


def test_a_reset_after_the_end_is_told_to_who_writes_on(run):
    """Nothing is read any more, so the write that fails is the connection's end."""

    async def main():
        _, protocol, peer = await connected(Log)
        protocol.keep_open = True
        peer.shutdown(socket.SHUT_WR)
        await protocol.eof
        reset(peer)
        while not protocol.lost.done():
            protocol.transport.write(b"x")
            await asyncio.wait([protocol.lost], timeout=0.01)
        assert isinstance(protocol.lost.exception() or protocol.lost.result(), ConnectionError)

    run(main())


def test_who_resumes_reading_after_the_end_reads_it_again(run):
    async def main():
        _, protocol, peer = await connected(Log)
        protocol.keep_open = True
        with peer:
            peer.shutdown(socket.SHUT_WR)
            await protocol.eof
            protocol.transport.pause_reading()
            protocol.transport.resume_reading()
            await until(lambda: protocol.calls.count("eof") == 2)
            protocol.transport.write(b"still there")
            assert await asyncio.get_running_loop().run_in_executor(None, peer.recv, 99)
            protocol.transport.abort()
            await asyncio.wait([protocol.lost])

    run(main())


def test_data_the_end_and_then_nothing(run):
    """Data, the end of the stream and a reset are there before the loop looks."""

    async def main():
        for _ in range(20):
            _, protocol, peer = await connected(Log)
            peer.sendall(ANSWER)
            peer.shutdown(socket.SHUT_WR)
            if freebsd():
                await protocol.eof
            reset(peer)
            assert await protocol.lost is None
            assert protocol.data == ANSWER
            assert protocol.calls == ["made", "data", "eof", ("lost", type(None))]

    run(main())


def test_data_and_then_the_reset(run):
    """Without an end, the reset is told, after the data."""

    async def main():
        for _ in range(20):
            _, protocol, peer = await connected(Log)
            peer.sendall(ANSWER)
            reset(peer)
            assert isinstance(await protocol.lost, ConnectionResetError)
            assert protocol.data == ANSWER

    run(main())


@pytest.mark.parametrize("ends", [True, False])
def test_an_answer_to_a_request_that_is_refused(run_ff, ends):
    """What the client was still sending is refused: it gets the answer that came before all the
    same. (A loop on kernel sockets may be told by its send first, and loses the answer.)"""

    async def main():
        for _ in range(20):
            transport, protocol, peer = await connected(Log)
            transport.write(b"a part of the request")
            peer.sendall(ANSWER)
            if ends:
                peer.shutdown(socket.SHUT_WR)
            if freebsd():
                await protocol.got(len(ANSWER))
            reset(peer)
            for _ in range(50):
                transport.write(b"more of it")
                await asyncio.sleep(0)
            lost = await protocol.lost
            assert protocol.data == ANSWER
            if not freebsd():
                assert lost is None if ends else isinstance(lost, ConnectionResetError)

    run_ff(main())


def test_a_stream_reader_gets_the_answer(run):
    async def main():
        with socket.create_server((util.PEER, 0)) as server:
            reader, writer = await asyncio.open_connection(*server.getsockname())
            peer, _ = server.accept()
        peer.sendall(ANSWER)
        peer.shutdown(socket.SHUT_WR)
        if freebsd():
            assert await reader.readexactly(len(ANSWER)) == ANSWER
            assert await reader.read() == b""
        reset(peer)
        if not freebsd():
            assert await reader.read() == ANSWER
        writer.close()

    run(main())


def test_write_eof_of_a_connection_that_was_reset(run_std):
    """Who reads nothing is told by write_eof(), as by shutdown(2)."""

    async def main():
        transport, protocol, peer = await connected(Log)
        transport.pause_reading()
        reset(peer)
        await known(transport)
        with pytest.raises(OSError, match="not connected") as caught:
            transport.write_eof()
        assert caught.value.errno == errno.ENOTCONN
        transport.abort()
        await protocol.lost

    run_std(main())


def test_write_eof_after_a_write_that_failed(run_std):
    """The connection's end, which is near, says so."""

    async def main():
        transport, protocol, peer = await connected(Log)
        reset(peer)
        transport.write(b"x")
        transport.write_eof()
        await protocol.lost

    run_std(main())


def test_sock_recv_and_then_send(run_std):
    """recv gives the data and the end, again and again; only a send says that it is over."""

    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server((util.PEER, 0)) as server, socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, server.getsockname())
            peer, _ = await asyncio.to_thread(server.accept)  # F-Stack's loop works meanwhile
            peer.sendall(b"answer")
            peer.shutdown(socket.SHUT_WR)
            got = [await loop.sock_recv(sock, 100), await loop.sock_recv(sock, 100)]
            reset(peer)
            got += [await loop.sock_recv(sock, 100), await loop.sock_recv(sock, 100)]
            assert got == [b"answer", b"", b"", b""]
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                for _ in range(1000):
                    await loop.sock_sendall(sock, b"late")
                    await asyncio.sleep(0.001)

    run_std(main())


def test_reset_before_the_loop_has_looked(run):
    """Connections that are over before they are accepted: each is told, none is left."""

    async def main():
        loop = asyncio.get_running_loop()
        protocols = []

        def factory():
            protocols.append(Log())
            return protocols[-1]

        server = await loop.create_server(factory, util.HOST, 0, backlog=200)
        address = server.sockets[0].getsockname()
        count = 100
        for _ in range(count):
            reset(socket.create_connection(address))
        last = socket.create_connection(address)
        last.sendall(b"!")
        await until(lambda: any(p.data for p in protocols))
        assert [p.data for p in protocols if p.data] == [b"!"]
        for protocol in protocols:
            if not protocol.data:
                await protocol.lost
        last.close()
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.parametrize("way", ["close", "abort"])
def test_close_with_unread_bytes_resets(run_std, way):
    """(uvloop shuts the connection down before it closes it.)"""

    class Paused(Log):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    async def main():
        server, protocol, peer = await accepted(Paused)
        peer.send(b"important")
        another, _, behind = await accepted(Log)  # its packets came after those
        behind.close()
        another.close()
        getattr(protocol.transport, way)()
        with pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().sock_recv(peer, 10)
        peer.close()
        server.close()

    run_std(main())


def test_close_with_all_read_ends(run):
    async def main():
        server, protocol, peer = await accepted(Log)
        peer.send(b"hello")
        await protocol.got(5)
        protocol.transport.close()
        await protocol.lost
        assert await asyncio.get_running_loop().sock_recv(peer, 10) == b""
        peer.close()
        server.close()

    run(main())


def test_a_listener_that_closes_resets_who_waits():
    import ffloop

    with ffloop.socket() as server:
        server.bind((util.HOST, 0))
        server.listen(8)
        with pytest.raises(BlockingIOError):
            server.accept()  # from now on one is accepted ahead
        waiting = [socket.create_connection(server.getsockname()) for _ in range(3)]
    for sock in waiting:
        sock.settimeout(60)
        with pytest.raises(OSError) as told:
            sock.recv(1)
        assert told.value.errno == errno.ECONNRESET
        sock.close()
