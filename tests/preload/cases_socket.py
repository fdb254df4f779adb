"""Sockets: their life, names, options, errors."""

import array
import fcntl
import os
import resource
import select
import socket
import stat
import struct
import termios
import threading
import time

from lib import *  # noqa: F403
from lib import attempt, buf, c, case, free_port, listener, main, pair, reset, wait


@case
def socket_is_a_socket():
    with socket.socket() as s:
        return stat.S_ISSOCK(os.fstat(s.fileno()).st_mode)


@case
def bound_is_a_socket():
    with listener() as s:
        return stat.S_ISSOCK(os.fstat(s.fileno()).st_mode)


@case
def accepted_is_a_socket():
    with pair() as (_, b):
        return stat.S_ISSOCK(os.fstat(b.fileno()).st_mode)


@case
def numbers_are_the_lowest_free():
    with socket.socket() as warm:
        warm.bind(("127.0.0.1", 0))
    base = os.open("/dev/null", os.O_RDONLY)
    os.close(base)
    with listener() as s, socket.socket() as client:
        client.connect(s.getsockname())
        accepted, _ = s.accept()
        with accepted:
            return [s.fileno() - base, client.fileno() - base, accepted.fileno() - base]


@case
def numbers_come_back():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        first = s.fileno()
    with socket.socket() as s:
        return s.fileno() == first


@case
def unsupported_type():
    return attempt(socket.socket, socket.AF_INET, 77)


@case
def unsupported_family():
    return attempt(socket.socket, 99, socket.SOCK_STREAM)


@case
def unsupported_protocol():
    return attempt(socket.socket, socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_UDP)


@case
def bind_gives_a_port():
    with socket.socket() as s:
        before = s.getsockname()
        s.bind(("127.0.0.1", 0))
        name = s.getsockname()
        return [before, name[0], name[1] > 0]


@case
def bind_twice():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return attempt(s.bind, ("127.0.0.1", 0))


@case
def bind_in_use():
    with listener() as s, socket.socket() as t:
        return attempt(t.bind, s.getsockname())


@case
def bind_reuseport():
    with socket.socket() as s, socket.socket() as t:
        for x in (s, t):
            x.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        s.bind(("127.0.0.1", 0))
        s.listen()
        return [attempt(t.bind, s.getsockname()), attempt(t.listen)]


@case
def bind_reuseport_to_an_interface():
    """Of two listeners, one of them at an interface, one gets a connection."""
    seen = []
    for first in (True, False):
        with socket.socket() as a, socket.socket() as b, socket.socket() as client:
            for x, at in ((a, first), (b, not first)):
                x.setblocking(False)
                x.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if at:
                    x.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
                x.bind(("0.0.0.0", a.getsockname()[1]))
                x.listen()
            client.connect(("127.0.0.1", a.getsockname()[1]))
            ready, _, _ = select.select([a, b], [], [], 60)
            seen.append([x in ready for x in (a, b)])
    return seen


@case
def listen_of_what_is_connected():
    """It does not join a listener at its address: it goes on."""
    with socket.socket() as a, socket.socket() as b, socket.create_server(("", 0)) as peer:
        for x in (a, b):
            x.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            x.bind(("127.0.0.1", a.getsockname()[1]))
            if x is a:
                a.listen()
        b.connect(("127.0.0.1", peer.getsockname()[1]))
        listened = c("listen", b.fileno(), 1)
        accepted, _ = peer.accept()
        with accepted:
            b.sendall(b"on")
            return listened, accepted.recv(2).decode()


@case
def bind_short_address():
    with socket.socket() as s:
        return c("bind", s.fileno(), buf(b"\x02\x00\x00\x00"), 4)


@case
def bind_wrong_family():
    with socket.socket() as s:
        return c("bind", s.fileno(), buf(struct.pack("=H26x", socket.AF_INET6)), 28)


@case
def bind_not_ours():
    with socket.socket() as s:
        return attempt(s.bind, ("192.0.2.77", 0))


