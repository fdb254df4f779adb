"""Datagram sockets: every spelling, both families, readiness, time-outs, errors."""

import ctypes
import fcntl
import os
import select
import socket
import struct
import sys
import termios
import threading
import time

from lib import *  # noqa: F403
from lib import (
    MMsgHdr,
    MsgHdr,
    attempt,
    buf,
    c,
    case,
    epoll_names,
    free_port,
    iov,
    main,
    pair,
    wait,
)

UDP = socket.SOCK_DGRAM
IP_PKTINFO = 8


def bound(family=socket.AF_INET):
    s = socket.socket(family, UDP)
    s.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    return s


def two(family=socket.AF_INET):
    return bound(family), bound(family)


def joined(family=socket.AF_INET):
    a, b = two(family)
    a.connect(b.getsockname())
    b.connect(a.getsockname())
    return a, b


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


@case
def polled():
    a, b = two()
    both = select.POLLIN | select.POLLOUT
    before = wait(b, both)
    a.sendto(b"x", b.getsockname())
    wait(b)
    return [before, wait(b, both)]


@case
def polled_fresh():
    return wait(socket.socket(type=UDP), select.POLLIN | select.POLLOUT)


@case
def selected():
    a, b = two()
    a.sendto(b"x", b.getsockname())
    r, w, e = select.select([b], [b], [b], 60)
    while not r:
        r, w, e = select.select([b], [b], [b], 60)
    return [len(r), len(w), len(e)]


def events(ep, timeout=60):
    return [epoll_names(e) for _, e in ep.poll(timeout)]


@case
def epoll_level():
    a, b = two()
    ep = select.epoll()
    ep.register(b, select.EPOLLIN)
    before = events(ep, 0)
    a.sendto(b"x", b.getsockname())
    first, again = events(ep), events(ep)
    b.recv(1)
    return [before, first, again, events(ep, 0)]


@case
def epoll_edge():
    a, b = two()
    ep = select.epoll()
    ep.register(b, select.EPOLLIN | select.EPOLLET)
    a.sendto(b"x", b.getsockname())
    first, again = events(ep), events(ep, 0)
    a.sendto(b"y", b.getsockname())
    return [first, again, events(ep)]


@case
def epoll_before_bind():
    s = socket.socket(type=UDP)
    ep = select.epoll()
    ep.register(s, select.EPOLLIN)
    s.bind(("127.0.0.1", 0))
    bound().sendto(b"x", s.getsockname())
    return events(ep)


@case
def epoll_with_a_pipe():
    a, b = two()
    r, w = os.pipe()
    ep = select.epoll()
    ep.register(b, select.EPOLLIN)
    ep.register(r, select.EPOLLIN)
    os.write(w, b"x")
    got = [fd == r for fd, _ in ep.poll(60)]
    os.read(r, 1)
    a.sendto(b"x", b.getsockname())
    return [got, [fd == b.fileno() for fd, _ in ep.poll(60)]]


@case
def shut_down():
    a, b = joined()
    a.shutdown(socket.SHUT_WR)
    got = [attempt(a.send, b"x")]
    a.shutdown(socket.SHUT_RD)
    return [*got, attempt(a.recv, 10), wait(a, select.POLLIN)]


@case
def shut_down_nonblocking():
    a, b = joined()
    a.shutdown(socket.SHUT_RD)
    return [attempt(a.recv, 10, socket.MSG_DONTWAIT), wait(a, select.POLLIN)]


@case
def shut_down_unconnected():
    """Said to fail, and done all the same: programs end a blocked receiver so."""
    a, out = bound(), []
    t = threading.Thread(target=lambda: out.append(a.recv(10).decode()))
    t.start()
    got = attempt(a.shutdown, socket.SHUT_RDWR)
    t.join()
    return [got, *out, attempt(a.sendto, b"x", ("127.0.0.1", 9))]


@case
def in_use():
    a = bound()
    with socket.socket(type=UDP) as s:
        return attempt(s.bind, a.getsockname())


