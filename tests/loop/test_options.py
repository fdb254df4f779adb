"""Socket options: what the kernel takes from any user, a socket on the host stack takes as well."""

import ctypes
import selectors
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ffloop import FFSelector
from ffloop._session.native import ffi, lib

from . import util
from .stackpair import listener, socketpair

pytestmark = pytest.mark.ring

SOL, TCP, IP, IP6 = socket.SOL_SOCKET, socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6
# (TCP_NODELAY by one byte and the like: the kernel's own errors.)
EXTRA = [
    (SOL, socket.SO_PRIORITY, 6),
    (SOL, socket.SO_PRIORITY, 7),
    (SOL, socket.SO_TYPE, 1),
    (SOL, socket.SO_BINDTODEVICE, b"no-such-device\0"),
    (SOL, 9999, 1),
    (TCP, socket.TCP_CONGESTION, b"no-such-one"),
    (TCP, socket.TCP_USER_TIMEOUT, 9000),
    (TCP, socket.TCP_NODELAY, b"\x01"),
    (TCP, 9999, 1),
    (IP, socket.IP_TOS, 0x20),
    (IP, 10, 2),  # IP_MTU_DISCOVER
    (IP, 21, 3),  # IP_MINTTL
    (IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("239.1.1.1") + socket.inet_aton("127.0.0.1")),
    (IP, 39, b"".join(map(socket.inet_aton, ("239.1.1.2", "127.0.0.1", "127.0.0.1")))),
    (IP, 42, struct.pack("=I4xHH4s120x", 1, 2, 0, socket.inet_aton("239.1.1.3"))),
    (IP, 9999, 1),
    (IP6, socket.IPV6_UNICAST_HOPS, 8),
    (IP6, 9999, 1),
    (77, 1, 1),
]
# Their values are of one socket, or of one moment: only how long they are is compared.
OWN = {(SOL, 49), (SOL, 55), (SOL, 56), (SOL, 57), (SOL, 17), (SOL, 28), (SOL, 59), (SOL, 71)} | {
    *((TCP, name) for name in (2, 11, 24, 26)),
    (IP, 52),
}


def table() -> Iterator[tuple[int, int, int | bytes | None]]:
    """Each option of the core's table that the host stack has, with some values; None: the value
    is read only."""
    row = 0
    while (option := lib.ffl_option_at(row)) != ffi.NULL:
        row += 1
        values: tuple[int | bytes | None, ...] = ()
        if option.flags & lib.FFL_OPTION_SET:
            values = (1, 0, -1, b"", bytes(8), bytes(16))
        elif option.flags & lib.FFL_OPTION_GET:
            values = (None,)
        if option.kind != lib.FFL_OPTION_PROGRAM and option.name != socket.SO_BINDTODEVICE:
            yield from ((option.level, option.name, value) for value in values)
    yield from EXTRA


def outcome(sock: Any, level: int, name: int, value: int | bytes | None) -> Any:
    """What setting it says, and what reading it gives then."""
    said = None if value is None else failure(sock.setsockopt, level, name, value)
    got = failure(sock.getsockopt, level, name, 20)
    if (level, name) in OWN:
        return said, len(got) if type(got) is bytes else got
    return said, got, failure(sock.getsockopt, level, name)


def differences(ours: Any, kernels: Any) -> dict[Any, Any]:
    seen = {option: (outcome(ours, *option), outcome(kernels, *option)) for option in table()}
    return {option: both for option, both in seen.items() if both[0] != both[1]}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_options_are_the_kernels(host: str, kind: int) -> None:
    """Of a socket that is bound, and of a connection."""
    import ffloop

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ffloop.socket(family, kind) as ours, socket.socket(family, kind) as kernels:
        for sock in (ours, kernels):
            sock.bind((host, 0))
        assert differences(ours, kernels) == {}


