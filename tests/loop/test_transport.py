"""The transport: order of callbacks, half close, abort, contexts, errors."""

import asyncio
import contextlib
import contextvars
import gc
import inspect
import io
import socket
import sys
import warnings

import pytest

from .util import HOST, Log, pair, serve, until, until_told

MB = 1_000_000


def test_order_of_callbacks(run):
    async def main():
        async with pair() as (client, server):
            client.transport.write(b"abc")
            client.transport.write_eof()
            assert await server.got(3) == b"abc"
            await server.lost
            await client.lost
            assert server.calls == ["made", "data", "eof", ("lost", type(None))]
            assert client.calls == ["made", "eof", ("lost", type(None))]

    run(main())


def test_half_close(run):
    """eof_received returns True: the other direction goes on."""

    async def main():
        class KeepOpen(Log):
            def eof_received(self):
                super().eof_received()
                return True

        async with pair(KeepOpen) as (client, server):
            client.transport.write(b"question")
            client.transport.write_eof()
            await server.eof
            assert not server.transport.is_closing()
            server.transport.write(b"answer" * 10_000)
            assert await client.got(60_000) == b"answer" * 10_000
            server.transport.close()
            await client.lost

    run(main())


def test_write_after_eof(run):
    async def main():
        async with pair() as (client, _server):
            assert client.transport.can_write_eof()
            client.transport.write_eof()
            client.transport.write_eof()
            with pytest.raises(RuntimeError):
                client.transport.write(b"x")
            with pytest.raises(RuntimeError):
                client.transport.writelines([b"x"])

    run(main())


def test_eof_after_backlog(run):
    async def main():
        async with pair() as (client, server):
            server.transport.pause_reading()
            client.transport.write(b"x" * (8 * MB))
            client.transport.write_eof()
            server.transport.resume_reading()
            assert len(await server.got(8 * MB)) == 8 * MB
            await server.eof

    run(main())


def test_close_sends_the_backlog(run):
    if run.name == "asyncio" and (3, 12, 0) <= sys.version_info < (3, 12, 2):
        pytest.skip("asyncio of 3.12.0 and 3.12.1 forgets the backlog")

    async def main():
        async with pair() as (client, server):
            server.transport.pause_reading()
            client.transport.write(b"x" * (8 * MB))
            client.transport.close()
            assert client.transport.is_closing()
            server.transport.resume_reading()
            assert len(await server.got(8 * MB)) == 8 * MB
            await server.lost
            assert await client.lost is None

    run(main())


def test_abort_drops_the_backlog(run):
    async def main():
        async with pair() as (client, server):
            server.transport.pause_reading()
            client.transport.write(b"x" * (16 * MB))
            client.transport.abort()
            assert await client.lost is None
            server.transport.resume_reading()
            await server.lost
            assert len(server.data) < 16 * MB

    run(main())


def test_a_small_write_before_abort_arrives(run_std):
    """asyncio hands it to the kernel at once, so abort has nothing of it to drop."""

    async def main():
        async with pair() as (client, server):
            client.transport.write(b"goodbye")
            client.transport.abort()
            await server.lost
            assert server.data == b"goodbye"

    run_std(main())


def test_data_received_raises(run):
    async def main():
        class Bad(Log):
            def data_received(self, data):
                raise ZeroDivisionError

        async with pair(Bad) as (client, server):
            client.transport.write(b"x")
            assert type(await server.lost) is ZeroDivisionError
            await client.lost

    run(main())
    assert len(run.errors) == 1
    if run.name != "uvloop":
        assert run.errors[0]["message"] == "Fatal error: protocol.data_received() call failed."
    run.errors.clear()


def test_eof_received_raises(run_std):
    async def main():
        class Bad(Log):
            def eof_received(self):
                raise ZeroDivisionError

        async with pair(Bad) as (client, server):
            client.transport.write_eof()
            assert type(await server.lost) is ZeroDivisionError

    run_std(main())
    assert [e["message"] for e in run_std.errors] == [
        "Fatal error: protocol.eof_received() call failed."
    ]
    run_std.errors.clear()


def test_reset_by_peer(run):
    async def main():
        loop = asyncio.get_running_loop()
        made = []
        async with serve(lambda: made.append(Log()) or made[-1]) as (_, addr):
            sock = socket.socket()
            await asyncio.to_thread(sock.connect, addr)
            await until(lambda: made)
            await made[0].made
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
            assert type(await made[0].lost) is ConnectionResetError
            assert loop.is_running()

    run(main())


