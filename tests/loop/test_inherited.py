"""Kernel sockets that the application hands in: adopt, both, kernel, error; what goes past the
stack is reported.

The sim stands for any stack that is not this kernel: it has ports of its own."""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import subprocess
import sys

import pytest
from common import instances

import ffloop

from .runner import Runner
from .util import HOST, Log, listeners, until

pytestmark = pytest.mark.ring


@pytest.fixture(autouse=True)
def _own_embedded(monkeypatch):
    monkeypatch.delenv("_FFLOOP_EMBEDDED", raising=False)


@pytest.fixture
def apart(sim, tmp_path):
    """A loop's options: on an instance with the sim, where the default is to adopt."""
    path = str(tmp_path / "sim.sock")
    with instances.running(path, "--stack", "sim", executable=sim):
        yield {"instance": path}


@pytest.fixture
def run_ff():
    """Never F-Stack: these tests choose the stack themselves."""
    runner = Runner("ring")
    yield runner
    assert runner.errors == []


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.INFO, "ffloop")
    return caplog


def kernel_socket(host=HOST, *, listening=False, port=0):
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if ":" in host:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((host, port))
    sock.setblocking(False)
    if listening:
        sock.listen()
    return sock


class Greet(asyncio.Protocol):
    def __init__(self, word=b"hello"):
        self.word = word

    def connection_made(self, transport):
        transport.write(self.word)
        transport.close()


async def ask_stack(address):
    reader, writer = await asyncio.open_connection(*address[:2])
    try:
        return await reader.read()
    finally:
        writer.close()


async def ask_kernel(address):
    """As a client elsewhere would: through the kernel, whatever the loop thinks."""

    def ask():
        with socket.create_connection(address[:2]) as sock:
            return sock.recv(100)

    return await asyncio.to_thread(ask)


@contextlib.asynccontextmanager
async def serving(sock, **kwargs):
    server = await asyncio.get_running_loop().create_server(Greet, sock=sock, **kwargs)
    try:
        yield server
    finally:
        server.close()
        await server.wait_closed()


# ---- create_server ----


@pytest.mark.parametrize("host", [HOST, "0.0.0.0", "::1"])
def test_adopted_by_a_stack_of_its_own(run_ff, log, host, apart):
    """The default there. The kernel never listens: it refuses."""

    async def main():
        sock = kernel_socket(host)
        address = sock.getsockname()
        target = (HOST if host == "0.0.0.0" else host, address[1])
        async with serving(sock) as server:
            assert server.sockets[0].getsockname() == address
            assert sock.getsockname() == address
            assert await ask_stack(target) == b"hello"
            assert not listeners(address[1])
            with pytest.raises(ConnectionRefusedError):
                await ask_kernel(target)
        assert sock.fileno() == -1
        with pytest.raises(ConnectionRefusedError):
            await ask_stack(target)

    run_ff(main(), **apart)
    assert "the sim stack listens there in the kernel's place" in log.text


def test_adopting_a_listener_resets_what_reaches_the_kernel(run_ff, log, apart):
    async def main():
        sock = kernel_socket(listening=True)
        address = sock.getsockname()
        async with serving(sock):
            for _ in range(3):
                with pytest.raises(ConnectionResetError):
                    await ask_kernel(address)
            assert await ask_stack(address) == b"hello"
        assert not listeners(address[1])

    run_ff(main(), **apart)
    assert log.text.count("reached the kernel") == 1
    assert "kernel_sockets='both'" in log.text


def test_the_parents_listener_stays_as_it_is(run_ff, apart):
    """Adopting takes nothing from other holders of the socket: systemd hands it out again."""

    async def main():
        parents = kernel_socket(listening=True)
        address = parents.getsockname()
        async with serving(parents.dup()):
            assert await ask_stack(address) == b"hello"
        assert listeners(address[1])
        waiting = asyncio.create_task(ask_kernel(address))
        await until(lambda: _accepts(parents))
        assert await waiting == b"from the parent"
        parents.close()

    def _accepts(parents):
        with contextlib.suppress(BlockingIOError):
            connection, _ = parents.accept()
            connection.sendall(b"from the parent")
            connection.close()
            return True

    run_ff(main(), **apart)


