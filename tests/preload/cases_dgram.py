"""Datagram sockets: every spelling, both families, readiness, time-outs, errors."""

import ctypes
import fcntl
import os
import select
import socket
import struct
import termios
import threading
import time

from lib import *  # noqa: F403
from lib import MMsgHdr, MsgHdr, attempt, bound, buf, c, case, iov, joined, main, two, wait

UDP = socket.SOCK_DGRAM


IP_PKTINFO = 8


@case
def sendto_recvfrom():
    a, b = two()
    n = a.sendto(b"hello", b.getsockname())
    data, source = b.recvfrom(100)
    return [n, data.decode(), source == a.getsockname()]


@case
def sendto_recvfrom_six():
    a, b = two(socket.AF_INET6)
    n = a.sendto(b"hello", b.getsockname())
    data, source = b.recvfrom(100)
    return [n, data.decode(), source == a.getsockname(), len(source)]


@case
def sends_unbound():
    b = bound()
    a = socket.socket(type=UDP)
    a.sendto(b"x", b.getsockname())
    data, source = b.recvfrom(10)
    return [data.decode(), source[1] == a.getsockname()[1], a.getsockname()[0]]


@case
def connected():
    a, b = joined()
    a.send(b"one")
    got = [b.recv(10).decode()]
    os.write(b.fileno(), b"two")
    got.append(os.read(a.fileno(), 10).decode())
    return [*got, a.getpeername() == b.getsockname(), a.getsockname() == b.getpeername()]


@case
def connected_hears_only_its_peer():
    a, b = joined()
    other = bound()
    other.sendto(b"no", b.getsockname())
    a.send(b"yes")
    wait(b)
    return [b.recv(10).decode(), attempt(b.recv, 10, socket.MSG_DONTWAIT)]


@case
def connects_at_once():
    b = bound()
    a = socket.socket(type=UDP)
    a.setblocking(False)
    return [a.connect_ex(b.getsockname()), a.getpeername() == b.getsockname()]


@case
def connects_again():
    a, b = joined()
    other = bound()
    a.connect(other.getsockname())
    a.send(b"x")
    return [other.recv(10).decode(), a.getpeername() == other.getsockname()]


@case
def sendto_while_connected():
    a, _ = joined()
    other = bound()
    a.sendto(b"x", other.getsockname())
    return other.recv(10).decode()


@case
def no_destination():
    a = bound()
    return [attempt(a.send, b"x"), c("write", a.fileno(), buf(b"x"), 1)]


@case
def no_peer():
    a = bound()
    return attempt(a.getpeername)


@case
def wrong_family():
    a = bound()
    six = struct.pack("=HHI16sI", socket.AF_INET6, 1, 0, bytes(16), 0)
    return [c(call, a.fileno(), *data, buf(six), n)
            for call, data in (("sendto", (buf(b"x"), 1, 0)), ("connect", ()))
            for n in (len(six), 4, 1)]  # fmt: skip


@case
def four_by_six():
    """An IPv6 socket speaks IPv4."""
    a, b = bound(), socket.socket(socket.AF_INET6, UDP)
    b.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    b.bind(("::", 0))
    four = struct.pack(
        "=HH4s8x", socket.AF_INET, socket.htons(a.getsockname()[1]), bytes((127, 0, 0, 1))
    )
    n = c("sendto", b.fileno(), buf(b"x"), 1, 0, buf(four), len(four))
    data, source = a.recvfrom(10)
    a.sendto(b"answer", source)
    return [n, data.decode(), b.recvfrom(10)[0].decode(),
            c("connect", b.fileno(), buf(four), len(four)), b.getpeername()[0]]  # fmt: skip


@case
def dissolved():
    a, b = joined()
    unspec = buf(bytes(16))
    got = [c("connect", a.fileno(), unspec, 16), attempt(a.getpeername)]
    other = bound()
    a.sendto(b"x", other.getsockname())  # it has a port again
    data, source = other.recvfrom(10)
    other.sendto(b"any", source)
    return [*got, source[1] == a.getsockname()[1], a.recv(10).decode()]


@case
def dissolved_fresh():
    a = socket.socket(type=UDP)
    return [c("connect", a.fileno(), buf(bytes(16)), 16), attempt(a.getpeername)]


@case
def connect_fails():
    """Broadcast without SO_BROADCAST."""
    a = bound()
    got = [attempt(a.connect, ("255.255.255.255", 9)), attempt(a.getpeername)]
    a.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    return [*got, a.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), attempt(a.send, b"x")]


