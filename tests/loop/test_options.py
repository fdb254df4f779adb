"""Socket options: what the kernel takes from any user, a socket on the host stack takes as well."""

import selectors
import socket
import struct
from typing import Any

import pytest

from ffloop import FFSelector

from . import util
from .stackpair import listener, socketpair

pytestmark = pytest.mark.ring

SOL, TCP, IP, IP6 = socket.SOL_SOCKET, socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6
STREAM = [
    (SOL, socket.SO_PRIORITY, 6),
    (SOL, socket.SO_PRIORITY, 7),
    (SOL, socket.SO_TYPE, 1),
    (SOL, 9999, 1),
    (TCP, socket.TCP_CONGESTION, b"no-such-one"),
    (TCP, socket.TCP_USER_TIMEOUT, 9000),
    (TCP, socket.TCP_NODELAY, b"\x01"),
    (TCP, 16, 1),  # TCP_THIN_LINEAR_TIMEOUTS
    (TCP, 9999, 1),
    (IP, socket.IP_TOS, 0x20),
    (IP, 21, 3),  # IP_MINTTL
    (IP, 8, 1),  # IP_PKTINFO
    (IP, 9999, 1),
    (77, 1, 1),
]
DATAGRAM = [
    (SOL, socket.SO_PRIORITY, 4),
    (SOL, 29, 1),  # SO_TIMESTAMP
    (SOL, socket.SO_BINDTODEVICE, b"no-such-device\0"),
    (SOL, socket.SO_BROADCAST, 1),
    (IP, 8, 1),  # IP_PKTINFO
    (IP, 10, 2),  # IP_MTU_DISCOVER
    (IP, 12, 1),  # IP_RECVTTL
    (IP, 13, 1),  # IP_RECVTOS
    (IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("239.1.1.1") + socket.inet_aton("127.0.0.1")),
    (IP, 39, b"".join(map(socket.inet_aton, ("239.1.1.2", "127.0.0.1", "127.0.0.1")))),
    (IP, 42, struct.pack("=I4xHH4s120x", 1, 2, 0, socket.inet_aton("239.1.1.3"))),
    (IP, 9999, 1),
]
DATAGRAM6 = [
    (IP6, 49, 1),  # IPV6_RECVPKTINFO
    (IP6, 51, 1),  # IPV6_RECVHOPLIMIT
    (IP6, socket.IPV6_UNICAST_HOPS, 8),
    (IP6, 62, 1),  # IPV6_DONTFRAG
    (IP6, 9999, 1),
]


def outcome(sock: Any, level: int, name: int, value: int | bytes) -> Any:
    """What setting it says, and what reading it gives then (where a number is read)."""
    try:
        sock.setsockopt(level, name, value)
    except OSError as exc:
        return exc.errno
    try:
        return sock.getsockopt(level, name)
    except OSError as exc:
        return "set", exc.errno


def same(ours: Any, kernels: Any, options: list[Any]) -> None:
    wrong = {}
    for option in options:
        here, there = outcome(ours, *option), outcome(kernels, *option)
        if here != there:
            wrong[option[:2]] = here, there
    assert not wrong


def test_streams_options_are_the_kernels() -> None:
    one, other = socketpair()
    with one, other, listener() as server, socket.create_server(("127.0.0.1", 0)) as kernels:
        with socket.create_connection(kernels.getsockname()) as kernel:
            same(one, kernel, STREAM)
        same(server, kernels, STREAM)


@pytest.mark.parametrize(
    ("family", "host", "options"),
    [(socket.AF_INET, "127.0.0.1", DATAGRAM), (socket.AF_INET6, "::1", DATAGRAM6)],
)
def test_datagram_options_are_the_kernels(family: int, host: str, options: list[Any]) -> None:
    import ffloop

    with (
        ffloop.socket(family, socket.SOCK_DGRAM) as ours,
        socket.socket(family, socket.SOCK_DGRAM) as kernels,
    ):
        ours.bind((host, 0))
        kernels.bind((host, 0))
        same(ours, kernels, options)


def test_tcp_info_is_whole() -> None:
    one, other = socketpair()
    with one, other, socket.create_server((util.HOST, 0)) as server:
        with socket.create_connection(server.getsockname()) as kernel:
            whole = kernel.getsockopt(TCP, socket.TCP_INFO, 500)
        info = one.getsockopt(TCP, socket.TCP_INFO, 500)
        assert len(info) == len(whole)
        rtt, congestion_window = struct.unpack_from("=I8xI", info, 68)
        assert rtt > 0
        assert congestion_window > 0


@pytest.mark.parametrize(
    ("family", "host", "asked", "sent"),
    [
        (
            socket.AF_INET,
            "127.0.0.1",
            [(IP, 8), (IP, 12), (IP, 13), (SOL, 29)],
            [(IP, 1, struct.pack("i", 0x20)), (IP, 2, struct.pack("i", 9))],
        ),
        (
            socket.AF_INET6,
            "::1",
            [(IP6, 49), (IP6, 51), (IP6, 66)],
            [(IP6, 52, struct.pack("i", 9)), (IP6, 67, struct.pack("i", 0x20))],
        ),
    ],
)
def test_control_messages_are_the_kernels(
    family: int, host: str, asked: list[Any], sent: list[Any]
) -> None:
    """What a datagram says of itself (address, hop limit, class, time), and what goes with one."""
    import ffloop

    told = []
    for make in (ffloop.socket, socket.socket):
        with make(family, socket.SOCK_DGRAM) as sock, socket.socket(family, 2) as peer:
            sock.bind((host, 0))
            peer.bind((host, 0))
            for ours in (sock, peer):
                for level, name in asked:
                    ours.setsockopt(level, name, 1)
            peer.sendmsg([b"in"], sent, 0, sock.getsockname())
            ready(sock)
            told.append(summary(sock.recvmsg(100, 500)))
            sock.sendmsg([b"o", b"ut"], sent, 0, peer.getsockname())
            told.append(summary(peer.recvmsg(100, 500)))
            peer.sendto(b"cut", sock.getsockname())
            ready(sock)
            told.append(summary(sock.recvmsg(100, 60)))
            with pytest.raises(OSError) as refused:
                sock.sendmsg([b"x"], [(SOL, 1234, b"")], 0, peer.getsockname())
            told.append(refused.value.errno)
    assert told[:4] == told[4:]
    assert {message[:2] for message in told[0][1]} >= {message[:2] for message in sent}
    assert len(told[0][1]) == len(asked)
    assert told[2][2] & socket.MSG_CTRUNC


def ready(sock: Any) -> None:
    with selectors.DefaultSelector() if type(sock) is socket.socket else FFSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        assert selector.select(5)


def summary(got: Any) -> Any:
    """A recvmsg's answer, without what differs from one call to the next."""
    data, messages, flags, _ = got
    return data, sorted(m if m[:2] != (SOL, 29) else (*m[:2], b"") for m in messages), flags