@case
def reuse():
    a = socket.socket(type=UDP)
    a.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    a.bind(("127.0.0.1", 0))
    b = socket.socket(type=UDP)
    b.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return attempt(b.bind, a.getsockname())


@case
def bound_twice():
    a = bound()
    return attempt(a.bind, ("127.0.0.1", 0))


@case
def duplicated():
    a, b = two()
    copy = os.dup(b.fileno())
    b_name = b.getsockname()
    b.close()
    a.sendto(b"x", b_name)
    return os.read(copy, 10).decode()


@case
def forked():
    """The child answers on its parent's socket."""
    a, b = two()
    pid = os.fork()
    if pid == 0:
        data, source = b.recvfrom(100)
        b.sendto(data.upper(), source)
        os._exit(0)
    b.close()
    a.sendto(b"child", a.getsockname())  # our own first
    first = a.recv(10)
    a.connect(a.getsockname())
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return first.decode()


@case
def forked_server():
    a, b = two()
    name = b.getsockname()
    pid = os.fork()
    if pid == 0:
        data, source = b.recvfrom(100)
        b.sendto(data.upper(), source)
        os._exit(0)
    a.sendto(b"child", name)
    data = a.recv(10).decode()
    return [data, os.waitpid(pid, 0)[1]]


@case
def read_ahead_and_forked():
    """What the parent has not read is its child's too, whole and with its sender."""
    a, b = two()
    for text in (b"one", b"two", b"three"):
        a.sendto(text, b.getsockname())
    wait(b)
    first = b.recv(10).decode()
    pid = os.fork()
    if pid == 0:
        for room in (10, 4):
            data, source = b.recvfrom(room)
            b.sendto(data.upper(), source)
        os._exit(0)
    b.close()
    return [first, a.recv(10).decode(), a.recv(10).decode(), os.waitpid(pid, 0)[1]]


@case
def over_exec():
    """A server that inetd would start: its socket is its standard input."""
    a, b = two()
    code = (
        "import socket; s = socket.socket(fileno=0); d, w = s.recvfrom(9); s.sendto(d.upper(), w)"
    )
    pid = os.fork()
    if pid == 0:
        os.dup2(b.fileno(), 0)
        os.execv(sys.executable, [sys.executable, "-S", "-c", code])
    a.sendto(b"exec", b.getsockname())
    b.close()
    return [a.recv(10).decode(), os.waitpid(pid, 0)[1]]


IP, IP6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
IP_RECVORIGDSTADDR, IP_RECVTTL, IP_RECVTOS, IP_RECVERR = 20, 12, 13, 11


def control(b, room=500):
    """What comes with a datagram; numbers that differ from run to run are left out."""
    data, control, flags, _ = b.recvmsg(10, room)
    told = {"level and type": [(level, kind) for level, kind, _ in control], "flags": flags}
    for level, kind, value in control:
        if (level, kind) in [(IP, socket.IP_TTL), (IP, socket.IP_TOS), (IP6, socket.IPV6_HOPLIMIT),
                             (IP6, socket.IPV6_TCLASS), (IP, IP_PKTINFO)]:  # fmt: skip
            told[f"{level} {kind}"] = value.hex()
    return [data.decode(), told]


@case
def control_messages():
    """Those that a socket asked for, before and after it was placed."""
    b = socket.socket(type=UDP)
    b.setsockopt(IP, IP_PKTINFO, 1)
    b.bind(("127.0.0.1", 0))
    for name in (IP_RECVTTL, IP_RECVTOS, IP_RECVORIGDSTADDR):
        b.setsockopt(IP, name, 1)
    a = bound()
    a.setsockopt(IP, socket.IP_TTL, 77)
    a.sendto(b"x", b.getsockname())
    wait(b)
    seen = [b.getsockopt(IP, name) for name in (IP_PKTINFO, IP_RECVTTL, IP_RECVORIGDSTADDR)]
    return [seen, control(b)]


