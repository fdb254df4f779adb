"""Readiness: epoll over stack and kernel descriptors."""

import ctypes
import itertools
import os
import select
import signal
import socket
import struct
import threading
import time

from lib import *  # noqa: F403
from lib import (
    TimeSpec,
    alarms,
    attempt,
    buf,
    c,
    case,
    drain,
    epoll_names,
    fill,
    handler,
    libc,
    listener,
    main,
    pair,
    reset,
    wait,
)

IN, OUT, RDHUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLRDHUP


ET, ONESHOT, EXCLUSIVE = select.EPOLLET, select.EPOLLONESHOT, select.EPOLLEXCLUSIVE


def got(events, names):
    """Events by the names of their descriptors."""
    table = {s.fileno() if hasattr(s, "fileno") else s: n for n, s in names.items()}
    return sorted([table.get(fd, fd), epoll_names(e)] for fd, e in events)


def with_epoll(function):
    def run():
        with pair() as (a, b):
            ep = select.epoll()
            try:
                return function(ep, a, b)
            finally:
                ep.close()

    run.__name__ = function.__name__
    return case(run)


@with_epoll
def epoll_nothing(ep, a, b):
    ep.register(b, IN)
    return ep.poll(0.02)


@with_epoll
def epoll_level(ep, a, b):
    ep.register(b, IN)
    a.sendall(b"xy")
    out = [got(ep.poll(60), {"b": b}) for _ in range(2)]
    b.recv(1)
    out.append(got(ep.poll(60), {"b": b}))
    b.recv(1)
    out.append(ep.poll(0.02))
    return out


@with_epoll
def epoll_edge(ep, a, b):
    ep.register(b, IN | ET)
    a.sendall(b"x")
    out = [got(ep.poll(60), {"b": b}), ep.poll(0.02)]
    a.sendall(b"y")
    out.append(got(ep.poll(60), {"b": b}))
    return out


@with_epoll
def epoll_edge_at_once(ep, a, b):
    a.sendall(b"x")
    wait(b)
    ep.register(b, IN | ET)
    return [got(ep.poll(60), {"b": b}), ep.poll(0.02)]


@with_epoll
def epoll_edge_rearmed_by_mod(ep, a, b):
    ep.register(b, IN | ET)
    a.sendall(b"x")
    out = [got(ep.poll(60), {"b": b})]
    ep.modify(b, IN | ET)
    out.append(got(ep.poll(60), {"b": b}))
    return out


@with_epoll
def epoll_edge_in_and_out(ep, a, b):
    ep.register(b, IN | OUT | ET)
    out = [got(ep.poll(60), {"b": b}), ep.poll(0.02)]
    a.sendall(b"x")
    out.append(got(ep.poll(60), {"b": b}))
    return out


@with_epoll
def epoll_oneshot(ep, a, b):
    ep.register(b, IN | ONESHOT)
    a.sendall(b"x")
    out = [got(ep.poll(60), {"b": b}), ep.poll(0.02)]
    ep.modify(b, IN | ONESHOT)
    out.append(got(ep.poll(60), {"b": b}))
    return out


@with_epoll
def epoll_out(ep, a, b):
    ep.register(a, OUT)
    return [got(ep.poll(60), {"a": a}) for _ in range(2)]


@with_epoll
def epoll_out_edge_after_full(ep, a, b):
    a.setblocking(False)
    ep.register(a, OUT | ET)
    out = [got(ep.poll(60), {"a": a})]
    total = fill(a)
    while ep.poll(0.05):  # it was not full for good
        total += fill(a)
    drain(b, total)
    return [*out, got(ep.poll(60), {"a": a})]


@with_epoll
def epoll_rdhup(ep, a, b):
    ep.register(b, IN | RDHUP)
    a.shutdown(socket.SHUT_WR)
    return got(ep.poll(60), {"b": b})


@with_epoll
def epoll_rdhup_not_asked(ep, a, b):
    ep.register(b, IN)
    a.shutdown(socket.SHUT_WR)
    return got(ep.poll(60), {"b": b})