def test_workers_share_an_adopted_address(run_ff, apart):
    """Each adopts its own copy of one inherited socket."""

    async def main():
        first = kernel_socket()
        second = first.dup()
        address = first.getsockname()
        loop = asyncio.get_running_loop()
        one = await loop.create_server(lambda: Greet(b"1"), sock=first)
        two = await loop.create_server(lambda: Greet(b"2"), sock=second)
        assert {await ask_stack(address) for _ in range(8)} == {b"1", b"2"}
        one.close()
        assert await ask_stack(address) == b"2"
        two.close()

    run_ff(main(), **apart)


@pytest.mark.parametrize("options", [{"kernel_sockets": "both"}, {"dual_listen": True}])
@pytest.mark.parametrize("listening", [False, True])
def test_both(run_ff, log, listening, options, apart):
    async def main():
        sock = kernel_socket(listening=listening)
        address = sock.getsockname()
        async with serving(sock) as server:
            assert [s.getsockname() for s in server.sockets] == [address, address]
            assert await ask_stack(address) == b"hello"
            assert await ask_kernel(address) == b"hello"
        assert not listeners(address[1])

    run_ff(main(), **apart, **options)
    assert "listens there too" in log.text


@pytest.mark.parametrize("on_sim", [True, False])
def test_kernel(run_ff, log, apart, on_sim):
    """The host stack's default: it is this kernel."""
    options = {**apart, "kernel_sockets": "kernel"} if on_sim else {}

    async def main():
        sock = kernel_socket()
        address = sock.getsockname()
        async with serving(sock):
            assert await ask_kernel(address) == b"hello"

    run_ff(main(), **options)
    assert "the kernel serves it (kernel_sockets='kernel')" in log.text


def test_the_routes_come_first(run_ff, log, apart):
    async def main():
        sock = kernel_socket()
        async with serving(sock) as server:
            assert await ask_kernel(server.sockets[0].getsockname()) == b"hello"

    run_ff(main(), **apart, kernel_sockets="error", routes="127.0.0.0/8=kernel")
    assert "by the routes" in log.text


def test_error(run_ff):
    async def main():
        loop = asyncio.get_running_loop()
        with kernel_socket(listening=True) as sock:
            with pytest.raises(RuntimeError, match=r"create_server.*kernel_sockets='error'"):
                await loop.create_server(Greet, sock=sock)
            with pytest.raises(RuntimeError, match=r"sock_accept.*kernel_sockets='error'"):
                await loop.sock_accept(sock)
            with pytest.raises(RuntimeError, match=r"add_reader.*kernel_sockets='error'"):
                loop.add_reader(sock, print)
            assert listeners(sock.getsockname()[1])
        server = await loop.create_server(Greet, HOST, 0)  # nothing of the kernel's: fine
        server.close()

    run_ff(main(), kernel_sockets="error")


def test_unix_sockets_are_the_kernels_under_every_policy(run_ff, tmp_path):
    async def main():
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(tmp_path / "s"))
        async with serving(sock):
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
            assert await reader.read() == b"hello"
            writer.close()

    run_ff(main(), kernel_sockets="error")


def test_an_address_that_the_stack_does_not_have(run_ff, log, monkeypatch, apart):
    """By default it stays on the kernel, with a warning; asked for, adopt is an error."""
    real = ffloop.socket.bind

    def bind(self, address, /):
        raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    async def main():
        sock = kernel_socket()
        address = sock.getsockname()
        async with serving(sock):
            monkeypatch.setattr(ffloop.socket, "bind", real)
            assert await ask_kernel(address) == b"hello"

    async def strict():
        with kernel_socket() as sock:
            with pytest.raises(OSError, match="cannot adopt") as caught:
                await asyncio.get_running_loop().create_server(Greet, sock=sock)
            assert caught.value.errno == errno.EADDRNOTAVAIL

    monkeypatch.setattr(ffloop.socket, "bind", bind)
    run_ff(main(), **apart)
    assert "is no address of the sim stack" in log.text
    monkeypatch.setattr(ffloop.socket, "bind", bind)
    run_ff(strict(), **apart, kernel_sockets="adopt")


