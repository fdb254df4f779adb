"""sendfile, splice, and calls by their number."""

import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import tempfile
import termios
import threading

from lib import *  # noqa: F403
from lib import attempt, buf, c, case, handler, main, pair, pattern, reader, wait


def sendfile_case(function):
    def run():
        with tempfile.TemporaryFile() as f, pair() as (a, b):
            f.write(pattern(200000)[:200000])
            f.seek(0)
            return function(f, a, b)

    run.__name__ = function.__name__
    return case(run)


@sendfile_case
def sendfile_with_an_offset(f, a, b):
    n = os.sendfile(a.fileno(), f.fileno(), 1000, 5000)
    return [n, b.recv(5000, socket.MSG_WAITALL) == pattern(6000)[1000:6000], f.tell()]


@sendfile_case
def sendfile_without_an_offset(f, a, b):
    n = c("sendfile", a.fileno(), f.fileno(), None, ctypes.c_size_t(3000))
    return [n, len(b.recv(3000, socket.MSG_WAITALL)), os.lseek(f.fileno(), 0, os.SEEK_CUR)]


@sendfile_case
def sendfile_to_the_end(f, a, b):
    out = []
    thread = threading.Thread(target=reader, args=(b, 200000, out))
    thread.start()
    total = 0
    while n := os.sendfile(a.fileno(), f.fileno(), total, 1 << 20):
        total += n
    thread.join()
    return [total, out[0] == pattern(200000)[:200000]]


@sendfile_case
def sendfile_after_the_end(f, a, b):
    return os.sendfile(a.fileno(), f.fileno(), 1 << 20, 100)


@sendfile_case
def sendfile_from_a_socket(f, a, b):
    return attempt(os.sendfile, a.fileno(), b.fileno(), 0, 10)


@sendfile_case
def sendfile_nonblocking(f, a, b):
    a.setblocking(False)
    total = 0
    while True:
        try:
            total += os.sendfile(a.fileno(), f.fileno(), 0, 200000)
        except BlockingIOError:
            if not wait(a, select.POLLOUT, 0.5):
                return total > 100000


@sendfile_case
def sendfile_after_shutdown(f, a, b):
    a.shutdown(socket.SHUT_WR)
    with handler(signal.SIGPIPE) as seen:
        return [attempt(os.sendfile, a.fileno(), f.fileno(), 0, 10), len(seen)]


def splice(a, b, n, flags=0):
    return c("splice", a, None, b, None, ctypes.c_size_t(n), flags)


@case
def splice_into_a_pipe():
    r, w = os.pipe()
    with pair() as (a, b):
        a.sendall(b"spliced")
        wait(b)
        return [splice(b.fileno(), w, 4), os.read(r, 10).decode(), b.recv(10).decode()]


@case
def sendfile_into_a_pipe():
    """The kernel splices; a socket is no file for another one."""
    r, w = os.pipe()
    os.set_blocking(w, False)
    with pair() as (a, b):
        a.sendall(b"spliced")
        wait(b)
        sent = c("sendfile", w, b.fileno(), None, 4)
        return [sent, os.read(r, 10).decode(), c("sendfile", a.fileno(), b.fileno(), None, 1)]


@case
def splice_into_a_small_pipe():
    with pair() as (a, b):
        r, w = os.pipe()
        fcntl.fcntl(w, fcntl.F_SETPIPE_SZ, 4096)
        a.sendall(bytes(3000) * 2)
        b.recv(6000, socket.MSG_PEEK | socket.MSG_WAITALL)
        moved = [splice(b.fileno(), w, 6000), len(os.read(r, 6000))]
        return moved + [splice(b.fileno(), w, 6000), len(os.read(r, 6000))]


@case
def splice_with_bad_flags():
    with pair() as (a, b):
        a.sendall(b"x")
        return [splice(b.fileno(), os.pipe()[1], 4, 0x100), splice(b.fileno(), os.pipe()[1], 0)]


@case
def splice_from_a_pipe():
    r, w = os.pipe()
    with pair() as (a, b):
        os.write(w, b"from the pipe")
        return [splice(r, a.fileno(), 100), b.recv(100).decode()]


@case
def splice_nothing_there():
    _, w = os.pipe()
    with pair() as (_, b):
        b.setblocking(False)
        return splice(b.fileno(), w, 10)


@case
def splice_from_an_empty_pipe():
    r, _ = os.pipe()
    with pair() as (a, _):
        return splice(r, a.fileno(), 10, 2)


@case
def splice_at_the_end():
    _, w = os.pipe()
    with pair() as (a, b):
        a.close()
        wait(b)
        return splice(b.fileno(), w, 10)


@case
def splice_two_sockets():
    with pair() as (a, b):
        return splice(a.fileno(), b.fileno(), 10)


SYS_READ, SYS_WRITE, SYS_SENDTO, SYS_RECVFROM, SYS_CLOSE = 0, 1, 44, 45, 3  # x86-64


X86 = os.uname().machine == "x86_64"


def number(n, *args):
    return c("syscall", ctypes.c_long(n), *[x if x is None else ctypes.c_long(x) for x in args])


@case
def syscall_read_write():
    if not X86:
        return "numbers of x86-64"
    with pair() as (a, b):
        data, room = buf(b"by number"), buf(20)
        n = number(SYS_WRITE, a.fileno(), ctypes.addressof(data), 9)
        wait(b)
        m = number(SYS_READ, b.fileno(), ctypes.addressof(room), 20)
        return [n, m, room.raw[:m].decode()]


@case
def syscall_send_receive():
    if not X86:
        return "numbers of x86-64"
    with pair() as (a, b):
        data, room = buf(b"six arguments"), buf(20)
        n = number(SYS_SENDTO, a.fileno(), ctypes.addressof(data), 13, 0, 0, 0)
        wait(b)
        m = number(SYS_RECVFROM, b.fileno(), ctypes.addressof(room), 20, 0, 0, 0)
        return [n, m, room.raw[:m].decode()]


@case
def syscall_error():
    if not X86:
        return "numbers of x86-64"
    with pair() as (_, b):
        b.setblocking(False)
        room = buf(4)
        return number(SYS_READ, b.fileno(), ctypes.addressof(room), 4)


@case
def syscall_close():
    if not X86:
        return "numbers of x86-64"
    with pair() as (a, b):
        return [number(SYS_CLOSE, a.detach()), b.recv(1).decode()]


@case
def syscall_readiness():
    if not X86:
        return "numbers of x86-64"
    with pair() as (a, b), select.epoll() as ep:
        ep.register(b, select.EPOLLIN)
        a.sendall(b"four")
        fds, ev, n = buf(struct.pack("ihh", b.fileno(), select.POLLIN, 0)), buf(12), buf(4)
        got = [number(7, ctypes.addressof(fds), 1, 60000), fds.raw[6:].hex()]  # poll
        got.append(number(232, ep.fileno(), ctypes.addressof(ev), 1, 60000))  # epoll_wait
        number(16, b.fileno(), termios.FIONREAD, ctypes.addressof(n))  # ioctl
        copy = number(72, b.fileno(), 0, 100)  # fcntl, F_DUPFD
        return [*got, ev.raw[:4].hex(), n.raw.hex(), copy >= 100, os.read(copy, 9).decode()]


@case
def syscall_unknown():
    return number(100000)


if __name__ == "__main__":
    main()
