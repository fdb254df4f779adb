"""Datagram sockets: readiness, shutdown, ports used again, several processes."""

import os
import select
import socket
import sys
import threading

from lib import *  # noqa: F403
from lib import attempt, bound, case, events, joined, main, two, wait

UDP = socket.SOCK_DGRAM


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


if __name__ == "__main__":
    main()
