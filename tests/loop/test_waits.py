"""Sockets that direct mode waits for: sock_connect, sock_recv and its like, beside watchers."""

import asyncio
import contextlib
import gc
import socket

import pytest

import ffloop

from .util import Log


def client():
    sock = socket.socket()
    sock.setblocking(False)
    return sock


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_socket_that_connects_may_be_watched(run_direct, when):
    """By the selector, which has the descriptor then: one epoll takes it once."""

    async def main():
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        with socket.create_server(("127.0.0.1", 0)) as server, client() as sock:
            if when == "before":
                loop.add_reader(sock, lambda: None)
            connecting = asyncio.ensure_future(loop.sock_connect(sock, server.getsockname()))
            watching = asyncio.ensure_future(watch(loop, sock, readable))
            await asyncio.gather(connecting, watching)
            with server.accept()[0] as accepted:
                accepted.send(b"x")
                await readable.wait()
            assert loop.remove_reader(sock) and not loop.remove_writer(sock)

    async def watch(loop, sock, readable):
        loop.add_reader(sock, readable.set)
        assert loop._selector.get_key(sock)

    run_direct(main())


def test_a_connect_that_is_cancelled_or_refused_leaves_nothing(run_direct):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = server.getsockname()
            with client() as sock:
                connecting = asyncio.ensure_future(loop.sock_connect(sock, address))
                loop.call_soon(connecting.cancel)
                with pytest.raises(asyncio.CancelledError):
                    await connecting
                assert loop._batches.owner(sock.fileno()) is None
                loop.add_writer(sock, lambda: None)
                assert loop.remove_writer(sock)
        with client() as sock:
            with pytest.raises(ConnectionRefusedError, match="Connect call failed"):
                await loop.sock_connect(sock, address)
            assert loop._batches.owner(sock.fileno()) is None
        with client() as sock, pytest.raises(ConnectionRefusedError):  # a name, which is looked up
            await loop.sock_connect(sock, ("localhost", address[1]))

    run_direct(main())


def test_a_factory_that_raises_leaves_no_connection(run_direct):
    async def main():
        def broken():
            raise LookupError

        with socket.create_server(("127.0.0.1", 0)) as server:
            with pytest.raises(LookupError):
                await asyncio.get_running_loop().create_connection(broken, *server.getsockname())
            with server.accept()[0] as accepted:
                assert accepted.recv(1) == b""

    run_direct(main())


def test_a_loop_that_closes_while_a_socket_connects(run_direct):
    loop = ffloop.new_event_loop()
    with socket.create_server(("127.0.0.1", 0)) as server, client() as sock:
        connecting = loop.create_task(loop.sock_connect(sock, server.getsockname()))
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        assert not connecting.done()
        del connecting
        gc.collect()
        assert sock.fileno() >= 0


# ---- waiting for a socket -----------------------------------------------------------------------


@contextlib.contextmanager
def quiet_pair():
    """Two sockets that are connected and do not block."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        yield near, far


async def waiting_recv(sock):
    """A task that waits in sock_recv."""
    task = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(sock, 10))
    await asyncio.sleep(0)
    return task


def test_a_socket_is_waited_for_again_both_ways_and_in_a_transport(run_direct):
    """One entry of the epoll serves one wait after the other, and then the transport."""

    async def main():
        loop = asyncio.get_running_loop()
        with quiet_pair() as (near, far):
            for message in (b"1", b"2", b"3"):
                receiving = await waiting_recv(far)
                near.send(message)
                assert await receiving == message
            receiving = await waiting_recv(far)
            payload = bytes(2_000_000)
            sending = asyncio.ensure_future(loop.sock_sendall(far, payload))
            near.send(b"4")
            assert await receiving == b"4"
            got = 0
            while got < len(payload):
                got += len(await loop.sock_recv(near, 1 << 20))
            await sending
            transport, protocol = await loop.create_connection(Log, sock=far)
            near.send(b"5")
            assert await protocol.got(1) == b"5"
            transport.abort()
            await protocol.lost

    run_direct(main())


def test_a_wait_that_was_given_up_wakes_nobody(run_direct):
    async def main():
        loop = asyncio.get_running_loop()
        with quiet_pair() as (near, far):
            receiving = await waiting_recv(far)
            receiving.cancel()
            await asyncio.wait([receiving])
            near.send(b"x")
            events = loop.ffloop_stats()["reaped"]
            await asyncio.sleep(0.001)  # a wait of the loop's
            assert loop.ffloop_stats()["reaped"] == events
            assert await loop.sock_recv(far, 10) == b"x"

    run_direct(main())


@pytest.mark.parametrize("becomes", ["a socket", "a reader", "a transport"])
def test_a_number_whose_socket_was_closed_while_one_waited(run_direct, becomes):
    """It is watched for the file that has it now, and the old wait's end leaves it so."""

    async def main():
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        far.setblocking(False)
        held, receiving = far.dup(), await waiting_recv(far)
        number = far.fileno()
        far.close()
        with near, held, quiet_pair() as (other, new):
            assert number in (other.fileno(), new.fileno())
            if number == other.fileno():
                other, new = new, other
            if becomes == "a socket":
                heard = await waiting_recv(new)
            elif becomes == "a reader":
                heard = loop.create_future()
                loop.add_reader(new, lambda: heard.done() or heard.set_result(new.recv(10)))
            else:
                transport, protocol = await loop.create_connection(Log, sock=new)
                heard = asyncio.ensure_future(protocol.got(1))
            receiving.cancel()
            await asyncio.wait([receiving])
            other.send(b"x")
            assert await heard == b"x"
            loop.remove_reader(number) if becomes != "a transport" else transport.abort()

    run_direct(main())
