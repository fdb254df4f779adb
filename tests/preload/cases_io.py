"""Receive and send: every spelling, flags, blocking, signals."""

import ctypes
import os
import select
import signal
import socket
import struct
import threading
import time

from lib import *  # noqa: F403
from lib import (
    MMsgHdr,
    MsgHdr,
    TimeSpec,
    alarms,
    attempt,
    buf,
    c,
    case,
    drain,
    fill,
    fill_for_good,
    handler,
    iov,
    listener,
    main,
    pair,
    pattern,
    reader,
    reset,
    wait,
)

BIG = 3_000_000


@case
def read_write():
    with pair() as (a, b):
        return [os.write(a.fileno(), b"hello"), os.read(b.fileno(), 100).decode()]


@case
def read_zero_bytes():
    with pair() as (_, b):
        return c("read", b.fileno(), buf(1), 0)


@case
def write_zero_bytes():
    with pair() as (a, _):
        return c("write", a.fileno(), buf(1), 0)


@case
def send_zero_bytes():
    with pair() as (a, _):
        return c("send", a.fileno(), buf(1), 0, 0)


@case
def recv_zero_bytes_with_data():
    with pair() as (a, b):
        a.sendall(b"x")
        wait(b)
        return [c("recv", b.fileno(), buf(1), 0, 0), b.recv(5).decode()]


@case
def recv_zero_bytes_without_data():
    with pair() as (_, b):
        return c("recv", b.fileno(), buf(1), 0, socket.MSG_DONTWAIT)


@case
def zero_length_on_files():
    fd = os.open("/dev/null", os.O_RDWR)
    got = [c("read", fd, buf(1), 0), c("write", fd, buf(1), 0), c("writev", fd, None, 0)]
    os.close(fd)
    return got


@case
def readv_writev():
    with pair() as (a, b):
        x, y, z = buf(b"one"), buf(b"two"), buf(b"three")
        n = c("writev", a.fileno(), iov(x, y, z), 3)
        wait(b)
        p, q = buf(4), buf(20)
        m = c("readv", b.fileno(), iov(p, q), 2)
        return [n, m, p.raw.decode(), q.raw[: m - 4].decode()]


@case
def writev_many():
    with pair() as (a, b):
        parts = [buf(pattern(2048)[i : i + 2048]) for i in range(100)]
        out = []
        thread = threading.Thread(target=reader, args=(b, 204800, out))
        thread.start()
        n = c("writev", a.fileno(), iov(*parts), len(parts))
        a.shutdown(socket.SHUT_WR)
        thread.join()
        return [n, out[0] == b"".join(p.raw for p in parts)[:n]]


@case
def writev_too_many():
    with pair() as (a, _):
        parts = [buf(b"x") for _ in range(1025)]
        return c("writev", a.fileno(), iov(*parts), len(parts))


@case
def writev_1024():
    with pair() as (a, b):
        parts = [buf(b"x") for _ in range(1024)]
        n = c("writev", a.fileno(), iov(*parts), 1024)
        return [n, len(b.recv(1024, socket.MSG_WAITALL))]


@case
def writev_with_empty_parts():
    with pair() as (a, b):
        x, y = buf(b"ab"), buf(b"cd")
        parts = iov(x, y)
        parts[0].len = 0
        n = c("writev", a.fileno(), parts, 2)
        return [n, b.recv(10).decode()]


@case
def readv_negative_count():
    with pair() as (_, b):
        return c("readv", b.fileno(), iov(buf(1)), -1)


@case
def readv_empty():
    with pair() as (_, b):
        return c("readv", b.fileno(), None, 0)


@case
def writev_nothing_at_the_end():
    with pair() as (a, _):
        a.shutdown(socket.SHUT_WR)
        return [c("writev", a.fileno(), iov(buf(0)), 1), c("send", a.fileno(), b"", 0, 0x4000)]


@case
def large_transfer():
    with pair() as (a, b):
        out, data = [], pattern(BIG)[:BIG]
        thread = threading.Thread(target=reader, args=(b, BIG, out))
        thread.start()
        a.sendall(data)
        thread.join()
        return out[0] == data


