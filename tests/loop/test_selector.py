"""FFSelector beside EpollSelector: CPython's own tests of selectors on it, with kernel and with
stack sockets, and one program over both."""

import asyncio
import errno
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import unittest

import pytest
from common import instances

import ffloop

from . import stackpair
from .util import HOST

pytestmark = pytest.mark.ring

try:
    from test import test_selectors as cpython
except ImportError:  # Debian has it in libpython3.N-testsuite
    cpython = None

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

if cpython is not None:

    class TestWithKernelSockets(
        cpython.BaseSelectorTestCase, cpython.ScalableSelectorMixIn, unittest.TestCase
    ):
        SELECTOR = ffloop.FFSelector

    class TestWithStackSockets(cpython.BaseSelectorTestCase, unittest.TestCase):
        SELECTOR = ffloop.FFSelector

        def make_socketpair(self):
            one, other = stackpair.socketpair()
            self.addCleanup(one.close)
            self.addCleanup(other.close)
            return one, other

        # It puts a kernel socket at the stack socket's number, by dup2.
        test_unregister_after_fd_close_and_reuse = None
        # It takes what was sent to be there at once, and is told of room to write meanwhile.
        test_select_read_write = None

else:

    def test_cpython():
        pytest.skip("this interpreter has no test.test_selectors")


# ---- one program ------------------------------------------------------------------------------


class Program:
    """An echo server and its clients in one selector, with room for partial writes."""

    def __init__(self, selector, make):
        self.selector, self.make = selector, make
        self.listener = make()
        self.listener.setblocking(False)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((HOST, 0))
        self.listener.listen()
        selector.register(self.listener, READ, self.accept)
        self.answers = {}
        self.told = []
        self.open = 0

    def accept(self, key, mask):
        assert mask == READ
        sock, address = key.fileobj.accept()
        assert sock.getpeername() == address
        sock.setblocking(False)
        self.open += 1
        self.selector.register(sock, READ, [self.echo, bytearray()])

    def echo(self, key, mask):
        sock, waiting = key.fileobj, key.data[1]
        if mask & READ:
            data = sock.recv(65536)
            if not data:
                self.told.append("eof")
                self.selector.unregister(sock)
                sock.close()
                self.open -= 1
                return
            waiting += data
        self.send(sock, waiting)
        self.selector.modify(sock, READ | WRITE if waiting else READ, key.data)

    def send(self, sock, waiting):
        try:
            del waiting[: sock.send(waiting)]
        except BlockingIOError:
            pass

    def call(self, payload):
        sock = self.make()
        sock.setblocking(False)
        assert sock.connect_ex(self.listener.getsockname()) == errno.EINPROGRESS
        self.answers[sock] = bytearray()
        self.open += 1
        self.selector.register(sock, WRITE, [self.client, bytearray(payload), len(payload)])

    def client(self, key, mask):
        sock, (_, waiting, size) = key.fileobj, key.data
        if mask & WRITE:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            self.send(sock, waiting)
            self.selector.modify(sock, READ | WRITE if waiting else READ, key.data)
        if mask & READ:
            self.answers[sock] += sock.recv(100_000)
            if len(self.answers[sock]) == size:
                self.selector.unregister(sock)
                sock.close()
                self.open -= 1

    def run(self):
        while self.open:
            for key, mask in self.selector.select(60):
                handler = key.data if callable(key.data) else key.data[0]
                handler(key, mask)
        self.selector.unregister(self.listener)
        self.listener.close()
        assert not self.selector.get_map()


@pytest.fixture(params=["epoll-kernel", "ffselector-kernel", "ffselector-stack"])
def world(request):
    """(a selector, how to make a socket)"""
    kind, where = request.param.split("-")
    with selectors.EpollSelector() if kind == "epoll" else ffloop.FFSelector() as selector:
        yield selector, ffloop.socket if where == "stack" else socket.socket


def test_program(world, no_leaks):
    program = Program(*world)
    payloads = [os.urandom(100 + 100_000 * i) for i in range(12)]
    for payload in payloads:
        program.call(payload)
    program.run()
    assert [bytes(answer) for answer in program.answers.values()] == payloads
    assert program.told == ["eof"] * len(payloads)


def test_refused(world):
    selector, make = world
    with make() as holder, make() as sock:
        holder.bind((HOST, 0))
        sock.setblocking(False)
        sock.connect_ex(holder.getsockname())
        selector.register(sock, READ | WRITE)
        [(key, mask)] = selector.select()
        assert key.fileobj is sock
        assert mask == READ | WRITE
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        selector.unregister(sock)


def test_select_without_an_event(world):
    selector, make = world
    with make() as sock:
        sock.bind((HOST, 0))
        sock.listen()
        selector.register(sock, READ)
        assert selector.select(0) == []
        assert selector.select(0.01) == []
        selector.unregister(sock)


# ---- FFSelector alone -------------------------------------------------------------------------


def test_stack_and_kernel_in_one():
    left, right = socket.socketpair()
    one, other = stackpair.socketpair()
    with ffloop.FFSelector() as selector, left, right, one, other:
        selector.register(left, READ, "kernel")
        selector.register(one, READ, "stack")
        right.send(b"x")
        other.send(b"y")
        seen = set()
        while len(seen) < 2:
            for key, mask in selector.select(60):
                assert mask == READ
                seen.add(key.data)
        assert {key.data for key, _ in selector.select(0)} <= {"kernel", "stack"}
        left.recv(1)
        assert [key.data for key, _ in selector.select()] == ["stack"]
        assert one.recv(1) == b"y"
        assert selector.select(0) == []