@case
def control_messages_of_ipv6():
    a, b = two(socket.AF_INET6)
    for name in (socket.IPV6_RECVPKTINFO, socket.IPV6_RECVHOPLIMIT, socket.IPV6_RECVTCLASS):
        b.setsockopt(IP6, name, 1)
    a.setsockopt(IP6, socket.IPV6_TCLASS, 0x28)
    a.sendto(b"x", b.getsockname())
    wait(b)
    return control(b)


@case
def control_messages_without_room():
    a, b = two()
    for name in (IP_PKTINFO, IP_RECVTTL):
        b.setsockopt(IP, name, 1)
    seen = []
    for room in (0, 8, 16, 20, 28, 32, 40, 48, 52, 56):
        a.sendto(b"x", b.getsockname())
        wait(b)
        m, whole, space = MsgHdr(), buf(10), buf(room or 1)
        m.iov, m.iovlen = iov(whole), 1
        m.control, m.controllen = ctypes.addressof(space), room
        n = c("recvmsg", b.fileno(), ctypes.byref(m), 0)
        lengths = struct.unpack("=Q", space.raw[:8]) if room >= 16 else ()
        seen.append([n, m.controllen, m.flags, lengths])
    return seen


@case
def control_messages_sent():
    a, b = two()
    for name in (IP_RECVTTL, IP_RECVTOS):
        b.setsockopt(IP, name, 1)
    info = struct.pack("=i4s4s", 0, socket.inet_aton("127.0.0.1"), bytes(4))
    sent = [(IP, socket.IP_TTL, struct.pack("=i", 9)), (IP, socket.IP_TOS, bytes([0x28])),
            (IP, IP_PKTINFO, info)]  # fmt: skip
    n = a.sendmsg([b"t", b"wo"], sent, 0, b.getsockname())
    wait(b)
    return [n, control(b)]


@case
def control_messages_that_are_wrong():
    a, b = two()
    wrong = [(IP, socket.IP_TTL, struct.pack("=i", v)) for v in (0, 256, -1)]
    wrong += [(IP, socket.IP_TOS, struct.pack("=i", v)) for v in (-1, 256)]
    wrong += [(IP, socket.IP_TTL, b"xx"), (IP, IP_PKTINFO, b"short")]
    seen = [attempt(a.sendmsg, [b"x"], [one], 0, b.getsockname()) for one in wrong]
    c6, d6 = two(socket.AF_INET6)
    wrong = [(IP6, socket.IPV6_HOPLIMIT, struct.pack("=i", v)) for v in (-2, 256)]
    wrong += [(IP6, socket.IPV6_TCLASS, struct.pack("=i", v)) for v in (-2, 256)]
    seen += [attempt(c6.sendmsg, [b"x"], [one], 0, d6.getsockname()) for one in wrong]
    m, short = MsgHdr(), buf(struct.pack("=Qii", 8, IP, socket.IP_TTL))
    whole = buf(b"x")
    m.iov, m.iovlen = iov(whole), 1
    m.control, m.controllen = ctypes.addressof(short), 16
    a.connect(b.getsockname())
    seen.append(c("sendmsg", a.fileno(), ctypes.byref(m), 0))
    return [seen, wait(b, seconds=0)]


@case
def addresses_of_the_other_kind():
    """An IPv6 socket that is bound to an address of one kind, and what it sends to the other."""
    seen = []
    for own in ("::1", "::ffff:127.0.0.1", "::"):
        s = socket.socket(socket.AF_INET6, UDP)
        s.bind((own, 0))
        for to in ("::1", "::ffff:127.0.0.1"):
            target = socket.socket(socket.AF_INET6, UDP)
            target.bind((to, 0))
            seen.append(attempt(s.sendto, b"x", target.getsockname()))
    s.connect(target.getsockname())  # to one of its kind: it reaches others all the same
    return [
        *seen,
        s.getpeername()[0],
        attempt(s.sendto, b"x", bound(socket.AF_INET6).getsockname()),
    ]