def test_a_connections_options_are_the_kernels() -> None:
    import ffloop

    ours, peer = connection(ffloop.socket)
    kernels, other = connection(socket.socket)
    with ours, kernels, peer, other, listener() as one, socket.create_server((util.HOST, 0)) as two:
        assert differences(ours, kernels) == {}
        assert differences(one, two) == {}


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
        assert selector.select(60)


def summary(got: Any) -> Any:
    """A recvmsg's answer, without what differs from one call to the next."""
    data, messages, flags, _ = got
    return data, sorted(m if m[:2] != (SOL, 29) else (*m[:2], b"") for m in messages), flags


# ---- what comes beside the data -----------------------------------------------------------------

RECVERR = {socket.AF_INET: (IP, 11), socket.AF_INET6: (IP6, 25)}
ZEROCOPY = 0x4000000  # MSG_ZEROCOPY
TX_STAMPS = 0x2 | 0x10 | 0x80 | 0x800  # of sends, by software, numbered, without the data


def natively_and_here(case: Callable[[Any], list[Any]]) -> None:
    """`case` gets a function that makes sockets."""
    import ffloop

    assert case(ffloop.socket) == case(socket.socket)


def kinds(messages: list[Any]) -> list[Any]:
    return sorted((level, kind, len(data)) for level, kind, data in messages)


def nobody(family: int, host: str) -> Any:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        return sock.getsockname()


def failure(call: Callable[..., Any], *args: Any) -> Any:
    try:
        return call(*args)
    except OSError as exc:
        return exc.errno


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_nobody_is_there(family: int, host: str) -> None:
    """An unconnected socket that asks for it is told so, with what it sent to whom: by its error
    first or by its error queue first."""

    def case(make: Any) -> list[Any]:
        with make(family, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.bind((host, 0))
            sock.setsockopt(*RECVERR[family], 1)
            gone = nobody(family, host)
            sock.sendto(b"one", gone)
            ready(sock)
            data, messages, flags, to = sock.recvmsg(100, 500, socket.MSG_ERRQUEUE)
            seen = [data, kinds(messages), flags, to[1] == gone[1], failure(sock.recv, 1)]
            sock.sendto(b"two", gone)
            ready(sock)
            seen += [failure(sock.recv, 1), sock.getsockopt(SOL, socket.SO_ERROR)]
            data, messages, *_ = sock.recvmsg(2, 500, socket.MSG_ERRQUEUE)
            (error,) = [data for *option, data in messages if tuple(option) == RECVERR[family]]
            return [*seen, data, error[:8], failure(sock.recvmsg, 9, 99, socket.MSG_ERRQUEUE)]

    natively_and_here(case)


def connection(make: Any) -> tuple[Any, socket.socket]:
    """(an accepted socket, its peer)."""
    with make() as server:
        server.bind((util.HOST, 0))
        server.listen()
        peer = socket.create_connection(server.getsockname())
        ready(server)
        return server.accept()[0], peer


def test_a_streams_time_stamps() -> None:
    """Of what it received, with each piece of it, and of what it sent, in the error queue."""

    def case(make: Any) -> list[Any]:
        sock, peer = connection(make)
        with sock, peer:
            sock.setsockopt(SOL, 35, 1)  # SO_TIMESTAMPNS
            assert sock.getsockopt(SOL, 35) == 1
            stamped: list[Any] = []
            while not stamped:  # the kernel begins to stamp some time after that
                peer.send(b"x")
                ready(sock)
                stamped = sock.recvmsg(1, 200)[1]
            peer.send(b"0123456789")
            ready(sock)
            seen = []
            for size in (4, 100):
                data, messages, flags, _ = sock.recvmsg(size, 200)
                seen += [data, kinds(messages), flags]
            sock.setsockopt(SOL, 37, TX_STAMPS)
            sock.send(b"x")
            ready(sock)
            data, messages, flags, _ = sock.recvmsg(9, 500, socket.MSG_ERRQUEUE)
            return [*seen, data, kinds(messages), flags]

    natively_and_here(case)


def test_options_of_the_calls() -> None:
    """SO_PEEK_OFF, SO_ZEROCOPY, TCP_INQ: of a stream, and as its listener has them."""

    def case(make: Any) -> list[Any]:
        sock, peer = connection(make)
        with sock, peer:
            sock.setblocking(False)
            sock.setsockopt(SOL, 42, 1)  # SO_PEEK_OFF
            sock.setsockopt(TCP, 36, 1)  # TCP_INQ
            peer.send(b"0123456789")
            ready(sock)
            seen = [sock.recv(3, socket.MSG_PEEK), sock.recv(2, socket.MSG_PEEK)]
            seen += [sock.getsockopt(SOL, 42), sock.recvmsg(4, 100)[:3], sock.getsockopt(SOL, 42)]
            seen += [sock.recv(100, socket.MSG_PEEK), failure(sock.recv, 1, socket.MSG_PEEK)]
            sock.setsockopt(SOL, 60, 1)  # SO_ZEROCOPY
            sock.send(b"a", ZEROCOPY)
            seen.append(peer.recv(1))
            ready(sock)
            data, messages, flags, _ = sock.recvmsg(9, 99, socket.MSG_ERRQUEUE)
            return [*seen, data, kinds(messages), flags, messages[0][2][4:8]]

    natively_and_here(case)


def longer_than(size: int) -> tuple[Any, bytes]:
    """A filter that drops shorter datagrams, and the memory that it points to."""
    words = [(0x80, 0, 0, 0), (0x35, 0, 1, 8 + size), (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *w) for w in words))
    return program, struct.pack("@HP", len(words), ctypes.addressof(program))