@with_epoll
def epoll_rdhup_with_data(ep, a, b):
    a.sendall(b"x")
    a.shutdown(socket.SHUT_WR)
    wait(b, 0x2000)
    ep.register(b, IN | RDHUP | ET)
    return got(ep.poll(60), {"b": b})


@with_epoll
def epoll_hup(ep, a, b):
    ep.register(b, 0)
    b.shutdown(socket.SHUT_WR)
    a.close()
    return got(ep.poll(60), {"b": b})


@with_epoll
def epoll_reset(ep, a, b):
    ep.register(b, IN | OUT | RDHUP | ET)
    ep.poll(0.05)
    reset(a)
    return got(ep.poll(60), {"b": b})


@with_epoll
def epoll_add_twice(ep, a, b):
    ep.register(b, IN)
    return attempt(ep.register, b, OUT)


@with_epoll
def epoll_mod_missing(ep, a, b):
    return attempt(ep.modify, b, IN)


@with_epoll
def epoll_del_missing(ep, a, b):
    return attempt(ep.unregister, b)


@with_epoll
def epoll_del(ep, a, b):
    ep.register(b, IN)
    a.sendall(b"x")
    wait(b)
    ep.unregister(b)
    return [ep.poll(0.02), attempt(ep.unregister, b)]


@with_epoll
def epoll_bad_op(ep, a, b):
    return c("epoll_ctl", ep.fileno(), 77, b.fileno(), buf(12))


@with_epoll
def epoll_add_no_event(ep, a, b):
    return c("epoll_ctl", ep.fileno(), 1, b.fileno(), None)


@with_epoll
def epoll_add_itself(ep, a, b):
    return c("epoll_ctl", ep.fileno(), 1, ep.fileno(), buf(12))


@with_epoll
def epoll_ctl_on_a_socket(ep, a, b):
    return c("epoll_ctl", a.fileno(), 1, b.fileno(), buf(12))


@with_epoll
def epoll_wait_on_a_socket(ep, a, b):
    return c("epoll_wait", a.fileno(), buf(12), 1, 0)


@with_epoll
def epoll_wait_zero_events(ep, a, b):
    ep.register(b, IN)
    return c("epoll_wait", ep.fileno(), buf(12), 0, 0)


@with_epoll
def epoll_closed_is_gone(ep, a, b):
    ep.register(b, IN)
    a.sendall(b"x")
    wait(b)
    b.close()
    return ep.poll(0.02)


@with_epoll
def epoll_copy_keeps_the_registration(ep, a, b):
    fd = os.dup(b.fileno())
    ep.register(b, IN)
    number = b.fileno()
    b.close()
    a.sendall(b"x")
    events = ep.poll(60)
    os.close(fd)
    return [[f == number, epoll_names(e)] for f, e in events]


@with_epoll
def epoll_copy_of_a_socket_is_another(ep, a, b):
    fd = os.dup(b.fileno())
    ep.register(b, IN)
    ep.register(fd, IN)
    a.sendall(b"x")
    wait(b)
    events = ep.poll(60)
    os.close(fd)
    return got(events, {"b": b, "copy": fd})


@with_epoll
def epoll_several_epolls(ep, a, b):
    with select.epoll() as other:
        ep.register(b, IN)
        other.register(b, IN | ET)
        a.sendall(b"x")
        return [got(ep.poll(60), {"b": b}), got(other.poll(60), {"b": b}),
                got(ep.poll(60), {"b": b}), other.poll(0.02)]  # fmt: skip


@with_epoll
def epoll_exclusive(ep, a, b):
    ep.register(b, IN | EXCLUSIVE)
    a.sendall(b"x")
    return got(ep.poll(60), {"b": b})


@with_epoll
def epoll_exclusive_mod(ep, a, b):
    unknown = attempt(ep.modify, b, IN | EXCLUSIVE)
    ep.register(b, IN | EXCLUSIVE)
    return [unknown, attempt(ep.modify, b, IN), attempt(ep.register, b, IN | EXCLUSIVE | RDHUP)]