class Wrapped:
    """As gunicorn's sockets: not a socket.socket, but shaped like one."""

    def __init__(self, sock):
        self.sock = sock

    def __getattr__(self, name):
        return getattr(self.sock, name)


def test_wrapped_and_mislabelled_sockets(run_ff, apart):
    async def main():
        wrapped = Wrapped(kernel_socket(listening=True))
        address = wrapped.getsockname()
        async with serving(wrapped):
            assert await ask_stack(address) == b"hello"
        assert wrapped.fileno() == -1
        assert not listeners(address[1])
        with kernel_socket("::1") as made:  # uvicorn --fd says AF_UNIX of any descriptor
            fd = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=os.dup(made.fileno()))
        address = fd.getsockname()
        async with serving(fd):
            assert await ask_stack(address) == b"hello"

    run_ff(main(), **apart)


@pytest.mark.parametrize("only", [False, True])
def test_an_ipv6_wildcard(run_ff, only, apart):
    """anyio's default listens on it for IPv4 too."""

    async def main():
        sock = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=not only)
        port = sock.getsockname()[1]
        async with serving(sock):
            assert await ask_stack(("::1", port)) == b"hello"
            if only:
                with pytest.raises(ConnectionRefusedError):
                    await ask_stack((HOST, port))
            else:
                assert await ask_stack((HOST, port)) == b"hello"

    run_ff(main(), **apart)


def test_options_are_carried(run_ff, apart):
    async def main():
        sock = kernel_socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        async with serving(sock) as server:
            theirs = server.sockets[0]
            assert theirs.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert theirs.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1

    run_ff(main(), **apart)


# ---- adopt with the host stack ----


@pytest.mark.parametrize("listening", [False, True])
def test_the_host_stack_adopts_what_only_this_process_has(run_ff, listening):
    async def main():
        sock = kernel_socket(listening=listening)
        address = sock.getsockname()
        async with serving(sock):
            assert listeners(address[1]) == {"ffloop-instance"}
            assert await ask_kernel(address) == b"hello"

    run_ff(main(), kernel_sockets="adopt")


def test_the_host_stack_adopts_what_a_parent_bound(run_ff):
    """uvicorn's and hypercorn's parents bind and never listen; several workers adopt."""

    async def main():
        parents = kernel_socket()
        address = parents.getsockname()
        async with serving(parents.dup()):
            async with serving(parents.dup()):
                assert await ask_kernel(address) == b"hello"
                assert listeners(address[1]) == {"ffloop-instance"}
        parents.close()

    run_ff(main(), kernel_sockets="adopt")


def test_the_host_stack_cannot_adopt_what_a_parent_listens_on(run_ff):
    """Two listeners of one kernel would split the connections between them."""

    async def main():
        parents = kernel_socket(listening=True)
        mine = parents.dup()
        with pytest.raises(OSError, match="another process holds the address") as caught:
            await asyncio.get_running_loop().create_server(Greet, sock=mine)
        assert caught.value.errno == errno.EADDRINUSE
        assert "kernel_sockets='kernel'" in str(caught.value)
        assert mine.fileno() == -1
        assert listeners(parents.getsockname()[1])
        parents.close()

    run_ff(main(), kernel_sockets="adopt")


def test_both_means_nothing_with_the_host_stack(run_ff):
    async def main():
        with kernel_socket() as sock, pytest.raises(ffloop.ConfigError, match="this kernel"):
            await asyncio.get_running_loop().create_server(Greet, sock=sock)

    run_ff(main(), kernel_sockets="both")


# ---- sock_accept ----


async def accept_one(sock):
    """As anyio's listeners do."""
    loop = asyncio.get_running_loop()
    connection, peer = await loop.sock_accept(sock)
    transport, protocol = await loop.connect_accepted_socket(Log, connection)
    assert transport.get_extra_info("peername") == peer
    transport.write(b"hello")
    transport.close()
    await protocol.lost