def test_filters() -> None:
    def case(make: Any) -> list[Any]:
        memory, program = longer_than(4)
        with make(type=socket.SOCK_DGRAM) as sock, socket.socket(type=socket.SOCK_DGRAM) as peer:
            sock.bind((util.HOST, 0))
            sock.setsockopt(SOL, 26, program)  # SO_ATTACH_FILTER
            ctypes.memset(memory, 0, 32)  # it is the kernel's now
            seen = []
            for text in (b"no", b"longer"):
                peer.sendto(text, sock.getsockname())
            ready(sock)
            seen.append(sock.recv(100))
            seen += [failure(sock.setsockopt, SOL, 27, 0) for _ in range(2)]  # SO_DETACH_FILTER
            peer.sendto(b"no", sock.getsockname())
            ready(sock)
            seen.append(sock.recv(100))
            wrong = [program[:8], struct.pack("@HP", 1, 8), struct.pack("@HP", 0, 0)]
            seen += [failure(sock.setsockopt, SOL, 26, one) for one in wrong]
            sock.setsockopt(SOL, 44, 1)  # SO_LOCK_FILTER
            memory, program = longer_than(1)
            return [*seen, failure(sock.setsockopt, SOL, 26, program)]

    natively_and_here(case)


def test_segments_are_received_in_one_piece() -> None:
    """UDP_SEGMENT and UDP_GRO, up to the largest: no piece is taken for two."""

    def case(make: Any) -> list[Any]:
        with make(type=socket.SOCK_DGRAM) as sock, make(type=socket.SOCK_DGRAM) as peer:
            sock.bind((util.HOST, 0))
            sock.setsockopt(17, 104, 1)
            peer.setsockopt(17, 103, 1452)
            seen = []
            for size in (3000, 45 * 1452):
                peer.sendto(bytes(size), sock.getsockname())
                got = 0
                while got < size:
                    ready(sock)
                    data, messages, *_ = sock.recvmsg(70000, 99)
                    got += len(data)
                    seen += messages if got < 3001 else []
                    assert messages == [(17, 104, struct.pack("=i", 1452))] or len(data) <= 1452
                seen.append(got)
            return seen

    natively_and_here(case)