@with_epoll
def epoll_exclusive_oneshot(ep, a, b):
    return attempt(ep.register, b, IN | EXCLUSIVE | ONESHOT)


@with_epoll
def epoll_maxevents_one(ep, a, b):
    with pair() as (x, y):
        ep.register(b, IN | ET)
        ep.register(y, IN | ET)
        a.sendall(b"x")
        x.sendall(b"x")
        wait(b)
        wait(y)
        events = ep.poll(60, 1) + ep.poll(60, 1)
        return [got(events, {"b": b, "y": y}), ep.poll(0.02, 1)]


@with_epoll
def epoll_maxevents_one_level_takes_turns(ep, a, b):
    with pair() as (x, y):
        ep.register(b, IN)
        ep.register(y, IN)
        a.sendall(b"x")
        x.sendall(b"x")
        wait(b)
        wait(y)
        first, second, third = (ep.poll(60, 1)[0][0] for _ in range(3))
        return [first != second, first == third]


@with_epoll
def epoll_maxevents_one_mixed(ep, a, b):
    r, w = os.pipe()
    ep.register(b, IN | ET)
    ep.register(r, IN | ET)
    a.sendall(b"x")
    os.write(w, b"x")
    wait(b)
    events = []
    while len(events) < 2:
        events += ep.poll(60, 1)
    return got(events, {"b": b, "r": r})


@with_epoll
def epoll_mixed(ep, a, b):
    r, w = os.pipe()
    ep.register(b, IN)
    ep.register(r, IN)
    a.sendall(b"x")
    os.write(w, b"x")
    wait(b)
    time.sleep(0.001)
    return got(ep.poll(60), {"b": b, "r": r})


@with_epoll
def epoll_kernel_wakes_a_mixed_wait(ep, a, b):
    r, w = os.pipe()
    ep.register(b, IN)
    ep.register(r, IN)
    threading.Timer(0.05, os.write, (w, b"x")).start()
    return got(ep.poll(60), {"b": b, "r": r})


@with_epoll
def epoll_stack_wakes_a_mixed_wait(ep, a, b):
    r, _ = os.pipe()
    ep.register(b, IN)
    ep.register(r, IN)
    threading.Timer(0.05, a.sendall, (b"x",)).start()
    return got(ep.poll(60), {"b": b, "r": r})


@with_epoll
def epoll_added_while_another_thread_waits(ep, a, b):
    r, _ = os.pipe()
    ep.register(r, IN)
    out = []
    thread = threading.Thread(target=lambda: out.append(got(ep.poll(60), {"b": b})))
    thread.start()
    time.sleep(0.05)
    ep.register(b, IN)
    a.sendall(b"x")
    thread.join()
    return out


@with_epoll
def epoll_one_event_at_a_time(ep, a, b):
    r, w = os.pipe()
    ep.register(b, IN)
    ep.register(r, IN)
    os.write(w, b"x")
    a.sendall(b"x")
    wait(b)
    seen = set()
    for _ in range(50):  # neither keeps out the other
        seen |= {fd for fd, _ in ep.poll(60, 1)}
        time.sleep(0.0001)
    return sorted(seen) == sorted([b.fileno(), r])


@with_epoll
def epoll_two_threads_one_event_each(ep, a, b):
    with pair() as (x, y):
        ep.register(b, IN | ET)
        ep.register(y, IN | ET)
        out = []
        threads = [threading.Thread(target=lambda: out.extend(ep.poll(60, 1))) for _ in range(2)]
        for t in threads:
            t.start()
        time.sleep(0.05)
        a.sendall(b"x")
        x.sendall(b"x")
        for t in threads:
            t.join()
        return got(out, {"b": b, "y": y})


