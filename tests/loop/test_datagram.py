"""Datagram endpoints: the same on every loop, on the stack with ffloop."""

import asyncio
import contextlib
import contextvars
import ctypes
import errno
import gc
import os
import signal
import socket
import struct
import sys
import warnings

import pytest

from .util import HOST, asyncio_leaves_sockets, until

V6 = "::1"


class Box(asyncio.DatagramProtocol):
    """Keeps what it hears; echoes it if it is told to."""

    def __init__(self, echo: bool = False) -> None:
        self.echo = echo
        self.calls: list[object] = []
        self.got: list[tuple[bytes, object]] = []
        self.errors: list[BaseException] = []
        self.lost = asyncio.get_running_loop().create_future()
        self.paused = 0
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport):
        self.transport = transport
        self.calls.append("made")

    def datagram_received(self, data, addr):
        assert type(data) is bytes
        self.got.append((data, addr))
        if self.echo:
            self.transport.sendto(data, addr)

    def error_received(self, exc):
        self.errors.append(exc)

    def pause_writing(self):
        self.paused += 1

    def connection_lost(self, exc):
        self.calls.append("lost")
        self.lost.set_result(exc)


@contextlib.asynccontextmanager
async def endpoint(factory=Box, **kwargs):
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(factory, **kwargs)
    try:
        yield transport, protocol
    finally:
        transport.close()
        if not protocol.lost.done():
            await protocol.lost


@pytest.mark.parametrize("host", [HOST, V6])
def test_echo(run, host, no_leaks):
    """A server that is not connected, a client that is: whole datagrams, addresses, order."""

    async def main():
        async with endpoint(lambda: Box(echo=True), local_addr=(host, 0)) as (served, server):
            address = served.get_extra_info("sockname")
            assert address[0] == host
            assert served.get_extra_info("peername") is None
            async with endpoint(remote_addr=address[:2]) as (transport, client):
                assert transport.get_extra_info("peername")[:2] == address[:2]
                sizes = [1, 100, 1472, 9000, 60000]
                for size in sizes:
                    transport.sendto(bytes([size % 251]) * size)
                    await until(lambda: len(client.got) == len(server.got) == len(sent) + 1)
                    sent.append(size)
                assert [len(data) for data, _ in client.got] == sizes
                assert client.got[0][1][:2] == address[:2]
                me = transport.get_extra_info("sockname")
                assert server.got[0][1][:2] == me[:2]
                with pytest.raises(ValueError, match="must be None or"):
                    transport.sendto(b"x", (host, 1))
                transport.sendto(b"named", address)
                await until(lambda: client.got[-1][0] == b"named")
            assert client.calls == ["made", "lost"]
            assert client.lost.result() is None

    sent: list[int] = []
    run(main())


@pytest.mark.ring
def test_where_it_is(run_ff, no_leaks):
    """On the stack, unless the routes say otherwise."""

    async def main(kind):
        async with endpoint(local_addr=(HOST, 0)) as (transport, _):
            sock = transport.get_extra_info("socket")._sock
            assert type(sock).__name__ == kind
            assert asyncio.get_running_loop().ffloop_stats()["inst_sockets"] == (
                kind == "StackSocket"
            )

    run_ff(main("StackSocket"))
    run_ff(main("socket"), routes="127.0.0.0/8=kernel")


def test_many_at_once(run, no_leaks):
    async def main():
        async with endpoint(lambda: Box(echo=True), local_addr=(HOST, 0)) as (served, _):
            async with endpoint(local_addr=(HOST, 0)) as (transport, box):
                to = served.get_extra_info("sockname")
                for base in range(0, 2000, 100):
                    for i in range(base, base + 100):
                        transport.sendto(b"%d" % i, to)
                    await until(lambda n=base + 100: len(box.got) == n)
                assert [data for data, _ in box.got] == [b"%d" % i for i in range(2000)]

    run(main())