@case
def large_transfer_both_ways():
    with pair() as (a, b):
        x, y, data = [], [], pattern(BIG)[:BIG]
        threads = [threading.Thread(target=reader, args=(b, BIG, x)),
                   threading.Thread(target=reader, args=(a, BIG, y)),
                   threading.Thread(target=a.sendall, args=(data,)),
                   threading.Thread(target=b.sendall, args=(data,))]  # fmt: skip
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        return [x[0] == data, y[0] == data]


@case
def blocking_send_takes_all():
    with pair() as (a, b):
        out = []
        thread = threading.Thread(target=reader, args=(b, BIG, out))
        thread.start()
        n = a.send(pattern(BIG)[:BIG])
        thread.join()
        return n


@case
def nonblocking_send_until_full():
    with pair() as (a, _):
        a.setblocking(False)
        return [fill_for_good(a) > 100000, attempt(a.send, b"x")]


@case
def writable_again_after_reading():
    with pair() as (a, b):
        a.setblocking(False)
        total = fill(a)
        return [drain(b, total) == total, wait(a, select.POLLOUT)]


@case
def dontwait_empty():
    with pair() as (_, b):
        return attempt(b.recv, 1, socket.MSG_DONTWAIT)


@case
def nonblocking_empty():
    with pair() as (_, b):
        b.setblocking(False)
        return attempt(b.recv, 1)


@case
def peek_leaves_data():
    with pair() as (a, b):
        a.sendall(b"peek")
        wait(b)
        return [b.recv(2, socket.MSG_PEEK).decode(), b.recv(10).decode()]


@case
def peek_at_end():
    with pair() as (a, b):
        a.close()
        wait(b)
        return [b.recv(2, socket.MSG_PEEK).decode(), b.recv(2).decode()]


@case
def waitall():
    with pair() as (a, b):
        a.sendall(b"first ")
        thread = threading.Timer(0.05, a.sendall, (b"second",))
        thread.start()
        got = b.recv(12, socket.MSG_WAITALL).decode()
        thread.join()
        return got


@case
def waitall_ends_with_the_stream():
    with pair() as (a, b):
        a.sendall(b"short")
        a.close()
        return b.recv(100, socket.MSG_WAITALL).decode()


@case
def trunc_discards():
    with pair() as (a, b):
        a.sendall(b"abcdef")
        wait(b)
        room = buf(b"....")
        n = c("recv", b.fileno(), room, 4, socket.MSG_TRUNC)
        return [n, room.raw.decode(), b.recv(10).decode()]


@case
def trunc_of_nothing_after_a_reset():
    with pair() as (a, b):
        reset(a)
        wait(b)
        return [c("recv", b.fileno(), buf(1), 0, socket.MSG_TRUNC) for _ in range(2)]


@case
def oob_without_any():
    with pair() as (_, b):
        return c("recv", b.fileno(), buf(1), 1, socket.MSG_OOB)


@case
def oob_of_a_listener():
    with listener() as s:
        return c("recv", s.fileno(), buf(1), 1, socket.MSG_OOB)


@case
def errqueue_empty():
    with pair() as (_, b):
        return c("recv", b.fileno(), buf(1), 1, socket.MSG_ERRQUEUE)


@case
def recvfrom_stream():
    with pair() as (a, b):
        a.sendall(b"from")
        wait(b)
        name, n = buf(16), buf(struct.pack("=I", 16))
        got = c("recvfrom", b.fileno(), buf(10), 10, 0, name, n)
        return [got, struct.unpack("=I", n.raw)[0]]


@case
def sendto_connected():
    with pair() as (a, b):
        n = a.sendto(b"to", a.getpeername())
        return [n, b.recv(5).decode()]


def message(*buffers):
    vec = iov(*buffers)
    m = MsgHdr()
    m.iov, m.iovlen = vec, len(buffers)
    m._keep = (vec, buffers)
    return m


@case
def sendmsg_recvmsg():
    with pair() as (a, b):
        n = c("sendmsg", a.fileno(), ctypes.byref(message(buf(b"ab"), buf(b"cde"))), 0)
        wait(b)
        name, control = buf(32), buf(64)
        p, q = buf(3), buf(10)
        m = message(p, q)
        m.name, m.namelen = ctypes.addressof(name), 32
        m.control, m.controllen = ctypes.addressof(control), 64
        m.flags = 0x5555
        got = c("recvmsg", b.fileno(), ctypes.byref(m), 0)
        return [n, got, p.raw.decode(), q.raw[:2].decode(), m.namelen, m.controllen, m.flags]