@case
def listen_unbound():
    with socket.socket() as s:
        s.listen()
        name = s.getsockname()
        return [name[0], name[1] > 0]


@case
def listen_twice():
    with listener() as s:
        return attempt(s.listen, 3)


@case
def listen_connected():
    with pair() as (a, _):
        return attempt(a.listen)


@case
def accept_connection():
    with pair() as (a, b):
        return [a.getpeername() == b.getsockname(), a.getsockname() == b.getpeername()]


@case
def accept_names_the_peer():
    with listener() as s, socket.socket() as a:
        a.connect(s.getsockname())
        b, peer = s.accept()
        b.close()
        return peer == a.getsockname()


@case
def accept_short_room():
    with listener() as s, socket.socket() as a:
        a.connect(s.getsockname())
        room, size = buf(16), struct.pack("=I", 4)
        n = buf(size)
        fd = c("accept", s.fileno(), room, n)
        os.close(fd)
        return [struct.unpack("=I", n.raw)[0], room.raw[:2].hex(), room.raw[4:].hex()]


@case
def accept_nonblocking():
    with listener() as s:
        s.setblocking(False)
        return attempt(s.accept)


@case
def accept_timeout():
    with listener() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 30000))
        return c("accept", s.fileno(), None, None)


@case
def accept_not_listening():
    with socket.socket() as s:
        return c("accept", s.fileno(), None, None)


@case
def accept_bound_only():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return c("accept", s.fileno(), None, None)


@case
def accept_on_connected():
    with pair() as (a, _):
        return c("accept", a.fileno(), None, None)


@case
def accept4_flags():
    with listener() as s, socket.socket() as a:
        a.connect(s.getsockname())
        fd = c("accept4", s.fileno(), None, None, socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        got = [fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK, fcntl.fcntl(fd, fcntl.F_GETFD)]
        os.close(fd)
        return got


@case
def accept4_bad_flags():
    with listener() as s:
        return c("accept4", s.fileno(), None, None, 0x7)


@case
def accept_does_not_inherit_nonblock():
    with listener() as s, socket.socket() as a:
        s.setblocking(False)
        a.connect(s.getsockname())
        wait(s)
        fd = c("accept", s.fileno(), None, None)
        got = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK
        os.close(fd)
        return got


@case
def accept_many():
    with listener(backlog=64) as s:
        clients = [socket.create_connection(s.getsockname()) for _ in range(30)]
        got = {s.accept()[1] for _ in clients}
        return got == {x.getsockname() for x in clients}


@case
def accept_at_the_limit_of_descriptors():
    with listener() as s, socket.socket() as a:
        a.connect(s.getsockname())
        wait(s)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        probe = os.dup(0)
        os.close(probe)
        resource.setrlimit(resource.RLIMIT_NOFILE, (probe, hard))
        first = c("accept", s.fileno(), None, None)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        second = c("accept", s.fileno(), None, None)
        os.close(second)
        return [first, second == probe]


@case
def accept_wakes_a_thread():
    with listener() as s, socket.socket() as a:
        got = []
        thread = threading.Thread(target=lambda: got.append(s.accept()[0]))
        thread.start()
        a.connect(s.getsockname())
        thread.join()
        got[0].close()
        return len(got)


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


def option(level, name, value=None):
    def run():
        with pair() as (a, _):
            before = attempt(a.getsockopt, level, name)
            rc = None if value is None else attempt(a.setsockopt, level, name, value)
            return [before, rc, attempt(a.getsockopt, level, name)]

    return run


OPTIONS = {
    "so_type": (socket.SOL_SOCKET, socket.SO_TYPE),
    "so_domain": (socket.SOL_SOCKET, socket.SO_DOMAIN),
    "so_protocol": (socket.SOL_SOCKET, socket.SO_PROTOCOL),
    "so_acceptconn": (socket.SOL_SOCKET, socket.SO_ACCEPTCONN),
    "so_error": (socket.SOL_SOCKET, socket.SO_ERROR),
    "so_keepalive": (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    "so_reuseaddr": (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
    "so_reuseport": (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1),
    "so_oobinline": (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1),
    "tcp_nodelay": (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    "tcp_keepidle": (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77),
    "tcp_keepintvl": (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 7),
    "tcp_keepcnt": (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    "tcp_user_timeout": (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1234),
    "ip_tos": (socket.IPPROTO_IP, socket.IP_TOS, 0x10),
    "ip_ttl": (socket.IPPROTO_IP, socket.IP_TTL, 33),
    "no_such_option": (socket.SOL_SOCKET, 9999, 1),
    "no_such_level": (12345, 1, 1),
}
for _name, _args in OPTIONS.items():
    _f = option(*_args)
    _f.__name__ = "option_" + _name
    case(_f)


@case
def options_before_bind_hold():
    with listener() as s, socket.socket() as a:
        for x in (a,):
            x.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            x.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            x.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 55)
        a.connect(s.getsockname())
        return [a.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
                a.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                a.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)]  # fmt: skip


@case
def options_are_inherited_by_accepted():
    with listener() as s, socket.socket() as a:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        a.connect(s.getsockname())
        b, _ = s.accept()
        with b:
            return b.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@case
def option_acceptconn_listening():
    with listener() as s:
        return s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


@case
def option_timeouts():
    with pair() as (a, _):
        for name in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            a.setsockopt(socket.SOL_SOCKET, name, struct.pack("ll", 3, 500000))
        return [a.getsockopt(socket.SOL_SOCKET, n, 16).hex()
                for n in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO)]  # fmt: skip


@case
def option_timeout_out_of_domain():
    with pair() as (a, _):
        value = struct.pack("ll", 0, 1000000)
        return attempt(a.setsockopt, socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)


@case
def option_timeout_short():
    with pair() as (a, _):
        return attempt(a.setsockopt, socket.SOL_SOCKET, socket.SO_RCVTIMEO, b"\0" * 4)


@case
def option_linger():
    with pair() as (a, _):
        value = struct.pack("ii", 1, 5)
        a.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, value)
        return a.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8).hex()