@case
def multicast_by_an_interface_that_was_set_first():
    index = struct.pack("=4s4si", bytes(4), bytes(4), socket.if_nametoindex("lo"))
    a, b = socket.socket(type=UDP), socket.socket(type=UDP)
    a.setsockopt(IP, socket.IP_MULTICAST_IF, index)
    b.bind(("", 0))
    group = socket.inet_aton("224.0.2.19")
    b.setsockopt(IP, socket.IP_ADD_MEMBERSHIP, group + index[4:])
    sent = attempt(a.sendto, b"hello", ("224.0.2.19", b.getsockname()[1]))
    return [sent, wait(b), attempt(b.recv, 10)]


@case
def multicast_ends_with_the_membership():
    """Of a group that was joined before the socket had an address."""
    seen = []
    for source in (b"", socket.inet_aton("127.0.0.1")):
        join, leave = (39, 40) if source else (socket.IP_ADD_MEMBERSHIP, socket.IP_DROP_MEMBERSHIP)
        a, b = socket.socket(type=UDP), socket.socket(type=UDP)
        group = socket.inet_aton("224.0.2.20") + socket.inet_aton("127.0.0.1")
        a.setsockopt(IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        b.setsockopt(IP, join, group + source)
        b.bind(("", 0))
        port = b.getsockname()[1]
        for data in (b"one", b"two"):
            a.sendto(data, ("224.0.2.20", port))
            a.sendto(b"direct", ("127.0.0.1", port))
            seen.append(b.recv(10).decode())
            if data == b"one":
                seen.append(b.recv(10).decode())
                b.setsockopt(IP, leave, group + source)
    return seen


@case
def nobodys_address_is_none():
    """AF_UNSPEC as the receiver's family: of an IPv6 socket the peer, if there is one."""
    nobody = buf(28)
    seen = []
    for family in (socket.AF_INET, socket.AF_INET6):
        a, b = joined(family)
        lone = bound(family)
        for s in (a, lone, socket.socket(family, UDP)):
            seen.append(c("sendto", s.fileno(), buf(b"x"), 1, 0, nobody, len(nobody)))
        seen.append(attempt(b.recv, 10, 0 if seen[-3] == 1 else socket.MSG_DONTWAIT))
    return seen


@case
def connected_elsewhere_after_a_send():
    """What was sent goes to whom it was sent, with the options of that moment."""
    a, b = two()
    other = bound()
    for s in (b, other):
        s.setsockopt(IP, IP_RECVTTL, 1)
    a.connect(b.getsockname())
    a.send(b"one")
    a.connect(other.getsockname())
    a.setsockopt(IP, socket.IP_TTL, 55)
    a.send(b"two")
    a.setsockopt(IP, socket.IP_TTL, 44)
    dissolved = c("connect", a.fileno(), buf(16), 16)
    for s in (b, other):
        wait(s)
    return [dissolved, control(b), control(other), a.sendto(b"three", b.getsockname()),
            attempt(a.send, b"four"), attempt(a.getpeername)]  # fmt: skip


@case
def could_not_be_sent():
    """Where a socket has no peer that is an error of the call, and none of the socket."""
    a = bound()
    a.setblocking(False)
    attempt(a.sendto, b"x", ("255.255.255.255", 9))  # not without SO_BROADCAST
    a.setsockopt(IP, socket.IP_TTL, 55)  # it is known by now
    seen = [wait(a, select.POLLIN | select.POLLOUT), attempt(a.recv, 9)]
    seen += [a.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), wait(a, select.POLLIN, 0)]
    return [*seen, attempt(a.sendto, b"x", ("255.255.255.255", 9))]


@case
def the_first_could_not_be_sent():
    """Its call says so, and so do those after it until one is sent."""
    a = bound()
    there = bound().getsockname()
    nobody = ("255.255.255.255", 9)  # not without SO_BROADCAST
    return [attempt(a.sendto, b"x", to) for to in (nobody, nobody, there, there)]


@case
def no_mark():
    return attempt(fcntl.ioctl, bound(), 0x8905, bytes(4))