@asyncio_leaves_sockets
def test_bad_arguments(run_std):
    async def main():
        loop = asyncio.get_running_loop()
        make = loop.create_datagram_endpoint
        with pytest.raises(ValueError, match="unexpected address family"):
            await make(Box)
        with pytest.raises(TypeError, match="2-tuple is expected"):
            await make(Box, local_addr="here")
        with pytest.raises(ValueError, match="can not get address information"):
            await make(Box, local_addr=(HOST, 0), remote_addr=(V6, 9))
        with pytest.raises(OSError) as caught:
            await make(Box, local_addr=("192.0.2.1", 0))
        assert caught.value.errno == errno.EADDRNOTAVAIL
        async with endpoint(local_addr=(HOST, 0)) as (transport, _):
            with pytest.raises(TypeError, match="bytes-like object, not 'str'"):
                transport.sendto("text", (HOST, 9))
            address = transport.get_extra_info("sockname")
            with pytest.raises(OSError) as caught:
                await make(Box, local_addr=address)
            assert caught.value.errno == errno.EADDRINUSE

            for sent in (None, "there"):  # nowhere
                transport, box = await make(Box, local_addr=(HOST, 0))
                transport.sendto(b"x", sent)
                assert isinstance(await box.lost, TypeError)

        def broken():
            raise LookupError

        with pytest.raises(LookupError):
            await make(broken, local_addr=(HOST, 0))

    run_std(main())
    assert [type(context["exception"]) for context in run_std.errors] == [TypeError] * 2
    run_std.errors.clear()


def test_options(run, no_leaks):
    async def main():
        async with endpoint(local_addr=(HOST, 0), reuse_port=True, allow_broadcast=True) as one:
            sock = one[0].get_extra_info("socket")
            assert sock.type == socket.SOCK_DGRAM
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
            address = one[0].get_extra_info("sockname")
            async with endpoint(local_addr=address, reuse_port=True) as other:
                assert other[0].get_extra_info("sockname") == address
        async with endpoint(family=socket.AF_INET) as (transport, _):
            transport.sendto(b"to nobody", (HOST, 9))

    run(main())


def test_to_port_0(run_std):
    async def main():
        async with endpoint(local_addr=(HOST, 0)) as (transport, box):
            transport.sendto(b"x", (HOST, 0))
            assert [exc.errno for exc in box.errors] == [errno.EINVAL]

    run_std(main())


def test_refused(run_std, no_leaks):
    """A connected socket hears of the port that nobody has, and lives on."""

    async def main():
        async with endpoint(local_addr=(HOST, 0)) as (transport, _):
            address = transport.get_extra_info("sockname")
        async with endpoint(remote_addr=address) as (transport, box):
            transport.sendto(b"x")
            await until(lambda: box.errors)
            assert isinstance(box.errors[0], ConnectionRefusedError)
            assert not transport.is_closing()
            async with endpoint(lambda: Box(echo=True), local_addr=address):
                while not box.got:  # what comes before the other end is there is refused too
                    transport.sendto(b"y")
                    await asyncio.sleep(0.01)

    run_std(main())


def test_too_large(run_std, no_leaks):
    async def main():
        async with endpoint(local_addr=(HOST, 0)) as (transport, box):
            transport.sendto(b"x" * 65508, (HOST, 9))
            await until(lambda: box.errors)
            assert box.errors[0].errno == errno.EMSGSIZE
            assert not transport.is_closing()

    run_std(main())


def test_a_large_one_of_the_kernels(run_std, tmp_path):
    """A unix datagram may be larger than UDP's largest."""
    large = bytes(range(256)) * 600

    async def main():
        address = str(tmp_path / "socket")
        async with endpoint(local_addr=address, family=socket.AF_UNIX) as (_, box):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto(large, address)
            await until(lambda: box.got)
            assert box.got[0][0] == large

    run_std(main())