@case
def recvmsg_of_nothing():
    """Without a piece, and with empty ones: nothing there, data, the end."""
    seen = []
    with pair() as (a, b):
        for step in (lambda: None, lambda: a.send(b"x"), a.close):
            step()
            wait(b, seconds=60 if seen else 0)
            seen += [
                c("recvmsg", b.fileno(), ctypes.byref(message(*pieces)), socket.MSG_DONTWAIT)
                for pieces in ((), (buf(0),), (buf(0), buf(0)))
            ]
    return seen


@case
def recvmsg_too_many():
    with pair() as (_, b):
        m = message(buf(1))
        m.iovlen = 1025
        return c("recvmsg", b.fileno(), ctypes.byref(m), socket.MSG_DONTWAIT)


@case
def recvmsg_peek_in_parts():
    with pair() as (a, b):
        a.sendall(b"abcdef")
        wait(b)
        p, q = buf(2), buf(2)
        n = c("recvmsg", b.fileno(), ctypes.byref(message(p, q)), socket.MSG_PEEK)
        return [n, p.raw.decode(), q.raw.decode(), b.recv(10).decode()]


@case
def sendmmsg_recvmmsg():
    with pair() as (a, b):
        out = (MMsgHdr * 2)()
        bodies = [message(buf(b"one")), message(buf(b"two"))]
        for i, m in enumerate(bodies):
            out[i].hdr = m
        n = c("sendmmsg", a.fileno(), out, 2, 0)
        lens = [x.len for x in out]
        rooms = [buf(3), buf(3)]
        into = (MMsgHdr * 2)()
        keep = [message(r) for r in rooms]
        for i, m in enumerate(keep):
            into[i].hdr = m
        got = c("recvmmsg", b.fileno(), into, 2, socket.MSG_WAITALL, None)
        return [n, lens, got, [r.raw.decode() for r in rooms]]


@case
def recvmmsg_waitforone():
    with pair() as (a, b):
        a.sendall(b"only")
        wait(b)
        rooms = [buf(10), buf(10)]
        into = (MMsgHdr * 2)()
        keep = [message(r) for r in rooms]
        for i, m in enumerate(keep):
            into[i].hdr = m
        return [c("recvmmsg", b.fileno(), into, 2, 0x10000, None), into[0].len]


@case
def recv_unconnected():
    with socket.socket() as s:
        return attempt(s.recv, 1)


@case
def recv_bound():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return attempt(s.recv, 1)


@case
def recv_listening():
    with listener() as s:
        return attempt(s.recv, 1)


@case
def send_unconnected():
    with socket.socket() as s:
        return attempt(s.send, b"x")  # Python ignores SIGPIPE


@case
def send_bound():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return attempt(s.send, b"x")


@case
def send_listening():
    with listener() as s:
        return attempt(s.send, b"x")


@case
def sigpipe_is_raised():
    with pair() as (a, _), handler(signal.SIGPIPE) as seen:
        a.shutdown(socket.SHUT_WR)
        return [attempt(a.send, b"x"), len(seen)]


@case
def sigpipe_from_write():
    with pair() as (a, _), handler(signal.SIGPIPE) as seen:
        a.shutdown(socket.SHUT_WR)
        return [attempt(os.write, a.fileno(), b"x"), len(seen)]


@case
def nosignal():
    with pair() as (a, _), handler(signal.SIGPIPE) as seen:
        a.shutdown(socket.SHUT_WR)
        return [attempt(a.send, b"x", socket.MSG_NOSIGNAL), len(seen)]


@case
def send_after_reset():
    with pair() as (a, b), handler(signal.SIGPIPE) as seen:
        reset(b)
        wait(a)
        return [attempt(a.send, b"x"), len(seen), attempt(a.send, b"x"), len(seen)]


@case
def send_after_peer_closed():
    with pair() as (a, b):
        b.close()
        wait(a)
        first = attempt(a.send, b"x")
        wait(a, 0)  # the reset
        return [first, attempt(a.send, b"x") in ("EPIPE", "ECONNRESET")]