@case
def option_short_value():
    with pair() as (a, _):
        return c("setsockopt", a.fileno(), socket.IPPROTO_TCP, socket.TCP_NODELAY, buf(b"\1"), 1)


@case
def option_short_room():
    with pair() as (a, _):
        room, n = buf(4), buf(struct.pack("=I", 2))
        rc = c("getsockopt", a.fileno(), socket.SOL_SOCKET, socket.SO_TYPE, room, n)
        return [rc, struct.unpack("=I", n.raw)[0], room.raw.hex()]


@case
def option_of_an_address_in_part():
    with pair() as (a, _):
        room, n = buf(b"...."), buf(struct.pack("=I", 3))
        rc = c("getsockopt", a.fileno(), socket.IPPROTO_IP, socket.IP_MULTICAST_IF, room, n)
        return [rc, struct.unpack("=I", n.raw)[0], room.raw.hex()]


@case
def linger_zero_resets():
    with pair() as (a, b):
        reset(a)
        wait(b)
        return [attempt(b.recv, 1), attempt(b.recv, 1)]


@case
def reset_then_error_option():
    with pair() as (a, b):
        reset(a)
        wait(b)
        return [b.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for _ in range(2)]


@case
def reset_is_seen_by_poll():
    with pair() as (a, b):
        reset(a)
        wait(b)
        return wait(b, select.POLLIN | select.POLLOUT | 0x2000)


@case
def shutdown_write():
    with pair() as (a, b):
        a.sendall(b"last")
        a.shutdown(socket.SHUT_WR)
        got = [b.recv(10).decode(), b.recv(10).decode()]
        b.sendall(b"answer")
        return [*got, a.recv(10).decode(), attempt(a.send, b"x")]