@with_epoll
def epoll_nested(ep, a, b):
    with select.epoll() as outer:
        ep.register(b, IN)
        outer.register(ep, IN)
        before = outer.poll(0.02)
        a.sendall(b"x")
        first = got(outer.poll(60), {"ep": ep})
        inner = got(ep.poll(60), {"b": b})
        b.recv(10)
        return [before, first, inner, outer.poll(0.02)]


@with_epoll
def epoll_nested_by_edges(ep, a, b):
    with select.epoll() as outer:
        ep.register(b, IN | ET)
        outer.register(ep, IN | ET)
        seen = []
        for _ in range(3):  # the inner one is not read
            a.sendall(b"x")
            seen += [got(outer.poll(60), {"ep": ep}), outer.poll(0.02)]
        return seen


@with_epoll
def epoll_nested_with_a_pipe(ep, a, b):
    """What is ready in the inner one, of the kernel's and of the stack's, is one event."""
    r, w = os.pipe()
    seen = []
    ep.register(b, IN)
    ep.register(r, IN)
    a.sendall(b"x")
    os.write(w, b"x")
    ep.poll(60)
    b.recv(1)
    for how in (IN, IN | ET, IN | ONESHOT):
        with select.epoll() as outer:
            a.sendall(b"x")
            wait(b)
            outer.register(ep, how)
            seen += [got(outer.poll(60), {"ep": ep}) for _ in range(1 + (how == IN))]
            seen.append(outer.poll(0) if how != IN else [])
            b.recv(1)
    return seen


@with_epoll
def epoll_nested_one_shot_with_a_pipe(ep, a, b):
    """Spent by an event of the one kind, it is spent for the other."""
    r, w = os.pipe()
    ep.register(b, IN)
    ep.register(r, IN)
    seen = []
    for first, second in ((a.fileno(), w), (w, a.fileno())):
        with select.epoll() as outer:
            outer.register(ep, IN | ONESHOT)
            os.write(first, b"x")
            seen.append(got(outer.poll(60), {"ep": ep}))
            os.write(second, b"x")
            wait(b)
            seen.append(outer.poll(0))
            outer.modify(ep, IN | ONESHOT)
            seen += [got(outer.poll(60), {"ep": ep}), outer.poll(0)]
            b.recv(1)
            os.read(r, 1)
    return seen


def same_data(outer, fd, how):
    """Registers fd with the user data 0, as others."""
    return c("epoll_ctl", outer.fileno(), 1, fd, struct.pack("=IQ", how, 0))


@with_epoll
def epoll_nested_with_the_data_of_others(ep, a, b):
    """An edge is told once, and at all."""
    r, w = os.pipe()
    seen = []
    ep.register(b, IN)
    ep.register(r, IN)
    os.write(w, b"x")
    for how, both in itertools.product((IN, IN | ET, IN | ONESHOT), (False, True)):
        with pair() as (x, y), select.epoll() as outer:
            same_data(outer, ep.fileno(), how)
            same_data(outer, y.fileno(), IN | ET)
            for sender, reader in [(x, y), (a, b)][: 1 + both]:
                sender.sendall(b"x")
                wait(reader)
            seen += [len(outer.poll(60)), len(outer.poll(0))]
            drain(b, both)
    return seen


@with_epoll
def epoll_nested_one_shot_with_the_data_of_a_pipe(ep, a, b):
    r, w = os.pipe()
    ep.register(b, IN)
    seen = []
    for first, second in ((w, a.fileno()), (a.fileno(), w)):
        with select.epoll() as outer:
            for fd, how in ((ep.fileno(), IN | ONESHOT), (r, IN | ONESHOT)):
                same_data(outer, fd, how)
            for fd in (first, second):
                os.write(fd, b"x")
                wait(b if fd == a.fileno() else r)
                seen += [len(outer.poll(60)), len(outer.poll(0))]
            b.recv(1)
            os.read(r, 1)
    return seen


