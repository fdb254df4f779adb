"""Socket options, SO_LINGER among them, and the errors that they tell of."""

import select
import socket
import struct

from lib import *  # noqa: F403
from lib import attempt, buf, c, case, listener, main, pair, reset, wait


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


if __name__ == "__main__":
    main()