def test_sock_accept_adopts(run_ff, apart):
    async def main():
        sock = kernel_socket(listening=True)
        address = sock.getsockname()
        for _ in range(2):
            _, answer = await asyncio.gather(accept_one(sock), ask_stack(address))
            assert answer == b"hello"
        with pytest.raises(ConnectionResetError):
            await ask_kernel(address)
        accepting = asyncio.create_task(accept_one(sock))
        await asyncio.sleep(0)
        accepting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await accepting
        sock.close()
        assert not listeners(address[1])

    run_ff(main(), **apart)


def test_sock_accept_both(run_ff, apart):
    async def main():
        sock = kernel_socket(listening=True)
        address = sock.getsockname()
        for ask in (ask_stack, ask_kernel, ask_stack, ask_kernel):
            _, answer = await asyncio.gather(accept_one(sock), ask(address))
            assert answer == b"hello"
        sock.close()
        assert not listeners(address[1])

    run_ff(main(), **apart, kernel_sockets="both")


def test_sock_accept_kernel(run_ff, log):
    async def main():
        with kernel_socket(listening=True) as sock:
            for _ in range(2):
                await asyncio.gather(accept_one(sock), ask_kernel(sock.getsockname()))

    run_ff(main())
    assert log.text.count("sock_accept() was handed") == 1


def test_sock_accept_of_a_subclass_stays_on_the_kernel(run_ff, log, apart):
    """Its class cannot be changed in place; it is said."""

    class Own(socket.socket):
        pass

    async def main():
        with kernel_socket(listening=True) as made:
            own = Own(fileno=made.detach())
        with own:
            await asyncio.gather(accept_one(own), ask_kernel(own.getsockname()))

    run_ff(main(), **apart)
    assert "is of a class of its own: the kernel serves it" in log.text


def test_sock_accept_of_a_socket_that_does_not_listen(run):
    async def main():
        with kernel_socket() as sock, pytest.raises(OSError) as caught:
            await asyncio.get_running_loop().sock_accept(sock)
        assert caught.value.errno == errno.EINVAL

    run(main())


# ---- create_datagram_endpoint ----


class Answer(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data.upper(), addr)


class Hear(asyncio.DatagramProtocol):
    def __init__(self):
        self.heard = asyncio.get_running_loop().create_future()

    def datagram_received(self, data, addr):
        self.heard.set_result(data)


def kernel_datagrams():
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind((HOST, 0))
    sock.setblocking(False)
    return sock


async def ask_stack_datagram(address):
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Hear, remote_addr=address)
    transport.sendto(b"word")
    try:
        return await protocol.heard
    finally:
        transport.close()


def test_a_datagram_socket_is_adopted(run_ff, log, apart):
    async def main():
        loop = asyncio.get_running_loop()
        sock = kernel_datagrams()
        address = sock.getsockname()
        transport, _ = await loop.create_datagram_endpoint(Answer, sock=sock)
        assert await ask_stack_datagram(address) == b"WORD"
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.sendto(b"word", address)
            await until(lambda: "a datagram from" in log.text)
        transport.close()
        await asyncio.sleep(0)
        assert sock.fileno() == -1
        with socket.socket(type=socket.SOCK_DGRAM) as again:
            again.bind(address)  # nothing of it is left

    run_ff(main(), **apart)
    assert "it was dropped" in log.text


@pytest.mark.parametrize("policy", ["kernel", "adopt"])
def test_a_datagram_socket_with_the_host_stack(run_ff, policy):
    async def main():
        loop = asyncio.get_running_loop()
        sock = kernel_datagrams()
        address = sock.getsockname()
        transport, _ = await loop.create_datagram_endpoint(Answer, sock=sock)
        assert (type(sock) is not socket.socket) == (policy == "adopt")
        assert await ask_stack_datagram(address) == b"WORD"
        transport.close()
        await asyncio.sleep(0)
        assert sock.fileno() == -1

    run_ff(main(), kernel_sockets=policy)


def test_a_datagram_socket_under_error(run_ff):
    async def main():
        with kernel_datagrams() as sock, pytest.raises(RuntimeError, match="kernel_sockets='error"):
            await asyncio.get_running_loop().create_datagram_endpoint(Answer, sock=sock)

    run_ff(main(), kernel_sockets="error")


