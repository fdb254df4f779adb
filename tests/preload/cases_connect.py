"""connect, and what a socket is called then; both families."""

import select
import socket
import struct

from lib import *  # noqa: F403
from lib import attempt, buf, c, case, free_port, listener, main, pair, wait


@case
def connect_refused():
    with socket.socket() as s:
        return attempt(s.connect, ("127.0.0.1", free_port()))


@case
def connect_refused_twice():
    with socket.socket() as s:
        to = ("127.0.0.1", free_port())
        return [attempt(s.connect, to), attempt(s.connect, to)]


@case
def connect_after_refused():
    with listener() as server, socket.socket() as s:
        return [attempt(s.connect, ("127.0.0.1", free_port())),
                attempt(s.connect, server.getsockname())]  # fmt: skip


def name_after_refused(s, waits):
    """Whether it has an address, and a port, before and after the program is told."""
    s.setblocking(waits)
    to = ("::1" if s.family == socket.AF_INET6 else "127.0.0.1", free_port())
    attempt(s.connect, to)
    wait(s, select.POLLOUT)
    names = [s.getsockname()]
    attempt(s.connect, to)
    return [[name[0], name[1] > 0] for name in (*names, s.getsockname())]


@case
def names_after_refused():
    seen = []
    for family, own in (
        (socket.AF_INET, ("127.0.0.1", "0.0.0.0", "")),
        (socket.AF_INET6, ("::1", "::", "")),
    ):
        for address in own:
            for waits in (True, False):
                with socket.socket(family) as s:
                    if address:
                        s.bind((address, 0))
                    seen.append(name_after_refused(s, waits))
    return seen


@case
def listen_after_refused():
    seen = []
    for waits in (True, False):
        with socket.socket() as s, socket.socket() as client:
            s.setblocking(waits)
            to = ("127.0.0.1", free_port())
            attempt(s.connect, to)
            wait(s, select.POLLOUT)
            seen.append([attempt(s.connect, to), attempt(s.listen)])
            client.connect(("127.0.0.1", s.getsockname()[1]))
            wait(s)
            seen.append(attempt(lambda: s.accept()[0].close()))
    return seen


@case
def bind_after_refused():
    seen = []
    for port in (None, 0):
        with socket.socket() as s:
            s.setblocking(False)
            if port is not None:
                s.bind(("127.0.0.1", port))
            attempt(s.connect, ("127.0.0.1", free_port()))
            wait(s, select.POLLOUT)
            seen.append(attempt(s.bind, ("127.0.0.1", 0)))
    return seen


@case
def connect_twice():
    with pair() as (a, _):
        return attempt(a.connect, a.getpeername())


@case
def connect_wrong_family():
    with socket.socket() as s:
        return c("connect", s.fileno(), buf(struct.pack("=H26x", socket.AF_INET6)), 28)


@case
def connect_short_address():
    with socket.socket() as s:
        return c("connect", s.fileno(), buf(b"\x02\x00\x00\x00"), 4)


@case
def addresses_of_another_family():
    """Of sockets that are bound, listen, connect, are connected: longer and shorter ones."""
    four = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton("127.0.0.1"))
    six = struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, socket.inet_pton(10, "::1"), 0)
    seen = []
    for family, other in ((socket.AF_INET, six), (socket.AF_INET6, four)):
        with pair(family) as (a, b), listener(family) as s, socket.socket(family) as t:
            t.bind((s.getsockname()[0], 0))
            for address in (other, other[:15], other[:2], other[:1]):
                for x in (a, b, s, t):
                    seen.append(c("bind", x.fileno(), buf(address), len(address)))
                seen.append(c("connect", t.fileno(), buf(address), len(address)))
    return seen


@case
def connect_nonblocking():
    with listener() as server, socket.socket() as s:
        s.setblocking(False)
        first = attempt(s.connect, server.getsockname())
        ready = wait(s, select.POLLOUT)
        error = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return [first, ready, error, s.getpeername() == server.getsockname()]


@case
def connect_nonblocking_then_again():
    with listener() as server, socket.socket() as s:
        s.setblocking(False)
        attempt(s.connect, server.getsockname())
        wait(s, select.POLLOUT)
        return [attempt(s.connect, server.getsockname()) for _ in range(2)]


@case
def connect_nonblocking_refused():
    with socket.socket() as s:
        s.setblocking(False)
        first = attempt(s.connect, ("127.0.0.1", free_port()))
        ready = wait(s, select.POLLOUT)
        return [first in ("EINPROGRESS", "ECONNREFUSED"), "ERR" in ready or first, "OUT" in ready]


@case
def connect_nonblocking_refused_error_once():
    with socket.socket() as s:
        s.setblocking(False)
        attempt(s.connect, ("127.0.0.1", free_port()))
        wait(s, select.POLLOUT)
        return [s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for _ in range(2)]


@case
def connect_again_after_its_error_was_read():
    port = free_port()
    with socket.socket() as s:
        s.setblocking(False)
        first = attempt(s.connect, ("127.0.0.1", port))
        wait(s, select.POLLOUT)
        error = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        again = [attempt(s.connect, ("127.0.0.1", port)) for _ in range(2)]
        return first, error, again


@case
def connect_nonblocking_refused_read():
    with socket.socket() as s:
        s.setblocking(False)
        attempt(s.connect, ("127.0.0.1", free_port()))
        wait(s, select.POLLOUT)
        return [attempt(s.recv, 1), attempt(s.recv, 1)]


@case
def connect_a_listener():
    with listener() as s:
        return attempt(s.connect, s.getsockname())


@case
def connect_bound():
    with listener() as server, socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        name = s.getsockname()
        s.connect(server.getsockname())
        return s.getsockname() == name


@case
def ipv6_pair():
    with pair(socket.AF_INET6) as (a, b):
        a.sendall(b"six")
        return [b.recv(10).decode(), a.getpeername()[0], a.getpeername() == b.getsockname()]


@case
def ipv6_dual_stack():
    with socket.socket(socket.AF_INET6) as s, socket.socket() as a:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        s.bind(("::", 0))
        s.listen()
        a.connect(("127.0.0.1", s.getsockname()[1]))
        b, peer = s.accept()
        b.close()
        return peer[0]


@case
def getpeername_unconnected():
    with socket.socket() as s:
        return attempt(s.getpeername)


@case
def getpeername_listening():
    with listener() as s:
        return attempt(s.getpeername)


@case
def getsockname_short_room():
    with pair() as (a, _):
        room, n = buf(16), buf(struct.pack("=I", 2))
        rc = c("getsockname", a.fileno(), room, n)
        return [rc, struct.unpack("=I", n.raw)[0], room.raw.hex()]


if __name__ == "__main__":
    main()