@case
def connect_fails_unbound():
    """It has a port then."""
    a, b = socket.socket(type=UDP), bound()
    got = [attempt(a.connect, ("255.255.255.255", 9)), a.getsockname()[1] != 0]
    return [*got, a.sendto(b"x", b.getsockname()), attempt(a.bind, ("127.0.0.1", 0))]


@case
def connected_elsewhere_fails():
    """It stays connected to its peer."""
    a, b = joined()
    got = [attempt(a.connect, ("255.255.255.255", 9)), a.getpeername() == b.getsockname()]
    return [*got, a.send(b"x"), b.recv(10).decode()]


@case
def port_zero():
    a = bound()
    return attempt(a.sendto, b"x", ("127.0.0.1", 0))


@case
def port_zero_with_more():
    """It begins no datagram; in one that has begun, the address is the first call's."""
    a, b = two()
    nowhere, there = ("127.0.0.1", 0), b.getsockname()
    got = [attempt(a.sendto, b"x", socket.MSG_MORE, nowhere), a.sendto(b"good", there)]
    got += [b.recv(10).decode(), a.sendto(b"y", socket.MSG_MORE, there)]
    return [*got, attempt(a.sendto, b"z", nowhere), b.recv(10).decode()]


@case
def empty_datagram():
    a, b = two()
    n = a.sendto(b"", b.getsockname())
    ready = wait(b)
    data, source = b.recvfrom(10)
    return [n, ready, len(data), source == a.getsockname()]


@case
def nothing_written():
    """write sends an empty datagram, writev without bytes none; read without room takes none."""
    a, b = joined()
    got = [c("write", a.fileno(), buf(1), 0), c("writev", a.fileno(), iov(buf(0)), 1),
           a.send(b"last")]  # fmt: skip
    wait(b)
    return [*got, c("read", b.fileno(), buf(1), 0), len(b.recv(10)), b.recv(10).decode()]


@case
def zero_length_recv_takes_one():
    a, b = two()
    a.sendto(b"one", b.getsockname())
    a.sendto(b"two", b.getsockname())
    wait(b)
    return [c("recv", b.fileno(), buf(1), 0, 0), b.recv(10).decode()]


@case
def cut():
    a, b = two()
    a.sendto(b"0123456789", b.getsockname())
    a.sendto(b"next", b.getsockname())
    return [b.recv(4).decode(), b.recv(10).decode()]


@case
def trunc():
    a, b = two()
    a.sendto(b"0123456789", b.getsockname())
    room = buf(4)
    wait(b)
    n = c("recv", b.fileno(), room, 4, socket.MSG_TRUNC)
    return [n, room.raw.decode()]


@case
def peek():
    a, b = two()
    a.sendto(b"hello", b.getsockname())
    wait(b)
    return [b.recv(3, socket.MSG_PEEK).decode(), b.recv(10, socket.MSG_PEEK).decode(),
            c("recv", b.fileno(), buf(1), 1, socket.MSG_PEEK | socket.MSG_TRUNC),
            b.recv(10).decode()]  # fmt: skip


@case
def dontwait():
    a = bound()
    return attempt(a.recv, 10, socket.MSG_DONTWAIT)


@case
def nonblocking():
    a = bound()
    a.setblocking(False)
    return attempt(a.recvfrom, 10)


@case
def waitall_is_one_datagram():
    a, b = two()
    a.sendto(b"abc", b.getsockname())
    return b.recv(10, socket.MSG_WAITALL).decode()


@case
def receive_timeout():
    a = bound()
    a.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 30000))
    start = time.monotonic()
    return [attempt(a.recv, 10), time.monotonic() - start >= 0.03]


@case
def blocked_receiver_wakes():
    a, b = two()
    out = []
    t = threading.Thread(target=lambda: out.append(b.recv(10).decode()))
    t.start()
    a.sendto(b"up", b.getsockname())
    t.join()
    return out


@case
def largest():
    a, b = two()
    b.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    data = bytes(i & 255 for i in range(65507))
    return [a.sendto(data, b.getsockname()), b.recv(70000) == data]


@case
def too_large():
    a, b = two()
    return attempt(a.sendto, bytes(65508), b.getsockname())


@case
def in_order():
    a, b = two()
    for i in range(50):
        a.sendto(b"%d" % i, b.getsockname())
    return [b.recv(10).decode() for _ in range(50)]