@with_epoll
def epoll_nested_kept_by_a_copy(ep, a, b):
    """The number it was registered with is closed, and used again."""
    r, w = os.pipe()
    ep.register(r, IN)
    with select.epoll() as outer:
        number = os.dup(ep.fileno())
        outer.register(number, IN)
        os.dup2(w, number)
        before = outer.poll(0)
        os.write(w, b"x")
        told = got(outer.poll(60), {"copy": number})
        os.read(r, 1)
        after = outer.poll(0)
        os.close(number)
        return [before, told, after]


@with_epoll
def epoll_nested_added_first(ep, a, b):
    with select.epoll() as outer:
        outer.register(ep, IN)
        ep.register(b, IN)
        a.sendall(b"x")
        return got(outer.poll(60), {"ep": ep})


@with_epoll
def epoll_nested_added_first_and_waited_for(ep, a, b):
    """A wait on the inner one leaves nothing in it that the outer one takes for an event."""
    with select.epoll() as outer:
        outer.register(ep, IN)
        ep.register(b, IN)
        seen = []
        for _ in range(3):
            sender = threading.Timer(0.02, a.sendall, (b"x",))
            sender.start()
            seen += [got(ep.poll(60), {"b": b}), b.recv(10).decode(), outer.poll(0.02)]
            sender.join()
        return seen


@with_epoll
def epoll_that_lost_its_sockets(ep, a, b):
    """It waits for a pipe; what comes for another thread's socket reaches that thread."""
    ep.register(b, IN)
    ep.poll(0.01)
    ep.unregister(b)
    r, w = os.pipe()
    ep.register(r, IN)
    events, data = [], []

    def echo():
        while more := b.recv(10):
            data.append(len(more))
            b.sendall(more)

    waiter = threading.Thread(target=lambda: events.append(got(ep.poll(), {"r": r})))
    echoer = threading.Thread(target=echo)
    waiter.start()
    echoer.start()
    for _ in range(100):
        a.sendall(b"x")
        a.recv(10)
    a.shutdown(socket.SHUT_WR)
    echoer.join()
    os.write(w, b"x")
    waiter.join()
    return [sum(data), events]


@with_epoll
def epoll_nested_kernel_part(ep, a, b):
    r, w = os.pipe()
    with select.epoll() as outer:
        ep.register(b, IN)
        ep.register(r, IN)
        outer.register(ep, IN)
        os.write(w, b"x")
        return [got(outer.poll(60), {"ep": ep}), got(ep.poll(60), {"r": r, "b": b})]


@with_epoll
def epoll_is_polled(ep, a, b):
    ep.register(b, IN)
    before = wait(ep, select.POLLIN, 0.02)
    a.sendall(b"x")
    return [before, wait(ep), got(ep.poll(60), {"b": b})]


@with_epoll
def epoll_is_selected(ep, a, b):
    ep.register(b, IN)
    threading.Timer(0.05, a.sendall, (b"x",)).start()
    return [len(x) for x in select.select([ep], [], [], 60)]


@with_epoll
def epoll_timeout_is_exact(ep, a, b):
    ep.register(b, IN)
    start = time.monotonic()
    ep.poll(0.1)
    took = time.monotonic() - start
    return [took >= 0.1, took < 60]


@with_epoll
def epoll_timeout_zero(ep, a, b):
    ep.register(b, IN)
    start = time.monotonic()
    events = [ep.poll(0) for _ in range(10)]
    return [events, time.monotonic() - start < 60]


@with_epoll
def epoll_pwait2_nanoseconds(ep, a, b):
    ep.register(b, IN)
    t = TimeSpec(0, 1_500_000)
    start = time.monotonic()
    rc = c("epoll_pwait2", ep.fileno(), buf(12), 1, ctypes.byref(t), None)
    took = time.monotonic() - start
    return [rc, took >= 0.0015, took < 60]


@with_epoll
def epoll_pwait_mask(ep, a, b):
    ep.register(b, IN)
    with handler(signal.SIGALRM) as seen:
        mask = (ctypes.c_ulong * 16)(1 << (signal.SIGALRM - 1))
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        rc = c("epoll_pwait", ep.fileno(), buf(12), 1, 100, mask)
        return [rc, len(seen)]