@case
def shutdown_read():
    with pair() as (a, _):
        a.shutdown(socket.SHUT_RD)
        return [attempt(a.recv, 1), attempt(a.send, b"x")]


@case
def shutdown_both():
    with pair() as (a, b):
        a.shutdown(socket.SHUT_RDWR)
        return [attempt(a.recv, 1), attempt(b.recv, 1), wait(a)]


@case
def shutdown_unconnected():
    with socket.socket() as s:
        return attempt(s.shutdown, socket.SHUT_WR)


@case
def shutdown_bound():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return attempt(s.shutdown, socket.SHUT_WR)


@case
def shutdown_bad_how():
    with pair() as (a, _):
        return attempt(a.shutdown, 7)


@case
def shutdown_twice():
    with pair() as (a, _):
        a.shutdown(socket.SHUT_WR)
        return attempt(a.shutdown, socket.SHUT_WR)


@case
def shutdown_listener():
    """It is as before listen(), and may listen again."""
    seen = []
    for how in (socket.SHUT_WR, socket.SHUT_RD, socket.SHUT_RDWR):
        with listener() as s, socket.socket() as client:
            address = s.getsockname()
            s.shutdown(how)
            if how == socket.SHUT_WR:
                seen.append(attempt(client.connect, address))
                s.accept()[0].close()
                continue
            seen += [attempt(s.accept), wait(s, select.POLLIN | select.POLLOUT)]
            seen += [s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)]
            seen += [attempt(client.connect, address), attempt(s.listen)]
            with socket.create_connection(s.getsockname()):
                s.accept()[0].close()
    return seen


@case
def close_ends_the_stream():
    with pair() as (a, b):
        a.sendall(b"bye")
        a.close()
        return [b.recv(10).decode(), b.recv(10).decode()]


@case
def close_twice():
    with pair() as (a, _):
        fd = a.detach()
        return [c("close", fd), c("close", fd)]


@case
def closed_is_bad():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        fd = s.detach()
    os.close(fd)
    one = buf(b"x")
    calls = [("read", fd, one, 1), ("write", fd, one, 1), ("listen", fd, 1), ("shutdown", fd, 1)]
    return [c(*call) for call in [*calls, ("recv", fd, one, 1, 0), ("getsockname", fd, one, one)]]


@case
def closed_listener_refuses():
    s = listener()
    name = s.getsockname()
    s.close()
    with socket.socket() as a:
        return attempt(a.connect, name)


@case
def port_is_free_after_close():
    s = listener()
    name = s.getsockname()
    s.close()
    with socket.socket() as t:
        t.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for _ in range(100):  # the instance closes in its own time
            rc = attempt(t.bind, name)
            if rc is None:
                break
            time.sleep(0.01)
        return rc


@case
def dup_shares_the_socket():
    with pair() as (a, b):
        fd = os.dup(a.fileno())
        a.close()
        os.write(fd, b"through the copy")
        got = b.recv(100).decode()
        os.close(fd)
        return [got, b.recv(100).decode()]


@case
def dup2_over_a_file():
    with pair() as (a, b):
        fd = os.open("/dev/null", os.O_RDWR)
        os.dup2(a.fileno(), fd)
        os.write(fd, b"dup2")
        os.close(fd)
        return b.recv(10).decode()


@case
def dup2_over_a_socket():
    with pair() as (a, b), pair() as (x, y):
        os.dup2(a.fileno(), x.fileno())
        end = y.recv(1).decode()
        os.write(x.fileno(), b"now a")
        return [end, b.recv(10).decode()]


@case
def dup2_same():
    with pair() as (a, b):
        rc = c("dup2", a.fileno(), a.fileno())
        a.sendall(b"y")
        return [rc == a.fileno(), b.recv(1).decode()]


@case
def dup2_file_over_a_socket():
    with pair() as (a, b):
        fd = os.open("/dev/null", os.O_RDWR)
        os.dup2(fd, a.fileno())
        os.close(fd)
        return [b.recv(1).decode(), os.read(a.fileno(), 10).decode()]