def test_empty(run_std, no_leaks):
    """Python 3.13 sends empty datagrams, earlier ones do not."""

    async def main():
        async with (
            endpoint(local_addr=(HOST, 0)) as (served, box),
            endpoint(remote_addr=served.get_extra_info("sockname")) as (transport, _),
        ):
            transport.sendto(b"")
            transport.sendto(b"end")
            await until(lambda: box.got and box.got[-1][0] == b"end")
            empty = [b""] if sys.version_info >= (3, 13) else []
            assert [data for data, _ in box.got] == [*empty, b"end"]

    run_std(main())


def test_close_abort_and_misuse(run_std, no_leaks):
    async def main():
        loop = asyncio.get_running_loop()
        async with endpoint(local_addr=(HOST, 0)) as (served, _):
            address = served.get_extra_info("sockname")
            for end in ("close", "abort"):
                transport, box = await loop.create_datagram_endpoint(Box, remote_addr=address)
                sock = transport.get_extra_info("socket")
                getattr(transport, end)()
                getattr(transport, end)()
                assert transport.is_closing()
                assert box.calls == ["made"]
                assert await box.lost is None
                assert sock.fileno() == -1
                transport.sendto(b"late")
                assert "closed" in repr(transport)

    run_std(main())


def test_a_send_to_an_address_after_the_end(run_ff):
    """Nothing happens, as by uvloop and with TCP."""

    async def main():
        transport, box = await asyncio.get_running_loop().create_datagram_endpoint(
            Box, local_addr=(HOST, 0)
        )
        address = transport.get_extra_info("sockname")
        transport.close()
        await box.lost
        transport.sendto(b"late", address)

    run_ff(main())


def test_a_protocol_that_raises(run_std, no_leaks):
    """It is reported, and the endpoint lives on."""

    async def main():
        class Broken(Box):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                if data == b"bad":
                    raise LookupError

        async with (
            endpoint(Broken, local_addr=(HOST, 0)) as (served, box),
            endpoint(remote_addr=served.get_extra_info("sockname")) as (transport, _),
        ):
            for data in (b"bad", b"good"):
                transport.sendto(data)
            await until(lambda: len(box.got) == 2)

    run_std(main())
    (reported,), run_std.errors = run_std.errors, []
    assert isinstance(reported["exception"], LookupError)


def test_a_socket_of_ones_own(run_std, no_leaks):
    """sock=: one of socket.socket, one of ffloop.socket; and what cannot go with it."""

    async def main():
        loop = asyncio.get_running_loop()
        kinds = [socket.socket]
        if run_std.name == "ffloop":
            import ffloop

            kinds.append(ffloop.socket)
        for kind in kinds:
            sock = kind(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.bind((HOST, 0))
            with pytest.raises(ValueError, match="modifier keyword"):
                await loop.create_datagram_endpoint(Box, sock=sock, local_addr=(HOST, 0))
            async with (
                endpoint(lambda: Box(echo=True), sock=sock) as (served, _),
                endpoint(remote_addr=served.get_extra_info("sockname")) as (transport, box),
            ):
                transport.sendto(b"x")
                await until(lambda box=box: box.got)
        stream = kinds[-1](socket.AF_INET, socket.SOCK_STREAM)
        with pytest.raises(ValueError, match="was expected"):
            await loop.create_datagram_endpoint(Box, sock=stream)
        stream.close()

    run_std(main())


def test_sock_calls(run_ff, no_leaks):
    """sock_sendto and sock_recvfrom on stack sockets."""

    async def main():
        import ffloop

        loop = asyncio.get_running_loop()
        with (
            ffloop.socket(socket.AF_INET, socket.SOCK_DGRAM) as a,
            ffloop.socket(socket.AF_INET, socket.SOCK_DGRAM) as b,
        ):
            a.bind((HOST, 0))
            b.bind((HOST, 0))
            for data in (b"one", b"x" * 40000):
                assert await loop.sock_sendto(a, data, b.getsockname()) == len(data)
                assert await loop.sock_recvfrom(b, 65536) == (data, a.getsockname())
            await loop.sock_connect(a, b.getsockname())
            assert a.send(b"connected") == 9
            buffer = bytearray(100)
            assert await loop.sock_recvfrom_into(b, buffer) == (9, a.getsockname())
            assert await loop.sock_sendto(b, b"cut", a.getsockname()) == 3
            assert await loop.sock_recv(a, 2) == b"cu"  # the rest is gone
            with pytest.raises(BlockingIOError):
                a.recv(10)

    run_ff(main())


def test_unclosed_transport_warns(run_std):
    async def main():
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=(HOST, 0)
        )
        if not run_std.by_ring:  # the loop refers to it for as long as it reads
            transport.close()
            return
        transport._endpoint.session.receivers.pop(transport._handle)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del transport
            gc.collect()
        assert any("unclosed transport" in str(w.message) for w in caught)

    run_std(main())


