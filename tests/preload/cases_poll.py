"""Readiness: poll and select over stack and kernel descriptors."""

import ctypes
import os
import select
import signal
import socket
import threading
import time

from lib import *  # noqa: F403
from lib import (
    TimeSpec,
    alarms,
    attempt,
    c,
    case,
    handler,
    listener,
    main,
    pair,
    poll_names,
    reset,
    wait,
)


@case
def poll_nothing():
    with pair() as (_, b):
        return wait(b, select.POLLIN, 0.02)


@case
def poll_data():
    with pair() as (a, b):
        a.sendall(b"x")
        return wait(b)


@case
def poll_writable():
    with pair() as (a, _):
        return wait(a, select.POLLIN | select.POLLOUT)


@case
def poll_fresh():
    with socket.socket() as s:
        return wait(s, select.POLLIN | select.POLLOUT)


@case
def poll_bound():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return wait(s, select.POLLIN | select.POLLOUT)


@case
def poll_listener():
    with listener() as s, socket.socket() as a:
        before = wait(s, select.POLLIN | select.POLLOUT, 0.02)
        a.connect(s.getsockname())
        return [before, wait(s, select.POLLIN | select.POLLOUT)]


@case
def poll_end():
    with pair() as (a, b):
        a.close()
        return wait(b, select.POLLIN | 0x2000)


@case
def poll_end_after_data():
    with pair() as (a, b):
        a.sendall(b"x")
        a.close()
        wait(b, 0x2000)
        return wait(b, select.POLLIN | 0x2000)


@case
def poll_half_closed():
    with pair() as (a, b):
        b.shutdown(socket.SHUT_WR)
        wait(a)
        return [wait(a, select.POLLIN | select.POLLOUT | 0x2000),
                wait(b, select.POLLOUT | select.POLLIN)]  # fmt: skip


@case
def poll_both_closed():
    with pair() as (a, b):
        b.shutdown(socket.SHUT_WR)
        wait(a)
        a.shutdown(socket.SHUT_WR)
        return wait(a, select.POLLIN | select.POLLOUT | 0x2000)


@case
def poll_no_interest():
    with pair() as (a, b):
        a.sendall(b"x")
        wait(b)
        return wait(b, 0, 0.02)


@case
def poll_mixed():
    r, w = os.pipe()
    with pair() as (a, b):
        p = select.poll()
        for fd in (r, w, a.fileno(), b.fileno()):
            p.register(fd, select.POLLIN | select.POLLOUT)
        first = {fd: poll_names(e) for fd, e in p.poll(60_000)}
        os.write(w, b"x")
        a.sendall(b"x")
        wait(b)
        second = {fd: poll_names(e) for fd, e in p.poll(60_000)}
        names = {r: "r", w: "w", a.fileno(): "a", b.fileno(): "b"}
        return [{names[k]: v for k, v in x.items()} for x in (first, second)]


@case
def poll_kernel_wakes_a_mixed_wait():
    r, w = os.pipe()
    with pair() as (_, b):
        p = select.poll()
        p.register(r, select.POLLIN)
        p.register(b, select.POLLIN)
        threading.Timer(0.05, os.write, (w, b"x")).start()
        return [fd == r for fd, _ in p.poll(60_000)]


@case
def poll_stack_wakes_a_mixed_wait():
    r, _ = os.pipe()
    with pair() as (a, b):
        p = select.poll()
        p.register(r, select.POLLIN)
        p.register(b, select.POLLIN)
        threading.Timer(0.05, a.sendall, (b"x",)).start()
        return [fd == b.fileno() for fd, _ in p.poll(60_000)]


@case
def poll_closed_descriptor():
    with pair() as (_, b):
        p = select.poll()
        p.register(b, select.POLLIN)
        p.register(999, select.POLLIN)
        return [(fd == 999, poll_names(e)) for fd, e in p.poll(60_000)]


