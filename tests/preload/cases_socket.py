"""Sockets: their life, names, options, errors."""

import fcntl
import os
import resource
import select
import socket
import stat
import struct
import threading

from lib import *  # noqa: F403
from lib import attempt, buf, c, case, listener, main, pair, wait


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
