"""Datagram sockets: control messages, multicast, errors and their queue."""

import ctypes
import fcntl
import os
import select
import socket
import struct
import time

from lib import *  # noqa: F403
from lib import (
    MsgHdr,
    attempt,
    bound,
    buf,
    c,
    case,
    events,
    free_port,
    iov,
    joined,
    main,
    pair,
    two,
    wait,
)

UDP = socket.SOCK_DGRAM
IP_PKTINFO = 8
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