@with_epoll
def epoll_interrupted(ep, a, b):
    ep.register(b, IN)
    with alarms() as seen:
        return [c("epoll_wait", ep.fileno(), buf(12), 1, 60_000), bool(seen)]


def c_handler(how, first, again=0.0):
    """A handler that signal(), or an older name of it, has set."""
    seen = []
    function = ctypes.CFUNCTYPE(None, ctypes.c_int)(seen.append)
    setter = getattr(libc, how)
    setter.restype, setter.argtypes = ctypes.c_void_p, [ctypes.c_int, type(function)]
    setter(signal.SIGALRM, function)
    seen.append(function)  # it lives on
    signal.setitimer(signal.ITIMER_REAL, first, again)
    return seen


@with_epoll
def epoll_interrupted_by_signal(ep, a, b):
    ep.register(b, IN)
    seen = c_handler("signal", 0.05, 0.05)
    rc = c("epoll_wait", ep.fileno(), buf(12), 1, 60_000)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # of the limit of the next cases
    return [rc, sorted({*seen[1:]})]


@with_epoll
def recv_interrupted_by_sysv_signal(ep, a, b):
    """Without SA_RESTART, and once."""
    seen = c_handler("sysv_signal", 0.3)
    return [c("recv", b.fileno(), buf(1), 1, 0), seen[1:]]


@with_epoll
def epoll_listener(ep, a, b):
    with listener() as s:
        ep.register(s, IN)
        before = ep.poll(0.02)
        clients = [socket.create_connection(s.getsockname()) for _ in range(3)]
        out = []
        for _ in clients:
            out.append(got(ep.poll(60), {"s": s}))
            s.accept()[0].close()
        return [before, out, ep.poll(0.02)]


@with_epoll
def epoll_listener_edge(ep, a, b):
    with listener() as s:
        s.setblocking(False)
        ep.register(s, IN | ET)
        first = socket.create_connection(s.getsockname())
        out = [got(ep.poll(60), {"s": s})]
        s.accept()[0].close()
        second = socket.create_connection(s.getsockname())
        out.append(got(ep.poll(60), {"s": s}))
        first.close()
        second.close()
        return out


@with_epoll
def epoll_connect(ep, a, b):
    with listener() as server, socket.socket() as s:
        s.setblocking(False)
        attempt(s.connect, server.getsockname())
        ep.register(s, OUT | ET)
        return [got(ep.poll(60), {"s": s}), s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)]


@with_epoll
def epoll_fresh_socket(ep, a, b):
    with socket.socket() as s:
        ep.register(s, IN | OUT)
        return got(ep.poll(60), {"s": s})


@with_epoll
def epoll_registered_before_connect(ep, a, b):
    with listener() as server, socket.socket() as s:
        ep.register(s, IN | OUT)
        s.connect(server.getsockname())
        first = got(ep.poll(60), {"s": s})
        server.accept()[0].close()
        wait(s)
        return [first, got(ep.poll(60), {"s": s})]


@with_epoll
def epoll_file_is_not_pollable(ep, a, b):
    with open(__file__) as f:
        return attempt(ep.register, f, IN)


@with_epoll
def epoll_many_sockets(ep, a, b):
    with listener(backlog=300) as s:
        clients = [socket.create_connection(s.getsockname()) for _ in range(200)]
        servers = [s.accept()[0] for _ in clients]
        for x in servers:
            ep.register(x, IN)
        for x in clients:
            x.sendall(b"x")
        seen = set()
        while len(seen) < 200:
            for fd, _ in ep.poll(60, 16):
                seen.add(fd)
                os.read(fd, 1)
        return [seen == {x.fileno() for x in servers}, ep.poll(0.02)]


@with_epoll
def epoll_copied_descriptor(ep, a, b):
    fd = os.dup(ep.fileno())
    copy = select.epoll.fromfd(fd)
    ep.register(b, IN)
    a.sendall(b"x")
    events = copy.poll(60)
    return got(events, {"b": b})


if __name__ == "__main__":
    main()