@case
def recv_after_reset_with_data_unread():
    with pair() as (a, b):
        a.sendall(b"data")
        wait(b)
        got = b.recv(2).decode()
        b.recv(2)
        reset(a)
        wait(b)
        return [got, attempt(b.recv, 1), attempt(b.recv, 1)]


@case
def rcvtimeo():
    with pair() as (_, b):
        b.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 50000))
        start = time.monotonic()
        rc = c("recv", b.fileno(), buf(1), 1, 0)
        took = time.monotonic() - start
        return [rc, took >= 0.049, took < 60]


@case
def sndtimeo():
    with pair() as (a, _):
        a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 50000))
        data = buf(1 << 24)
        first = c("send", a.fileno(), data, 1 << 24, 0)
        start = time.monotonic()
        while isinstance(second := c("send", a.fileno(), data, 1 << 24, 0), int):
            start = time.monotonic()
        return [
            isinstance(first, int) and first < 1 << 24,
            second,
            time.monotonic() - start > 0.049,
        ]


@case
def blocking_recv_waits():
    with pair() as (a, b):
        thread = threading.Timer(0.05, a.sendall, (b"late",))
        thread.start()
        got = b.recv(10).decode()
        thread.join()
        return got


@case
def interrupted_without_restart():
    with pair() as (_, b), alarms(restart=False) as seen:
        rc = c("recv", b.fileno(), buf(1), 1, 0)
        return [rc, bool(seen)]


@case
def interrupted_with_restart():
    with pair() as (a, b), handler(signal.SIGALRM) as seen:
        thread = threading.Timer(0.2, a.sendall, (b"x",))
        thread.start()
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        rc = c("recv", b.fileno(), buf(1), 1, 0)
        thread.join()
        return [rc, len(seen)]


@case
def interrupted_with_restart_and_timeout():
    with pair() as (_, b), alarms() as seen:
        b.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 60, 0))
        rc = c("recv", b.fileno(), buf(1), 1, 0)
        return [rc, bool(seen)]


@case
def interrupted_in_part():
    """A handler, also one with SA_RESTART, ends a call that has something to return."""
    with pair() as (a, b), alarms() as seen:
        a.sendall(b"abc")
        peeked = c("recv", b.fileno(), buf(10), 10, socket.MSG_WAITALL | socket.MSG_PEEK)
        got = c("recv", b.fileno(), buf(10), 10, socket.MSG_WAITALL)
        sent = c("send", a.fileno(), buf(1 << 26), 1 << 26, 0)
        return [peeked, got, 0 < sent < 1 << 26, bool(seen)]


@case
def interrupted_accept():
    with listener() as s, alarms(restart=False) as seen:
        return [c("accept", s.fileno(), None, None), bool(seen)]


@case
def interrupted_send():
    with pair() as (a, _):
        a.setblocking(False)
        fill_for_good(a)
        a.setblocking(True)
        data = buf(1 << 24)
        with alarms(restart=False) as seen:
            rc = c("send", a.fileno(), data, 1 << 24, 0)
        return [rc == "EINTR" or 0 < rc < 1 << 24, bool(seen)]


@case
def order_is_kept():
    with pair() as (a, b):
        out = []
        thread = threading.Thread(target=reader, args=(b, 40000, out))
        thread.start()
        for i in range(10000):
            a.sendall(struct.pack("=I", i))
        thread.join()
        return out[0] == b"".join(struct.pack("=I", i) for i in range(10000))


@case
def sendmsg_nonblocking_partial():
    with pair() as (a, b):
        a.setblocking(False)
        parts = [buf(1 << 20) for _ in range(64)]
        n = c("sendmsg", a.fileno(), ctypes.byref(message(*parts)), 0)
        return [isinstance(n, int) and 0 < n < 64 << 20]


@case
def recvmmsg_timeout():
    with pair() as (a, b):
        a.sendall(b"one")
        wait(b)
        into = (MMsgHdr * 1)()
        m = message(buf(10))
        into[0].hdr = m
        t = TimeSpec(5, 0)
        return [c("recvmmsg", b.fileno(), into, 1, 0, ctypes.byref(t)), into[0].len]


if __name__ == "__main__":
    main()