@case
def sendmsg_recvmsg():
    a, b = two()
    n = a.sendmsg([b"one", b"", b"two"], [], 0, b.getsockname())
    x, y = bytearray(4), bytearray(10)
    got, control, flags, source = b.recvmsg_into([x, y])
    return [n, got, x.decode(), y[: got - 4].decode(), control, flags, source == a.getsockname()]


@case
def recvmsg_says_trunc():
    a, b = two()
    a.sendto(b"0123456789", b.getsockname())
    data, _, flags, _ = b.recvmsg(4)
    return [data.decode(), flags == socket.MSG_TRUNC]


@case
def recvmsg_pieces_trunc():
    a, b = two()
    a.sendto(b"0123456789", b.getsockname())
    x, y = bytearray(2), bytearray(3)
    n, _, flags, _ = b.recvmsg_into([x, y])
    return [n, x.decode(), y.decode(), flags == socket.MSG_TRUNC]


def many(*buffers):
    v = (MMsgHdr * len(buffers))()
    vectors = [iov(b) for b in buffers]
    for m, i in zip(v, vectors, strict=True):
        m.hdr = MsgHdr(iov=i, iovlen=1)
    v.keep = buffers, vectors
    return v


@case
def sendmmsg_recvmmsg():
    a, b = joined()
    n = c("sendmmsg", a.fileno(), many(buf(b"one"), buf(b"three"), buf(b"four")), 3, 0)
    x, y, z = buf(10), buf(4), buf(10)
    v = many(x, y, z)
    wait(b)
    m = c("recvmmsg", b.fileno(), v, 3, 0, None)
    return [n, m, [w.len for w in v], x.value.decode(), y.raw.decode(), z.value.decode(),
            [w.hdr.flags for w in v]]  # fmt: skip


@case
def recvmmsg_wait_for_one():
    a, b = joined()
    a.send(b"only")
    v = many(buf(10), buf(10))
    return [c("recvmmsg", b.fileno(), v, 2, 0x10000, None), v[0].len]


@case
def readv_writev():
    a, b = joined()
    ab, cd = buf(b"ab"), buf(b"cd")
    n = c("writev", a.fileno(), iov(ab, cd), 2)
    x, y = buf(3), buf(3)
    m = c("readv", b.fileno(), iov(x, y), 2)
    return [n, m, x.raw.decode(), y.value.decode()]


@case
def name_is_cut():
    a, b = two()
    a.sendto(b"x", b.getsockname())
    wait(b)
    room, size = buf(8), ctypes.c_uint32(4)
    n = c("recvfrom", b.fileno(), buf(4), 4, 0, room, ctypes.byref(size))
    return [n, size.value, struct.unpack("=H", room.raw[:2])[0] == socket.AF_INET]


@case
def refused():
    """The ICMP error, once."""
    a, b = joined()
    b.close()
    a.send(b"x")
    ready = wait(a, select.POLLIN)
    return [ready, attempt(a.recv, 10), attempt(a.recv, 10, socket.MSG_DONTWAIT)]


@case
def so_error():
    a, b = joined()
    b.close()
    a.send(b"x")
    wait(a, 0)
    return [a.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
            a.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)]  # fmt: skip


@case
def kinds():
    a = bound()
    return [
        a.getsockopt(socket.SOL_SOCKET, o)
        for o in (socket.SO_TYPE, socket.SO_DOMAIN, socket.SO_PROTOCOL, socket.SO_ACCEPTCONN)
    ]


@case
def no_listening():
    a = bound()
    return [attempt(a.listen), attempt(a.accept)]


@case
def outq_of_datagrams():
    a, _ = two()
    asked = (termios.TIOCOUTQ, 0x894B)  # SIOCOUTQ, and SIOCOUTQNSD, which is TCP's
    return [attempt(fcntl.ioctl, a.fileno(), what, bytes(4)) for what in asked]


@case
def fionread():
    a, b = two()

    def read():
        return struct.unpack("=i", fcntl.ioctl(b.fileno(), termios.FIONREAD, bytes(4)))[0]

    before = read()
    a.sendto(b"hello", b.getsockname())
    a.sendto(b"xx", b.getsockname())
    wait(b)
    got = [before, read(), len(b.recv(10))]
    wait(b)
    return [*got, read(), len(b.recv(10)), read()]


if __name__ == "__main__":
    main()