@pytest.mark.ring
def test_flow_control(run_ff, no_leaks):
    """More than the pool holds: writing pauses, and every datagram goes out in the end."""

    async def main():
        async with endpoint(local_addr=(HOST, 0)) as (served, _):
            to = served.get_extra_info("sockname")
            async with endpoint(remote_addr=to) as (transport, box):
                instance = asyncio.get_running_loop().instance.pid
                os.kill(instance, signal.SIGSTOP)  # or it may keep pace
                try:
                    for _ in range(100):
                        transport.sendto(b"x" * 30000)
                finally:
                    os.kill(instance, signal.SIGCONT)
                assert box.paused == 1
                assert transport.get_write_buffer_size() > 0
                await until(lambda: transport.get_write_buffer_size() == 0)

    run_ff(main(), pool_kib=1024)


@pytest.mark.ring
def test_the_instance_ends(run_ff):
    """The endpoint is lost with ConnectionResetError, at once."""

    async def main():
        import os
        import signal

        loop = asyncio.get_running_loop()
        _, box = await loop.create_datagram_endpoint(Box, local_addr=(HOST, 0))
        os.kill(loop.instance.pid, signal.SIGKILL)
        assert isinstance(await box.lost, ConnectionResetError)

    run_ff(main())


def test_contexts(run_std):
    """Each callback runs in the context that asyncio would give it."""
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")

    async def main():
        seen = {}

        class Spy(Box):
            def connection_made(self, transport):
                seen["made"] = var.get()
                var.set("changed in made")
                super().connection_made(transport)

            def datagram_received(self, data, addr):
                seen.setdefault("received", []).append(var.get())
                var.set(f"received {len(seen['received'])}")
                super().datagram_received(data, addr)

            def connection_lost(self, exc):
                seen["lost"] = var.get()
                super().connection_lost(exc)

        var.set("maker")
        async with endpoint(Spy, local_addr=(HOST, 0)) as (transport, spy):
            address = transport.get_extra_info("sockname")
            var.set("sender")
            async with endpoint(remote_addr=address) as (sender, _):
                for count in (1, 2):
                    sender.sendto(b"x")
                    await until(lambda count=count: len(spy.got) == count)
            transport.close()
            await spy.lost
        return seen

    seen = run_std(main())
    assert seen == {"made": "maker", "received": ["maker", "received 1"], "lost": "sender"}


@pytest.mark.parametrize("kind", ["ipv4", "ipv6", "unix", "unix without a name", "abstract"])
def test_whom_a_datagram_of_the_kernels_is_from(run_std, tmp_path, kind):
    """As recvfrom() of the socket module has it; and an answer goes there."""
    family = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}.get(kind, socket.AF_UNIX)
    names = {
        "unix": str(tmp_path / "client"),
        "abstract": f"\0{tmp_path}",
        "unix without a name": "",
    }
    name = names.get(kind, ("127.0.0.1" if kind == "ipv4" else V6, 0))

    async def main():
        with (
            socket.socket(family, socket.SOCK_DGRAM) as client,
            socket.socket(family, socket.SOCK_DGRAM) as plain,
        ):
            plain.bind(str(tmp_path / "plain") if family == socket.AF_UNIX else name)
            sock = socket.socket(family, socket.SOCK_DGRAM)
            sock.bind(str(tmp_path / "server") if family == socket.AF_UNIX else name)
            if name:
                client.bind(name)
            client.settimeout(60)
            async with endpoint(lambda: Box(echo=bool(name)), sock=sock) as (transport, box):
                for to in (sock, plain):
                    client.sendto(b"hello", to.getsockname())
                await until(lambda: box.got)
                assert box.got == [plain.recvfrom(10)]
                if name:
                    assert client.recv(10) == b"hello"
                assert "read=polling" in repr(transport)

    run_std(main())