def test_reset_while_paused_gives_the_data_first(run):
    async def main():
        made = []

        class Paused(Log):
            def connection_made(self, transport):
                transport.pause_reading()
                super().connection_made(transport)

        async with serve(lambda: made.append(Paused()) or made[-1]) as (_, addr):
            sock = socket.socket()
            await asyncio.to_thread(sock.connect, addr)
            await until(lambda: made)
            await made[0].made
            sock.send(b"last words")
            made[0].transport.resume_reading()
            await made[0].got(10)
            made[0].transport.pause_reading()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
            made[0].transport.resume_reading()
            assert type(await made[0].lost) is ConnectionResetError

    run(main())


def test_contexts(run_std):
    """Each callback runs in the context that asyncio would give it."""
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")

    async def main():
        seen = {}

        class Spy(Log):
            def connection_made(self, transport):
                seen["made"] = var.get()
                var.set("changed in made")
                super().connection_made(transport)

            def data_received(self, data):
                seen.setdefault("data", []).append(var.get())
                var.set(f"data {len(seen['data'])}")
                super().data_received(data)

            def connection_lost(self, exc):
                seen["lost"] = var.get()
                super().connection_lost(exc)

        made = []
        var.set("server")
        async with serve(lambda: made.append(Spy()) or made[-1]) as (_, addr):
            var.set("client")
            transport, _client = await asyncio.get_running_loop().create_connection(Log, *addr)
            transport.write(b"1")
            await until(lambda: made and made[0].data)
            transport.write(b"2")
            await made[0].got(2)
            transport.close()
            await made[0].lost
        return seen

    seen = run_std(main())
    # From Python 3.15 on a connection's callbacks share one context.
    first = "changed in made" if sys.version_info >= (3, 15) else "server"
    assert seen == {"made": "server", "data": [first, "data 1"], "lost": "data 2"}


def test_extra_info(run):
    async def main():
        async with pair() as (client, server):
            for protocol in (client, server):
                transport = protocol.transport
                sock = transport.get_extra_info("socket")
                assert sock.family == socket.AF_INET
                assert sock.type == socket.SOCK_STREAM
                assert sock.getsockname() == transport.get_extra_info("sockname")
                assert sock.getpeername() == transport.get_extra_info("peername")
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
                assert sock.fileno() > 0
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                assert transport.get_extra_info("nothing") is None
                assert transport.get_extra_info("nothing", 5) == 5
                assert run.name == "uvloop" or isinstance(sock._sock, socket.socket)

    run(main())


def test_no_delay_of_sockets_that_were_made_without_a_protocol(run_ff):
    """As by uvloop."""

    async def main():
        loop = asyncio.get_running_loop()
        accepted = loop.create_future()

        class Accepted(asyncio.Protocol):
            def connection_made(self, transport):
                accepted.set_result(transport)

        listening = socket.socket()
        listening.bind((HOST, 0))
        server = await loop.create_server(Accepted, sock=listening)
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, server.sockets[0].getsockname())
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=sock)
        for end in transport, await accepted:
            option = end.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert option == 1
            end.close()
        server.close()

    run_ff(main())


def test_the_socket_of_a_connection_that_is_lost(run_std):
    """Asked for the first time after the end, say in a task that begins late: a closed one."""

    async def main():
        async with pair() as (client, server):
            client.transport.abort()
            await server.lost
            sock = server.transport.get_extra_info("socket")
            assert sock.fileno() == -1
            with pytest.raises(OSError):
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    run_std(main())


def test_dup_keeps_the_connection(run_std):
    async def main():
        async with pair() as (client, server):
            dup = client.transport.get_extra_info("socket").dup()
            dup.setblocking(False)
            client.transport.close()
            await client.lost
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(dup, b"from the dup")
            assert await server.got(12) == b"from the dup"
            server.transport.write(b"hello dup")
            assert await loop.sock_recv(dup, 100) == b"hello dup"
            dup.close()
            await server.lost

    run_std(main())


def test_unclosed_transport_warns(run_ff, no_leaks):
    async def main():
        made = []
        async with serve(lambda: made.append(Log()) or made[-1]) as (_, addr):
            await asyncio.get_running_loop().create_connection(Log, *addr)
            await until(lambda: made)  # closing the listener would reset what is not accepted

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run_ff(main())
        gc.collect()
    texts = [str(w.message) for w in seen if issubclass(w.category, ResourceWarning)]
    unclosed = [text for text in texts if "unclosed transport" in text]
    assert unclosed
    assert not any("closed fd=" in text for text in unclosed)


