"""Stack sockets without a loop and without a selector: each call is tried until it succeeds, as
with any non-blocking socket."""

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
DEADLINE = 20  # seconds


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