def test_a_unix_path_as_long_as_there_is_room(run_std, tmp_path, monkeypatch):
    """It has no NUL at its end: the kernel says that it is a byte longer than the structure."""
    monkeypatch.chdir(tmp_path)
    path = b"p" * 108

    async def main():
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind("server")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            name = struct.pack("H", socket.AF_UNIX) + path
            assert ctypes.CDLL(None).bind(client.fileno(), name, len(name)) == 0
            async with endpoint(sock=sock) as (_, box):
                for n in range(3):
                    client.sendto(b"%d" % n, "server")
                await until(lambda: len(box.got) == 3)
                assert box.got == [(b"%d" % n, path.decode()) for n in range(3)]

    run_std(main())


def test_a_burst_of_the_kernels(run_std):
    """What comes after an exception, an error or close() in the middle of it."""

    class Picky(Box):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            if data == b"3":
                raise LookupError
            if data == b"5":
                self.transport.close()

    async def main():
        loop, reported = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        with socket.socket(type=socket.SOCK_DGRAM) as client, sock.dup() as dup:
            async with endpoint(Picky, sock=sock) as (_, box):
                for n in range(8):
                    client.sendto(b"%d" % n, dup.getsockname())
                await box.lost
            assert [data for data, _ in box.got] == [b"%d" % n for n in range(6)]
            assert [type(exc) for exc in reported] == [LookupError]
            assert dup.recv(10) == b"6"

    run_std(main())


def test_single_datagrams_are_read_singly(run_ff):
    """Without a call that finds nothing, but for one in eight; a burst is read at once again."""

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        transport, box = await loop.create_datagram_endpoint(Box, sock=ours)

        def read(count):
            for _ in range(count):
                theirs.send(b"x")
            box.got.clear()
            transport._read_ready()
            return len(box.got)

        with theirs:
            while read(2) < 2:  # until a burst has been read: the descriptor's past does not count
                pass
            assert read(3) == 3
            assert read(1) == 1
            assert [read(count) for count in (2, 1, 1, 1, 1, 1, 1)] == [1] * 7
            assert read(2) == 3
        transport.close()
        await box.lost

    run_ff(main())


def test_who_pauses_in_a_burst_gets_no_more(run_std):
    """By a unix socket, which is the kernel's with an instance too."""
    got = []

    class Pauses(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, addr):
            got.append(data)
            self.transport.pause_reading()

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        transport, _ = await loop.create_datagram_endpoint(Pauses, sock=ours)
        if not hasattr(transport, "pause_reading"):
            transport.close()
            theirs.close()
            pytest.skip("asyncio's datagram transports cannot pause before Python 3.11.3")
        with theirs:
            for number in range(3):
                theirs.send(b"%d" % number)
            for expected in ([b"0"], [b"0", b"1"], [b"0", b"1", b"2"]):
                await until(lambda expected=expected: got == expected)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert got == expected
                transport.resume_reading()
        transport.close()

    run_std(main())


def test_an_endpoint_with_an_address_sends_to_no_other(run_std):
    """One that may broadcast is not connected."""

    async def main():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            Box, remote_addr=(HOST, 9), allow_broadcast=True
        )
        transport.sendto(b"x", (HOST, 9))
        with pytest.raises(ValueError, match="Invalid address"):
            transport.sendto(b"x", (HOST, 10))
        transport.close()

    run_std(main())