@case
def connected_to_port_0():
    seen = []
    for host in ("127.0.0.1", "0.0.0.0"):
        a = bound()
        seen += [attempt(a.connect, (host, 0)), attempt(a.getpeername)]
        b = bound()
        seen += [attempt(a.connect, (host, b.getsockname()[1])), a.getpeername()[0]]
        seen += [attempt(a.connect, (host, 0)), attempt(a.getpeername)]
    return seen


@case
def shut_down_for_good():
    """Whomever it is connected to next."""
    a, b = joined()
    a.shutdown(socket.SHUT_WR)
    a.connect(b.getsockname())
    return [attempt(a.send, b"x"), attempt(a.sendto, b"x", b.getsockname())]


@case
def when_it_came():
    a, b = two()
    seen = [attempt(fcntl.ioctl, b, 0x8906, bytes(16))]
    for _ in range(2):
        before = time.time_ns()
        a.sendto(b"x", b.getsockname())
        wait(b)
        b.recv(1)
        at = struct.unpack("=qq", fcntl.ioctl(b, 0x8907, bytes(16)))
        again = struct.unpack("=qq", fcntl.ioctl(b, 0x8906, bytes(16)))
        seen += [before - 10_000_000 <= at[0] * 10**9 + at[1] <= time.time_ns(),
                 again == (at[0], at[1] // 1000)]  # fmt: skip
    with pair() as (one, _):
        return [*seen, attempt(fcntl.ioctl, one, 0x8906, bytes(16))]


@case
def wants_the_error_queue():
    """Set before the socket is placed."""
    b = socket.socket(type=UDP)
    b.setsockopt(IP, IP_RECVERR, 1)
    b.bind(("127.0.0.1", 0))
    bound().sendto(b"x", b.getsockname())
    wait(b)
    return [control(b), b.getsockopt(IP, IP_RECVERR)]


@case
def wants_the_error_queue_later():
    """Set on a bound socket that has copies and epolls."""
    b = bound()
    copy, ep, name = socket.socket(fileno=os.dup(b.fileno())), select.epoll(), b.getsockname()
    ep.register(b, select.EPOLLIN)
    b.setsockopt(IP, IP_PKTINFO, 1)
    b.setsockopt(IP, IP_RECVERR, 1)
    bound().sendto(b"x", name)
    wait(b)
    return [b.getsockname() == name, control(copy), copy.fileno() != b.fileno(),
            events(ep, 0), copy.sendto(b"y", name), events(ep)]  # fmt: skip


@case
def wants_the_error_queue_when_connected():
    """It is told that nobody is there, with whom it wrote to."""
    a, b = two()
    a.connect(b.getsockname())
    a.setsockopt(IP, IP_RECVERR, 1)
    a.send(b"x")
    wait(b)
    first = b.recv(10).decode()
    port = b.getsockname()[1]
    b.close()
    while not wait(a, select.POLLERR, 0.01):  # perhaps it is still being closed
        a.send(b"y")
    data, told, flags, source = a.recvmsg(10, 500, socket.MSG_ERRQUEUE)
    return [first, data.decode(), [(level, kind) for level, kind, _ in told],
            flags & socket.MSG_ERRQUEUE, source[1] == port]  # fmt: skip


@case
def refused_when_the_send_returns():
    """Nobody is there, at this machine: the next call says so, whichever it is."""
    dead = ("127.0.0.1", free_port())
    a, b = bound(), bound()
    a.setsockopt(IP, IP_RECVERR, 1)
    a.setblocking(False)
    b.setblocking(False)
    seen = [attempt(a.sendto, b"x", dead) for _ in range(3)]
    seen += [attempt(a.recv, 10), len(a.recvmsg(10, 500, socket.MSG_ERRQUEUE)[1])]
    b.connect(dead)
    seen += [b.send(b"y"), attempt(b.recv, 10)]
    seen += [b.send(b"z"), b.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)]
    return [*seen, attempt(b.recv, 10)]


if __name__ == "__main__":
    main()