def test_use_after_the_loop_is_closed(run_ff):
    """Nothing crashes: every call is harmless or raises OSError."""
    keep = []

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Log, HOST, 0)
        transport, protocol = await loop.create_connection(Log, *server.sockets[0].getsockname())
        keep.extend((server, transport, protocol, transport.get_extra_info("socket"), loop))

    run_ff(main())
    server, transport, _, sock, loop = keep
    for _ in range(3):
        transport.write(b"x" * 100)
    transport.pause_reading()
    transport.resume_reading()
    if run_ff.by_ring:  # else it is the application's own, open until the transport goes
        assert sock.fileno() == -1
        with pytest.raises(OSError):
            sock.getpeername()
        with pytest.raises(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        with pytest.raises(OSError):
            sock.shutdown(socket.SHUT_WR)
    with contextlib.nullcontext() if run_ff.by_ring else pytest.raises(RuntimeError):
        transport.abort()  # as asyncio's: "Event loop is closed"
    repr(transport), repr(sock), repr(server)
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon(print)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        keep.clear()
        del server, transport, sock
        gc.collect()


def test_write_eof_and_close_with_unread_data(run):
    async def main():
        async with pair() as (client, server):
            server.transport.pause_reading()
            client.transport.write(b"unread")
            server.transport.write(b"answer")
            assert await client.got(6) == b"answer"
            server.transport.close()
            await client.lost

    run(main())


def test_ten_thousand_connections(run_ff, no_leaks):
    """Opened and closed one after the other, in waves; no handle stays."""

    async def main():
        loop = asyncio.get_running_loop()

        class Echo(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def data_received(self, data):
                self.transport.write(data)
                self.transport.close()

        server = await loop.create_server(Echo, HOST, 0, backlog=1024)
        addr = server.sockets[0].getsockname()

        async def some():
            for _ in range(50):
                transport, protocol = await loop.create_connection(Log, *addr)
                transport.write(b"x")
                await protocol.lost
                assert protocol.data == b"x"

        for _ in range(20):
            await asyncio.gather(*(some() for _ in range(10)))
        server.close()
        if not run_ff.by_ring:
            await until_told(lambda: loop.ffloop_stats()["app_sockets"] == 0)
            return
        await until(lambda: not loop._session.receivers)
        loop._session.client.ping()
        await until_told(lambda: loop._session.client.open_sockets() == 0)

    run_ff(main())


@pytest.mark.ring
def test_sendfile_leaves_flow_control_as_it_is(run_ff):
    """The rest of what is no file still waits when sendfile is done: the protocol is told to pause
    before it is told to resume."""
    data = io.BytesIO(b"x" * 16_000)  # one chunk of asyncio's, more than the cap
    source = inspect.getsource(asyncio.BaseEventLoop._sendfile_fallback)
    waits_first = source.index(".write(") < source.index(".drain(")  # newer ones do

    async def main():
        async with pair() as (client, server):
            client.transport.set_write_buffer_limits(0)
            # With a count it returns right after the last write.
            await asyncio.get_running_loop().sendfile(client.transport, data, 0, 16_000)
            rest = [] if waits_first else ["pause"]
            assert client.calls == ["made", *rest]
            await server.got(16_000)
            await until(lambda: client.calls == ["made", *rest, *(["resume"] if rest else [])])

    run_ff(main(), tx_cap=4096)


def test_the_end_comes_in_a_later_turn_than_the_data(run_std):
    """Who waits for the data finds its transport open still."""

    class Order(Log):
        def data_received(self, data):
            super().data_received(data)
            asyncio.get_running_loop().call_soon(self.calls.append, "next iteration")

    async def main():
        made = []
        async with serve(lambda: made.append(Order()) or made[-1]) as (_, address):
            for n in range(20):
                with socket.create_connection(address) as peer:
                    peer.sendall(b"all of it")
                await until(lambda n=n: len(made) > n)
                protocol = made[n]
                await protocol.lost
                assert protocol.calls == [
                    "made",
                    "data",
                    "next iteration",
                    "eof",
                    ("lost", type(None)),
                ]

    run_std(main())
