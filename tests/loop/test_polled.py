"""Stack sockets without a loop and without a selector: each call is tried until it succeeds, as
with any non-blocking socket."""

import contextlib
import errno
import os
import signal
import socket
import threading
import time

import pytest

import ffloop
from ffloop._session import ownership

from .stackpair import listener
from .util import HOST

pytestmark = pytest.mark.ring

CONNECTING = {errno.EINPROGRESS, errno.EALREADY}
DEADLINE = 60  # seconds


@pytest.fixture(autouse=True)
def _own_session():
    yield
    ownership.end()


def until(call, *args):
    """What the call returns when it no longer says EAGAIN."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        try:
            return call(*args)
        except BlockingIOError:
            os.sched_yield()
    raise TimeoutError(call)


def connected(address):
    sock = ffloop.socket()
    codes = [sock.connect_ex(address)]
    end = time.monotonic() + DEADLINE
    while codes[-1] in CONNECTING and time.monotonic() < end:
        os.sched_yield()
        codes.append(sock.connect_ex(address))
    return sock, codes


def pair():
    with listener() as server:
        one, codes = connected(server.getsockname())
        assert codes[-1] == 0
        other, address = until(server.accept)
        assert address == one.getsockname()
    return one, other


def test_a_connection_is_made_and_accepted():
    one, other = pair()
    with one, other:
        assert one.getpeername() == other.getsockname()
        # It has been told; from now on it is connected.
        assert one.connect_ex(other.getsockname()) == errno.EISCONN
        assert other.connect_ex(one.getsockname()) == errno.EISCONN


def test_a_refused_connect_is_told_once_and_can_be_tried_again():
    with socket.socket() as closed:  # bound and not listening: nobody else gets the port
        closed.bind((HOST, 0))
        address = closed.getsockname()
        sock, codes = connected(address)
        with sock:
            assert codes[-1] == errno.ECONNREFUSED
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            closed.listen(1)
            code = sock.connect_ex(address)
            assert code in CONNECTING
            end = time.monotonic() + DEADLINE
            while code in CONNECTING and time.monotonic() < end:
                os.sched_yield()
                code = sock.connect_ex(address)
            assert code == 0


def test_data_comes_and_room_comes_back():
    data, got = os.urandom(8 << 20), bytearray()
    with listener() as server, socket.create_connection(server.getsockname()) as peer:
        sock, _ = until(server.accept)

        def read() -> None:
            while len(got) < len(data):
                got.extend(peer.recv(1 << 20))
            peer.sendall(b"all")

        reader = threading.Thread(target=read)
        reader.start()
        with sock, memoryview(data) as view:
            sent = 0
            while sent < len(data):
                sent += until(sock.send, view[sent : sent + 65536])
            assert until(sock.recv, 10) == b"all"
            peer.shutdown(socket.SHUT_WR)
            assert until(sock.recv, 10) == b""
        reader.join()
    assert got == data


def test_a_datagram_comes():
    with (
        ffloop.socket(type=socket.SOCK_DGRAM) as one,
        ffloop.socket(type=socket.SOCK_DGRAM) as other,
    ):
        one.bind((HOST, 0))
        other.bind((HOST, 0))
        one.sendto(b"x", other.getsockname())
        assert until(other.recvfrom, 10) == (b"x", one.getsockname())


def test_handles_are_free_again(monkeypatch):
    """More sockets, one after the other, than a session may have at a time."""
    monkeypatch.setenv("FFLOOP_MAX_SOCKETS", "8")
    with listener() as server:
        for _ in range(600):
            one, codes = connected(server.getsockname())
            assert codes[-1] == 0
            other, _ = until(server.accept)
            one.close()
            other.close()


def test_the_instances_end_is_noticed():
    one, other = pair()
    with one, other:
        pid = ownership.current().client.instance_pid
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ConnectionResetError):
            until(one.recv, 1)


@contextlib.contextmanager
def after(call):
    """A connection whose peer has called call(peer) before anybody asked the socket for input."""
    with socket.create_server((HOST, 0)) as server:
        one, codes = connected(server.getsockname())
        assert codes[-1] == 0
        peer, _ = server.accept()
        with peer, one:
            call(peer)
            yield one


@pytest.mark.parametrize("flags", [0, socket.MSG_PEEK, socket.MSG_PEEK | socket.MSG_DONTWAIT])
def test_the_first_look_finds_what_has_come(flags):
    """As a pool does before it uses a kept connection again: once, without waiting."""
    with after(lambda peer: peer.sendall(b"bytes")) as sock:
        assert sock.recv(3, flags) == b"byt"
    with after(socket.socket.close) as sock:
        assert sock.recv(1, flags) == b""
    with after(lambda peer: None) as sock, pytest.raises(BlockingIOError):
        sock.recv(1, flags)


def test_the_first_accept_and_recvfrom_find_what_has_come():
    with listener() as server, socket.create_connection(server.getsockname()) as peer:
        other, address = server.accept()
        with other:
            assert address == peer.getsockname()
    with (
        ffloop.socket(type=socket.SOCK_DGRAM) as one,
        socket.socket(type=socket.SOCK_DGRAM) as peer,
    ):
        one.bind((HOST, 0))
        peer.sendto(b"x", one.getsockname())
        assert one.recvfrom(10)[0] == b"x"
        with pytest.raises(OSError) as caught:
            one.accept()
        assert caught.value.errno == errno.EOPNOTSUPP


def test_a_datagram_socket_is_connected_at_once():
    with (
        ffloop.socket(type=socket.SOCK_DGRAM) as one,
        socket.socket(type=socket.SOCK_DGRAM) as left,
        socket.socket(type=socket.SOCK_DGRAM) as right,
    ):
        for peer in (left, right):
            peer.settimeout(DEADLINE)
            peer.bind((HOST, 0))
            assert one.connect_ex(peer.getsockname()) == 0
            assert one.getpeername() == peer.getsockname()
            assert one.send(b"x") == 1
            assert peer.recvfrom(9) == (b"x", one.getsockname())


def test_sendto_of_a_connection_sends_the_bytes_alone():
    one, other = pair()
    with one, other:
        assert one.sendto(b"a", other.getsockname()) == 1
        assert one.sendto(b"b", socket.MSG_DONTWAIT, other.getsockname()) == 1
        assert one.sendmsg([b"c", b"d"], [], 0, other.getsockname()) == 2
        one.shutdown(socket.SHUT_WR)
        got = b""
        while part := until(other.recv, 10):
            got += part
    assert got == b"abcd"


def test_a_buffer_that_cannot_be_written_to():
    one, other = pair()
    with one, other, pytest.raises(TypeError, match="read-write"):
        one.recv_into(b"fixed")
