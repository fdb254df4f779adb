"""A socket's descriptor: close, dup, fcntl, ioctl."""

import array
import fcntl
import os
import socket
import struct
import termios
import time

from lib import *  # noqa: F403
from lib import attempt, buf, c, case, listener, main, pair, wait


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


if __name__ == "__main__":
    main()