@case
def poll_timeout_is_exact():
    with pair() as (_, b):
        start = time.monotonic()
        wait(b, select.POLLIN, 0.1)
        took = time.monotonic() - start
        return [took >= 0.1, took < 60]


@case
def poll_interrupted():
    with pair() as (_, b), alarms() as seen:
        p = (ctypes.c_int * 2)(b.fileno(), select.POLLIN)
        return [c("poll", p, 1, 60_000), bool(seen)]


@case
def ppoll_timeout():
    with pair() as (_, b):
        p = (ctypes.c_int * 2)(b.fileno(), select.POLLIN)
        t = TimeSpec(0, 30_000_000)
        start = time.monotonic()
        rc = c("ppoll", p, 1, ctypes.byref(t), None)
        return [rc, 0.03 <= time.monotonic() - start < 60]


@case
def ppoll_mask():
    with pair() as (_, b), handler(signal.SIGALRM) as seen:
        mask = (ctypes.c_ulong * 16)(1 << (signal.SIGALRM - 1))
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        p = (ctypes.c_int * 2)(b.fileno(), select.POLLIN)
        t = TimeSpec(0, 100_000_000)
        rc = c("ppoll", p, 1, ctypes.byref(t), mask)
        return [rc, len(seen)]


@case
def ppoll_bad_time():
    with pair() as (_, b):
        p = (ctypes.c_int * 2)(b.fileno(), select.POLLIN)
        t = TimeSpec(0, 2_000_000_000)
        return c("ppoll", p, 1, ctypes.byref(t), None)


# ---- select ----


@case
def select_read():
    with pair() as (a, b):
        a.sendall(b"x")
        return [len(x) for x in select.select([b], [], [], 60)]


@case
def select_write():
    with pair() as (a, b):
        return [len(x) for x in select.select([b], [a], [b], 60)]


@case
def select_timeout():
    with pair() as (_, b):
        start = time.monotonic()
        sets = select.select([b], [], [b], 0.05)
        return [[len(x) for x in sets], time.monotonic() - start >= 0.05]


@case
def select_end_of_stream():
    with pair() as (a, b):
        a.close()
        wait(b)
        return [len(x) for x in select.select([b], [b], [b], 60)]


@case
def select_reset():
    with pair() as (a, b):
        reset(a)
        wait(b)
        return [len(x) for x in select.select([b], [b], [b], 60)]


@case
def select_mixed():
    r, w = os.pipe()
    os.write(w, b"x")
    with pair() as (a, b):
        a.sendall(b"x")
        wait(b)
        return [len(x) for x in select.select([r, b, a], [w, a], [], 60)]


@case
def select_closed_descriptor():
    with pair() as (_, b):
        fd = os.dup(0)
        os.close(fd)
        return attempt(select.select, [b, fd], [], [], 1)


@case
def select_tells_what_is_left():
    with pair() as (a, b):
        a.sendall(b"x")
        wait(b)
        sets = (ctypes.c_ulong * 16)()
        sets[b.fileno() // 64] = 1 << b.fileno() % 64
        tv = (ctypes.c_long * 2)(60, 0)
        rc = c("select", b.fileno() + 1, sets, None, None, tv)
        return [rc, 30 <= tv[0] + tv[1] / 1e6 <= 60]


@case
def pselect_leaves_its_timeout():
    with pair() as (a, b):
        a.sendall(b"x")
        wait(b)
        sets = (ctypes.c_ulong * 16)()
        sets[b.fileno() // 64] = 1 << b.fileno() % 64
        t = TimeSpec(5, 0)
        rc = c("pselect", b.fileno() + 1, sets, None, None, ctypes.byref(t), None)
        return [rc, t.sec, t.nsec]


@case
def select_interrupted():
    with pair() as (_, b), alarms() as seen:
        sets = (ctypes.c_ulong * 16)()
        sets[b.fileno() // 64] = 1 << b.fileno() % 64
        return [c("select", b.fileno() + 1, sets, None, None, None), bool(seen)]


if __name__ == "__main__":
    main()