def test_its_descriptor_can_be_polled(no_leaks):
    """Another selector, or an event loop, may wait for this one."""
    one, other = stackpair.socketpair()
    third, fourth = stackpair.socketpair()
    with ffloop.FFSelector() as selector, select.epoll() as outer, one, other, third, fourth:

        def found():
            """What it tells once its descriptor is readable, which it may be in vain."""
            while True:
                assert outer.poll(60)
                if ready := [key.fileobj for key, _ in selector.select(0)]:
                    return ready

        def quiet():
            while outer.poll(0):
                assert selector.select(0) == []

        outer.register(selector.fileno(), select.EPOLLIN)
        selector.register(one, READ)
        selector.register(third, READ)
        quiet()
        other.send(b"x")
        assert found() == [one]
        assert found() == [one], "level-triggered: it was not read yet"
        assert one.recv(10) == b"x"
        quiet()
        fourth.send(b"y")
        while one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) and not outer.poll(0):
            pass  # the call's own look at the rings must not swallow what came for `third`
        assert found() == [third]


def test_a_loops_socket_is_refused(run_ff):
    async def main():
        with ffloop.socket() as sock, ffloop.FFSelector() as selector:
            with pytest.raises(OSError, match="belongs to an event loop") as caught:
                selector.register(sock, READ)
            assert caught.value.errno == errno.EINVAL
            assert not selector.get_map()

    run_ff(main())


def test_another_thread_is_refused():
    one, other = stackpair.socketpair()
    said = []

    def there():
        for use in (lambda: one.recv(1), lambda: selector.register(one, READ)):
            try:
                use()
            except RuntimeError as exc:
                said.append(str(exc))

    with ffloop.FFSelector() as selector, one, other:
        thread = threading.Thread(target=there)
        thread.start()
        thread.join()
    assert len(said) == 2
    assert all("the thread that made it" in text for text in said)


def test_each_thread_has_its_own():
    done = []

    def there():
        one, other = stackpair.socketpair()
        with one, other, ffloop.FFSelector() as selector:
            selector.register(one, READ)
            other.send(b"x")
            done.append(selector.select(60)[0][0].fileobj.recv(1))

    threads = [threading.Thread(target=there) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [b"x"] * 3


def test_a_loop_takes_the_threads_sockets_over():
    """A listener made before the loop is the loop's."""

    def there():
        listener = stackpair.listener()

        async def main():
            loop = asyncio.get_running_loop()
            accepting = asyncio.create_task(loop.sock_accept(listener))
            _, writer = await asyncio.open_connection(*listener.getsockname())
            peer, _ = await accepting
            writer.write(b"hello")
            got.append(await loop.sock_recv(peer, 10))
            peer.close()
            writer.close()
            listener.close()

        ffloop.run(main())

    got = []
    thread = threading.Thread(target=there)
    thread.start()
    thread.join()
    assert got == [b"hello"]


def test_a_loop_leaves_a_selectors_sockets():
    one, other = stackpair.socketpair()
    with ffloop.FFSelector() as selector, one, other:
        selector.register(one, READ)

        async def main():
            loop = asyncio.get_running_loop()
            with pytest.raises(RuntimeError, match="another session"):
                await loop.sock_recv(one, 1)
            with one.dup() as given:  # newer CPythons close it then
                with pytest.raises(RuntimeError, match="another session"):
                    await loop.create_connection(asyncio.Protocol, sock=given)

        ffloop.run(main())
        other.send(b"x")
        assert [key.fileobj for key, _ in selector.select()] == [one]


def test_the_instance_ends(tmp_path, monkeypatch):
    path = str(tmp_path / "mine.sock")
    monkeypatch.setenv("FFLOOP_INSTANCE", path)

    def there():
        one, other = stackpair.socketpair()
        left, right = socket.socketpair()
        with ffloop.FFSelector() as selector, one, other, left, right:
            selector.register(one, READ)
            selector.register(left, READ)
            process.send_signal(signal.SIGKILL)
            assert [(key.fileobj, mask) for key, mask in selector.select()] == [(one, READ)]
            with pytest.raises(ConnectionResetError):
                one.recv(1)
            selector.unregister(one)
            assert selector.select(0.01) == []
            right.send(b"x")
            assert [key.fileobj for key, _ in selector.select()] == [left]
        ended.append(True)

    ended = []
    with instances.running(path) as process:
        thread = threading.Thread(target=there)
        thread.start()
        thread.join()
    assert ended


def test_a_forked_child_has_a_session_of_its_own():
    code = (
        "import os, ffloop\n"
        "from loop import stackpair\n"
        "one, other = stackpair.socketpair()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    three, four = stackpair.socketpair()\n"
        "    four.send(b'x')\n"
        "    with ffloop.FFSelector() as selector:\n"
        "        selector.register(three, 1)\n"
        "        assert selector.select(60)[0][0].fileobj.recv(1) == b'x'\n"
        "    os._exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
        "other.send(b'y')\n"
        "with ffloop.FFSelector() as selector:\n"
        "    selector.register(one, 1)\n"
        "    assert selector.select(60)[0][0].fileobj.recv(1) == b'y'\n"
        "print('both')\n"
    )
    env = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(__file__))}
    done = subprocess.run([sys.executable, "-P", "-W", "ignore", "-c", code], env=env, stdout=-1)
    assert done.stdout == b"both\n"