@case
def dup3_cloexec():
    with pair() as (a, _):
        fd = c("dup3", a.fileno(), 77, os.O_CLOEXEC)
        flags = fcntl.fcntl(fd, fcntl.F_GETFD)
        os.close(fd)
        return [fd, flags]


@case
def dup3_same():
    with pair() as (a, _):
        return c("dup3", a.fileno(), a.fileno(), 0)


@case
def fcntl_dupfd():
    with pair() as (a, b):
        fd = fcntl.fcntl(a.fileno(), fcntl.F_DUPFD_CLOEXEC, 60)
        os.write(fd, b"F_DUPFD")
        os.close(fd)
        return [fd >= 60, b.recv(10).decode()]


@case
def fcntl_flags_are_shared_by_copies():
    with pair() as (a, _):
        fd = os.dup(a.fileno())
        fcntl.fcntl(a, fcntl.F_SETFL, os.O_NONBLOCK)
        got = [fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK, c("read", fd, buf(1), 1)]
        os.close(fd)
        return got


@case
def fcntl_getfl():
    with pair() as (a, b):
        return [fcntl.fcntl(x, fcntl.F_GETFL) & os.O_ACCMODE for x in (a, b)]


@case
def fcntl_cloexec_is_the_descriptors():
    with pair() as (a, _):
        fd = os.dup(a.fileno())
        os.set_inheritable(fd, True)
        got = [fcntl.fcntl(x, fcntl.F_GETFD) for x in (a.fileno(), fd)]
        os.close(fd)
        return got


@case
def closerange_closes():
    with pair() as (a, b):
        fd = os.dup2(a.fileno(), 90)
        a.close()
        os.closerange(80, 100)
        return [b.recv(1).decode(), c("close", fd)]


@case
def close_range_closes():
    with pair() as (a, b):
        os.dup2(a.fileno(), 200)
        a.close()
        return [c("close_range", 199, 201, 0), b.recv(1).decode()]


@case
def ioctl_fionread():
    with pair() as (a, b):
        n = array.array("i", [0])
        a.sendall(b"12345")
        wait(b)
        fcntl.ioctl(b, termios.FIONREAD, n)
        return n[0]


@case
def ioctl_outq_gets_empty():
    room = array.array("i", [-1])
    with pair() as (a, _):
        a.sendall(bytes(10000))
        late = time.monotonic() + 60
        while room[0] and time.monotonic() < late:
            fcntl.ioctl(a, termios.TIOCOUTQ, room, True)
        return room[0]


@case
def ioctl_fionread_empty():
    with pair() as (_, b):
        n = array.array("i", [7])
        fcntl.ioctl(b, termios.FIONREAD, n)
        return n[0]


@case
def ioctl_fionbio():
    with pair() as (a, _):
        fcntl.ioctl(a, 0x5421, array.array("i", [1]))
        first = c("read", a.fileno(), buf(1), 1)
        flags = fcntl.fcntl(a, fcntl.F_GETFL) & os.O_NONBLOCK
        return [first, flags]


@case
def ioctl_of_a_file_is_the_kernels():
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        return attempt(fcntl.ioctl, fd, termios.TIOCGWINSZ, b"\0" * 8)
    finally:
        os.close(fd)


@case
def ioctl_unknown():
    with pair() as (a, _):
        return attempt(fcntl.ioctl, a, 0x1234)


@case
def ioctl_address_of_an_interface():
    with pair() as ends:
        ask = struct.pack("=16s24x", b"lo")
        return [fcntl.ioctl(s, 0x8915, ask)[20:24].hex() for s in ends]  # SIOCGIFADDR


@case
def lseek_is_a_pipe():
    with pair() as (a, _):
        return attempt(os.lseek, a.fileno(), 0, 0)


