"""Socket options on FreeBSD's stack, by Linux's names, numbers and values."""

import asyncio
import contextlib
import errno
import socket
import struct

import pytest

from fstack import net

TCP, IP, IP6 = socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6
TCP_ESTABLISHED = 1
GROUP, SOURCE = "239.7.7.7", net.PEER


@pytest.mark.parametrize(
    ("level", "name", "value"),
    [
        (socket.SOL_SOCKET, socket.SO_PRIORITY, 6),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (TCP, socket.TCP_CORK, 1),
        (TCP, socket.TCP_CORK, 0),
        (TCP, socket.TCP_NODELAY, 1),
        (TCP, socket.TCP_KEEPIDLE, 33),
        (IP, socket.IP_TOS, 0x20),
        (IP, socket.IP_TTL, 9),
        (IP, 21, 3),  # IP_MINTTL
    ],
)
def test_it_reads_as_it_was_set(on_fstack, level, name, value):
    import ffloop

    with ffloop.socket() as sock:
        sock.setsockopt(level, name, value)
        assert sock.getsockopt(level, name) == value


def test_ipv6(on_fstack):
    import ffloop

    with ffloop.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        for name, value in ((socket.IPV6_UNICAST_HOPS, 7), (socket.IPV6_TCLASS, 8), (62, 1)):
            sock.setsockopt(IP6, name, value)
            assert sock.getsockopt(IP6, name) == value
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 3)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) == 3


def test_what_it_has_not(on_fstack):
    import ffloop

    with ffloop.socket() as sock:
        for level, name in ((TCP, socket.TCP_USER_TIMEOUT), (socket.SOL_SOCKET, 29), (IP, 10)):
            with pytest.raises(OSError) as refused:
                sock.setsockopt(level, name, 1)
            assert refused.value.errno == errno.ENOPROTOOPT


def test_a_buffer_is_bounded_and_never_refused(on_fstack):
    """FreeBSD would take a buffer of a byte, and refuse one of 16 MiB."""
    import ffloop

    with ffloop.socket() as sock:
        for name, least in ((socket.SO_SNDBUF, 4608), (socket.SO_RCVBUF, 2304)):
            for size in (0, 1):
                sock.setsockopt(socket.SOL_SOCKET, name, size)
                assert sock.getsockopt(socket.SOL_SOCKET, name) == least
            for size in (1 << 24, 1 << 30, -1):
                sock.setsockopt(socket.SOL_SOCKET, name, size)
                assert sock.getsockopt(socket.SOL_SOCKET, name) >= 1 << 20


@pytest.mark.parametrize(
    ("level", "name", "values"),
    [
        (TCP, socket.TCP_KEEPIDLE, (0, -1, 32768)),
        (TCP, socket.TCP_KEEPINTVL, (0, -1, 32768)),
        (TCP, socket.TCP_KEEPCNT, (0, -1, 128)),
        (IP, socket.IP_TTL, (0, 256)),
    ],
)
def test_what_linux_refuses(on_fstack, level, name, values):
    import ffloop

    for sock in (ffloop.socket(), socket.socket()):
        with sock:
            before = sock.getsockopt(level, name)
            for value in values:
                with pytest.raises(OSError) as refused:
                    sock.setsockopt(level, name, value)
                assert refused.value.errno == errno.EINVAL
            assert sock.getsockopt(level, name) == before


@pytest.mark.parametrize("name", [socket.IP_TTL, socket.IP_MULTICAST_TTL])
def test_minus_one_is_the_default(on_fstack, name):
    import ffloop

    for sock in (ffloop.socket(type=socket.SOCK_DGRAM), socket.socket(type=socket.SOCK_DGRAM)):
        with sock:
            default = sock.getsockopt(IP, name)
            sock.setsockopt(IP, name, 9)
            sock.setsockopt(IP, name, -1)
            assert sock.getsockopt(IP, name) == default
            with pytest.raises(OSError) as refused:
                sock.setsockopt(IP, name, -2)
            assert refused.value.errno == errno.EINVAL


def test_congestion_control(on_fstack):
    import ffloop

    with ffloop.socket() as sock:
        name = sock.getsockopt(TCP, socket.TCP_CONGESTION, 16)
        assert name.rstrip(b"\0").isalnum()
        sock.setsockopt(TCP, socket.TCP_CONGESTION, name)
        with pytest.raises(OSError):
            sock.setsockopt(TCP, socket.TCP_CONGESTION, b"no-such-one")


def test_tcp_info(on_fstack):
    """In Linux's layout and units."""
    import ffloop

    async def main():
        with socket.create_server((net.PEER, 0)) as server:
            _, writer = await asyncio.open_connection(*server.getsockname())
            info = writer.get_extra_info("socket").getsockopt(TCP, socket.TCP_INFO, 104)
            writer.close()
            await writer.wait_closed()
        return info

    info = ffloop.run(main())
    assert info[0] == TCP_ESTABLISHED
    mss, rtt, window = *struct.unpack_from("=I", info, 16), *struct.unpack_from("=I8xI", info, 68)
    assert 500 < mss < 1500
    assert 0 < rtt < 10_000_000  # microseconds
    assert 0 < window < 1000  # segments