def test_a_connected_datagram_socket_stays(run_ff, log, apart):
    async def main():
        loop = asyncio.get_running_loop()
        with kernel_datagrams() as server, kernel_datagrams() as client:
            client.connect(server.getsockname())
            transport, _ = await loop.create_datagram_endpoint(Hear, sock=client.dup())
            transport.sendto(b"word")
            await loop.sock_recv(server, 10)
            transport.close()

    run_ff(main(), **apart)
    assert "it stays on the kernel" in log.text


# ---- what goes past the stack ----


def test_a_connected_kernel_socket_stays_and_is_reported(run_ff, log, apart):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server((HOST, 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
        client.setblocking(False)
        transport, protocol = await loop.create_connection(Log, sock=client)
        server.sendall(b"from the kernel")
        server.close()
        assert await protocol.got(15) == b"from the kernel"
        await protocol.lost

    run_ff(main(), **apart)
    (record,) = [r for r in log.records if "create_connection() was handed" in r.message]
    assert record.levelno == logging.WARNING


def test_watching_a_kernel_tcp_socket_is_reported_once(run_ff, log, apart):
    """tornado accepts so, libpq's clients read so."""

    async def main():
        loop = asyncio.get_running_loop()
        with kernel_socket(listening=True) as sock:
            accepted = loop.create_future()
            for _ in range(2):
                loop.add_reader(sock, lambda: accepted.done() or accepted.set_result(None))
            asking = asyncio.create_task(ask_kernel(sock.getsockname()))
            await accepted
            loop.remove_reader(sock)
            connection, _ = sock.accept()
            connection.sendall(b"x")
            connection.close()
            assert await asking == b"x"

    run_ff(main(), **apart)
    assert log.text.count("that is the kernel's network") == 1


def test_a_foreign_transport_on_a_stack_socket(run_ff):
    """On a socket object it could never work; a number is a kernel socket's, and there it does."""

    class RawTransport(asyncio.Transport):
        def __init__(self):
            self.ready = asyncio.get_running_loop().create_future()

        def on_ready(self):
            if not self.ready.done():
                self.ready.set_result(None)

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Greet, HOST, 0)
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, server.sockets[0].getsockname())
        with pytest.raises(RuntimeError, match=r"RawTransport.*carries no data"):
            loop.add_reader(sock, RawTransport().on_ready)
        raw = RawTransport()
        loop.add_reader(sock.fileno(), raw.on_ready)
        await raw.ready
        assert sock.recv(10) == b"hello"
        loop.remove_reader(sock.fileno())
        sock.close()
        server.close()

    run_ff(main())


@pytest.mark.parametrize("on_sim", [True, False])
def test_aiofastnet(run_ff, log, apart, on_sim):
    """Its transports read and write descriptors: they get the kernel's, and it is said."""
    aiofastnet = pytest.importorskip("aiofastnet")

    async def main():
        loop = asyncio.get_running_loop()
        server = await aiofastnet.create_server(loop, Greet, HOST, 0)
        address = server.sockets[0].getsockname()
        assert await ask_kernel(address) == b"hello"
        _, protocol = await aiofastnet.create_connection(loop, Log, *address)
        assert await protocol.got(5) == b"hello"
        await protocol.lost
        server.close()

    run_ff(main(), **(apart if on_sim else {}))
    assert "aiofastnet puts transports of its own on raw descriptors" in log.text


def test_adopted_again_after_the_instance_came_back():
    code = """
import asyncio, os, signal, socket, ffloop
async def main():
    sock = socket.socket(); sock.bind(("127.0.0.1", 0)); sock.setblocking(False)
    server = await asyncio.start_server(lambda r, w: w.close(), sock=sock)
    first = ffloop.instance().pid
    os.kill(first, signal.SIGKILL)
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(0.01)
        try:
            if ffloop.instance().pid != first:
                break
        except ffloop.InstanceError:
            pass
    reader, writer = await asyncio.open_connection(*sock.getsockname())
    assert await reader.read() == b""
    writer.close()
    server.close()
    print("served again")
ffloop.run(main(), kernel_sockets="adopt")
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True)
    assert done.stdout == b"served again\n", done.stderr