@case
def udp_still_works():
    with socket.socket(type=socket.SOCK_DGRAM) as a, socket.socket(type=socket.SOCK_DGRAM) as b:
        b.bind(("127.0.0.1", 0))
        a.sendto(b"datagram", b.getsockname())
        return b.recvfrom(100)[0].decode()


@case
def unix_sockets_still_work():
    a, b = socket.socketpair()
    with a, b:
        a.sendall(b"unix")
        return b.recv(10).decode()


@case
def select_module_on_a_pipe():
    r, w = os.pipe()
    os.write(w, b"x")
    got = [bool(x) for x in select.select([r], [w], [], 1)]
    os.close(r)
    os.close(w)
    return got


TCP_INQ = 36


def how_much_is_left(s, flags=0):
    data, told, _, _ = s.recvmsg(4, 100, flags)
    return [data.decode(), [(level, kind, value.hex()) for level, kind, value in told]]


@case
def what_is_left_is_told():
    with listener() as server, socket.socket() as a:
        server.setsockopt(socket.IPPROTO_TCP, TCP_INQ, 1)
        a.connect(server.getsockname())
        b, _ = server.accept()
        seen = [attempt(a.setsockopt, socket.IPPROTO_TCP, TCP_INQ, v) for v in (2, -1, 1)]
        seen += [s.getsockopt(socket.IPPROTO_TCP, TCP_INQ) for s in (a, b)]
        a.sendall(b"elevenbytes")
        while len(b.recv(20, socket.MSG_PEEK)) < 11:
            pass
        seen += [how_much_is_left(b, socket.MSG_PEEK), how_much_is_left(b), how_much_is_left(b)]
        a.close()
        wait(b, select.POLLRDHUP)
        seen += [how_much_is_left(b), how_much_is_left(b)]
        b.setsockopt(socket.IPPROTO_TCP, TCP_INQ, 0)
        return [*seen, how_much_is_left(b)]


@case
def shut_down_when_both_have_ended():
    with pair() as (a, b):
        a.shutdown(socket.SHUT_WR)
        wait(b, select.POLLRDHUP)
        b.shutdown(socket.SHUT_WR)
        wait(a, select.POLLRDHUP)
        return [attempt(a.shutdown, how) for how in (socket.SHUT_WR, socket.SHUT_RD)]


@case
def a_peek_that_throws_away():
    with pair() as (a, b):
        a.sendall(b"hello")
        wait(b)
        none = buf(b"xxxxxxxx")
        both = socket.MSG_PEEK | socket.MSG_TRUNC
        return [c("recv", b.fileno(), none, n, both) for n in (0, 2, 5, 8)] + [
            c("recv", b.fileno(), none, 2, socket.MSG_TRUNC),
            none.raw.decode(),
            b.recv(9).decode(),
        ]


@case
def refused_before_anything_is_sent():
    """An address that is on each link: the call says it, and no event after it."""
    with socket.socket(socket.AF_INET6) as s, listener(socket.AF_INET6) as server:
        s.setblocking(False)
        seen = [attempt(s.connect, ("fe80::1", 9)) for _ in range(2)]
        seen += [s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), wait(s, seconds=0)]
        s.setblocking(True)
        return [*seen, attempt(s.connect, server.getsockname())]


SO_RCVBUFFORCE, CLONE_NEWUSER = 33, 0x10000000


@case
def rights_in_a_user_namespace_of_its_own():
    """Who is root there only may do no more than others."""
    with pair() as (a, _):
        pid = os.fork()
        if pid == 0:
            alone = c("unshare", CLONE_NEWUSER)
            forced = attempt(a.setsockopt, socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 20)
            os._exit(1 if alone else 2 if forced == "EPERM" else 3)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@case
def credentials_are_no_matter():
    with pair() as (a, _):
        name = (socket.SOL_SOCKET, socket.SO_PASSCRED)
        seen = [attempt(a.getsockopt, *name), attempt(a.setsockopt, *name, 1)]
        return [*seen, attempt(a.getsockopt, *name)]


if __name__ == "__main__":
    main()