def test_a_source_is_picked(on_fstack):
    """IP_ADD_SOURCE_MEMBERSHIP: what this source sends to the group comes, another's does not."""
    import ffloop

    def ask(sock, name, source):
        triple = (GROUP, net.STACK, source)
        sock.setsockopt(IP, name, b"".join(map(socket.inet_aton, triple)))

    async def main():
        loop = asyncio.get_running_loop()
        with (
            ffloop.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer,
        ):
            ours.bind(("", 0))
            port = ours.getsockname()[1]
            peer.setsockopt(IP, socket.IP_MULTICAST_IF, socket.inet_aton(net.PEER))
            ask(ours, 39, "10.97.0.77")  # IP_ADD_SOURCE_MEMBERSHIP, somebody else
            peer.sendto(b"not wanted", (GROUP, port))
            peer.sendto(b"past it", (net.STACK, port))
            assert await loop.sock_recv(ours, 100) == b"past it"
            ask(ours, 39, SOURCE)
            peer.sendto(b"wanted", (GROUP, port))
            assert await loop.sock_recv(ours, 100) == b"wanted"

    ffloop.run(asyncio.wait_for(main(), 10))


def ancillary(sock, names, level):
    for name in names:
        sock.setsockopt(level, name, 1)


async def readable(sock):
    loop = asyncio.get_running_loop()
    told = loop.create_future()
    loop.add_reader(sock, told.set_result, None)
    await told
    loop.remove_reader(sock)


@contextlib.contextmanager
def datagrams(family, at, theirs):
    """(ours, bound to `at` on the stack; the peer's, the kernel's)."""
    import ffloop

    with ffloop.socket(family, socket.SOCK_DGRAM) as ours:
        with socket.socket(family, socket.SOCK_DGRAM) as peer:
            ours.bind((at, 0))
            peer.bind((theirs, 0))
            peer.setblocking(False)
            yield ours, peer


def by_type(messages):
    return {(level, kind): data for level, kind, data in messages}


def test_control_messages(on_fstack):
    """IP_PKTINFO (the address alone), IP_TTL and IP_TOS, as Linux has them; out goes no IP_TTL."""
    import ffloop

    async def main():
        with datagrams(socket.AF_INET, "", net.PEER) as (ours, peer):
            ancillary(ours, (8, 12, 13), IP)
            sent = [(IP, 1, struct.pack("i", 0x20)), (IP, 2, struct.pack("i", 9))]
            at = net.STACKS[1]
            peer.sendmsg([b"in"], sent, 0, (at, ours.getsockname()[1]))
            await readable(ours)
            data, messages, flags, source = ours.recvmsg(100, 500)
            assert (data, flags, source) == (b"in", 0, peer.getsockname())
            got = by_type(messages)
            assert got[IP, 8][4:] == socket.inet_aton(at) * 2
            assert struct.unpack("i", got[IP, 2])[0] == 9
            assert got[IP, 1][0] == 0x20

    async def answered():
        with datagrams(socket.AF_INET, "", net.PEER) as (ours, peer):
            ancillary(peer, (13,), IP)
            at = net.STACKS[1]
            sent = [
                (IP, 1, struct.pack("i", 0x20)),
                (IP, 8, struct.pack("=I4s4x", 0, socket.inet_aton(at))),
            ]
            ours.sendmsg([b"out"], sent, 0, peer.getsockname())
            await readable(peer)
            data, messages, _, source = peer.recvmsg(100, 500)
            assert (data, source) == (b"out", (at, ours.getsockname()[1]))
            got = by_type(messages)
            assert got[IP, 1][0] == 0x20

    ffloop.run(asyncio.wait_for(main(), 10))
    ffloop.run(asyncio.wait_for(answered(), 10))


def test_control_messages_of_ipv6(on_fstack):
    import ffloop

    async def main():
        with datagrams(socket.AF_INET6, net.STACK6, net.PEER6) as (ours, peer):
            ancillary(ours, (49, 51, 66), IP6)
            sent = [(IP6, 52, struct.pack("i", 9)), (IP6, 67, struct.pack("i", 0x20))]
            peer.sendmsg([b"in"], sent, 0, ours.getsockname())
            await readable(ours)
            data, messages, _, _ = ours.recvmsg(100, 500)
            got = by_type(messages)
            assert data == b"in"
            assert got[IP6, 50][:16] == socket.inet_pton(socket.AF_INET6, net.STACK6)
            assert struct.unpack("i", got[IP6, 52])[0] == 9
            assert struct.unpack("i", got[IP6, 67])[0] == 0x20

    ffloop.run(asyncio.wait_for(main(), 10))
