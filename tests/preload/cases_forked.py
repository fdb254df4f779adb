"""An epoll that was made before a fork, in the child and in the parent."""

import contextlib
import ctypes
import os
import select
import socket
import threading
import time

from lib import *  # noqa: F403
from lib import attempt, case, child, epoll_names, join, libc, listener, main, pair

IN, OUT, ET, ONESHOT = select.EPOLLIN, select.EPOLLOUT, select.EPOLLET, select.EPOLLONESHOT
EXCLUSIVE = select.EPOLLEXCLUSIVE
EXIT_GROUP = {"x86_64": 231, "aarch64": 94}[os.uname().machine]


class Answer:
    """What a child found: its `tell` sends it, `get` waits for it in the parent."""

    def __init__(self):
        self.r, self.w = os.pipe()

    def tell(self, what):
        os.write(self.w, str(what).encode() + b"\n")

    def get(self):
        got = b""
        while not got.endswith(b"\n"):
            got += os.read(self.r, 1)
        return got.decode().strip()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        os.close(self.r)
        os.close(self.w)


def events(ep, seconds=20, most=-1):
    """What it tells: sorted pairs of a descriptor and event names."""
    return sorted((fd, epoll_names(got)) for fd, got in ep.poll(seconds, most))


def names(ep, fds, seconds=20):
    """The same, of descriptors by name; others by number."""
    return sorted((fds.get(fd, fd), got) for fd, got in events(ep, seconds))


def serve(ep, s):
    """Answers with its pid until somebody says "end". Others may be quicker to accept."""
    s.setblocking(False)
    open_ = {}
    while True:
        for fd, _ in ep.poll(3):
            if fd == s.fileno():
                try:
                    x, _ = s.accept()
                except BlockingIOError:
                    continue
                x.setblocking(False)
                open_[x.fileno()] = x
                ep.register(x, IN)
                continue
            x = open_.pop(fd)
            data = x.recv(100)
            ep.unregister(x)
            x.sendall(b"%d %b" % (os.getpid(), data))
            x.close()
            if data == b"end":
                return


def serve_each(ep, s):
    """The same without registrations: natively those were its siblings' too."""
    s.setblocking(False)
    data = b""
    while data != b"end":
        ep.poll(3)
        try:
            x, _ = s.accept()
        except BlockingIOError:
            continue
        with x:
            x.setblocking(True)
            data = x.recv(100)
            x.sendall(b"%d %b" % (os.getpid(), data))


def ask(s, what):
    """(pid, answer)"""
    with socket.create_connection(s.getsockname()) as client:
        client.sendall(what)
        got = b""
        while data := client.recv(100):
            got += data
        pid, _, rest = got.partition(b" ")
        return int(pid), rest.decode()


@case
def the_child_serves_on():
    with listener() as s, select.epoll() as ep:
        ep.register(s, IN)
        pid = child(lambda: serve(ep, s))
        got = [ask(s, w) for w in (b"one", b"two", b"end")]
        return [[(p == pid, w) for p, w in got], join(pid)]


@case
def a_daemon():
    """Its parent, which has set all up, is gone before anybody asks."""
    with listener() as s, Answer() as ready, select.epoll() as ep:
        ep.register(s, IN)

        def parent():
            if os.fork() == 0:
                os.setsid()
                ready.tell(os.getpid())
                serve(ep, s)
                os._exit(0)

        status = join(child(parent))
        pid = int(ready.get())
        got = [ask(s, w) for w in (b"one", b"two", b"end")]
        return [status, [(p == pid, w) for p, w in got]]


@case
def a_daemon_whose_parent_had_waited():
    """Its set-up has used the epoll; connections were accepted ahead for who is gone."""
    with Answer() as port, Answer() as go:

        def parent():
            s, ep = listener(), select.epoll()
            ep.register(s, IN)
            ep.poll(0)
            port.tell(s.getsockname()[1])
            go.get()
            ep.poll(3)  # one waits, and was perhaps accepted ahead
            if os.fork() == 0:
                serve(ep, s)
                os._exit(0)

        pid = child(parent)
        client = socket.create_connection(("127.0.0.1", int(port.get())))
        client.sendall(b"end")
        go.tell("")
        status = join(pid)
        with client:
            return [status, client.recv(100).split()[1].decode()]


@case
def two_children_serve():
    """Each until it is told to stop: both have answered then."""
    with listener(backlog=64) as s, select.epoll() as ep:
        ep.register(s, IN)
        pids = [child(lambda: serve_each(ep, s)) for _ in range(2)]
        got = [ask(s, b"%d" % i) for i in range(20)]
        last = [ask(s, b"end") for _ in pids]
        known = all(p in pids for p, _ in got)
        return [known, [w for _, w in got], sorted(p for p, _ in last) == sorted(pids),
                [join(pid) for pid in pids]]  # fmt: skip


@case
def the_parent_does_not_serve():
    """It has waited, so that connections were accepted ahead; its children get them all."""
    with listener(backlog=64) as s, select.epoll() as ep:
        ep.register(s, IN)
        early = [socket.create_connection(s.getsockname()) for _ in range(3)]
        seen = len(ep.poll(60))
        pid = child(lambda: serve(ep, s))
        for client in early:
            client.sendall(b"early")
        answers = [client.recv(100).split()[1].decode() for client in early]
        for client in early:
            client.close()
        more = [ask(s, b"%d" % i)[1] for i in range(20)]
        return [seen, answers, more, ask(s, b"end")[0] == pid, join(pid)]


@case
def parent_and_child_serve():
    with listener(backlog=64) as s, select.epoll() as ep:
        ep.register(s, IN | EXCLUSIVE)
        asks = child(lambda: [ask(s, b"x") for _ in range(10)] + [ask(s, b"end"), ask(s, b"end")])
        pid = child(lambda: serve_each(ep, s))
        serve_each(ep, s)
        s.close()  # under the shim it may have accepted one ahead
        return [join(asks), join(pid)]


@case
def a_connection_is_handed_on():
    with pair() as (a, b), select.epoll() as ep:
        ep.register(b, IN)
        a.sendall(b"before")
        seen = events(ep)[0][1]

        def work():
            for _ in range(2):
                assert events(ep) == [(b.fileno(), ["IN"])]
                b.sendall(b.recv(100)[::-1])

        pid = child(work)
        b.close()
        out = [a.recv(100).decode()]
        a.sendall(b"after")
        out.append(a.recv(100).decode())
        return [seen, out, join(pid), a.recv(1).decode()]


@case
def what_came_before_is_read_once():
    """Half by the parent, half by the child; nobody waits in between."""
    with pair() as (a, b), Answer() as theirs, select.epoll() as ep:
        b.setblocking(False)
        ep.register(b, IN)
        a.sendall(b"firstsecond")
        seen = events(ep)[0][1]
        mine = b.recv(5).decode()
        pid = child(lambda: theirs.tell(attempt(b.recv, 100)))
        got = theirs.get()
        join(pid)
        return [seen, mine, got, attempt(b.recv, 100), events(ep, 0)]


@case
def much_was_read_ahead():
    """More than there are buffers for, perhaps; the child reads it all, in order."""
    with contextlib.ExitStack() as stack, select.epoll() as ep, Answer() as theirs:
        pairs = [stack.enter_context(pair()) for _ in range(24)]
        sent = {}
        for a, b in pairs:
            a.setblocking(False)
            b.setblocking(False)
            ep.register(b, IN)
            sent[b.fileno()] = 0
        for _ in range(20):
            for a, b in pairs:
                data = bytes((sent[b.fileno()] + i) % 251 for i in range(8192))
                n = attempt(a.send, data)
                sent[b.fileno()] += 0 if n == "EAGAIN" else n
            ep.poll(0)

        def work():
            got = dict.fromkeys(sent, 0)
            while got != sent:
                for fd, _ in ep.poll(3):
                    data = os.read(fd, 65536)
                    assert data == bytes((got[fd] + i) % 251 for i in range(len(data)))
                    got[fd] += len(data)
            theirs.tell("all")

        pid = child(work)
        return [theirs.get(), join(pid), min(sent.values()) > 0]


@case
def the_parent_reads_what_it_had_been_told_of():
    with pair() as (a, b), select.epoll() as ep:
        b.setblocking(False)
        ep.register(b, IN | ET)
        a.sendall(b"told")
        seen = events(ep)[0][1]
        status = join(child(lambda: None))
        return [seen, status, attempt(b.recv, 100), attempt(b.recv, 100)]


def told_and_gone(how):
    """A child is told of data, asks for none of it and ends: its parent has it all."""
    with pair() as (a, b), select.epoll() as ep, Answer() as theirs:
        ep.register(b, IN)

        def work():
            a.sendall(b"unread")
            theirs.tell(events(ep)[0][1])
            how()

        pid = child(work)
        seen = theirs.get()
        status = join(pid)
        b.settimeout(60)
        return [seen, status, attempt(b.recv, 100)]


@case
def told_and_gone_by_underscore_exit():
    return told_and_gone(lambda: os._exit(3))


@case
def told_and_gone_by_exit():
    return told_and_gone(lambda: libc.exit(3))


@case
def told_and_gone_by_quick_exit():
    return told_and_gone(lambda: libc.quick_exit(3))


@case
def told_and_gone_by_number():
    return told_and_gone(lambda: libc.syscall(ctypes.c_long(EXIT_GROUP), 3))


@case
def level_after_the_fork():
    """Who does not wait loses nothing, and both see what is there."""
    with pair() as (a, b), Answer() as theirs, select.epoll() as ep:
        fds = {b.fileno(): "b"}
        ep.register(b, IN)
        a.sendall(b"there")
        before = names(ep, fds)

        def work():
            theirs.tell(names(ep, fds, 0))
            b.close()  # under the shim, else what it had read ahead would go with it

        pid = child(work)
        got = theirs.get()
        join(pid)
        return [before, got, names(ep, fds, 0), b.recv(100).decode(), names(ep, fds, 0)]


@case
def edge_after_the_fork():
    with pair() as (a, b), Answer() as theirs, select.epoll() as ep:
        fds = {b.fileno(): "b"}
        b.setblocking(False)
        ep.register(b, IN | ET)

        def work():
            for _ in range(2):
                theirs.tell(names(ep, fds))
                theirs.tell((attempt(b.recv, 100), attempt(b.recv, 100)))
            theirs.tell(names(ep, fds, 0.05))

        pid = child(work)
        out = []
        for word in (b"one", b"two"):
            a.sendall(word)
            out += [theirs.get(), theirs.get()]
        return [out, theirs.get(), join(pid)]


@case
def one_shot_in_the_child():
    with pair() as (a, b), Answer() as theirs, select.epoll() as ep:
        fds = {b.fileno(): "b"}
        ep.register(b, IN | ONESHOT)

        def work():
            theirs.tell(names(ep, fds))
            theirs.tell(names(ep, fds, 0.05))
            ep.modify(b, IN | ONESHOT)
            theirs.tell(names(ep, fds))

        pid = child(work)
        a.sendall(b"x")
        return [theirs.get(), theirs.get(), theirs.get(), join(pid)]


@case
def one_shot_that_was_used_up():
    with pair() as (a, b), Answer() as theirs, select.epoll() as ep:
        ep.register(b, IN | ONESHOT)
        a.sendall(b"x")
        seen = events(ep)[0][1]
        pid = child(lambda: theirs.tell(events(ep, 0.05)))
        return [seen, theirs.get(), join(pid)]


@case
def kernel_descriptors_beside():
    with pair() as (a, b), Answer() as theirs, select.epoll() as ep:
        r, w = os.pipe()
        event = os.eventfd(0, os.EFD_NONBLOCK)
        timer = ctypes.CDLL(None).timerfd_create(time.CLOCK_MONOTONIC, 0)
        ctypes.CDLL(None).timerfd_settime(timer, 0, (ctypes.c_long * 4)(0, 0, 0, 1000000), None)
        u, v = socket.socketpair()
        fds = {b.fileno(): "b", r: "pipe", event: "event", timer: "timer", v.fileno(): "unix"}
        for fd in fds:
            ep.register(fd, IN)
        ep.register(u, IN | OUT | ONESHOT)
        fds[u.fileno()] = "u"
        first = names(ep, fds)

        def work():
            seen = set()
            while len(seen) < 5:
                for fd, _ in ep.poll(3):
                    seen.add(fds.get(fd, fd))
                    ep.unregister(fd)
            theirs.tell(sorted(seen))

        pid = child(work)
        os.write(w, b"x")
        a.sendall(b"x")
        u.send(b"x")
        os.eventfd_write(event, 1)
        out = [[n for n, _ in first if n == "u"], theirs.get(), join(pid)]
        for fd in (r, w, event, timer):
            os.close(fd)
        u.close()
        v.close()
        return out


@case
def nested():
    with pair() as (a, b), Answer() as theirs, select.epoll() as inner, select.epoll() as outer:
        fds = {b.fileno(): "b", inner.fileno(): "inner"}
        r, w = os.pipe()
        fds[r] = "pipe"
        inner.register(b, IN)
        inner.register(r, IN)
        outer.register(inner, IN)

        def work():
            for _ in range(2):
                theirs.tell((names(outer, fds), names(inner, fds)))
                if names(inner, fds, 0) == [("b", ["IN"])]:
                    b.recv(100)
                    theirs.tell(names(outer, fds, 0.05))

        pid = child(work)
        a.sendall(b"x")
        out = [theirs.get(), theirs.get()]
        os.write(w, b"x")
        out.append(theirs.get())
        os.close(w)
        os.close(r)
        return [out, join(pid)]


@case
def polled_itself():
    with pair() as (a, b), Answer() as theirs, select.epoll() as ep:
        ep.register(b, IN)

        def work():
            poller = select.poll()
            poller.register(ep, select.POLLIN)
            theirs.tell(len(poller.poll(3000)))
            theirs.tell(len(ep.poll(0)))

        pid = child(work)
        a.sendall(b"x")
        return [theirs.get(), theirs.get(), join(pid)]


@case
def a_copy_of_it():
    with pair() as (a, b), Answer() as theirs, select.epoll() as ep:
        fds = {b.fileno(): "b"}
        copy = os.dup(ep.fileno())
        os.set_inheritable(copy, True)
        r, w = os.pipe()
        ep.register(b, IN)
        ep.register(r, IN)
        fds[r] = "pipe"

        def work():
            with select.epoll.fromfd(copy) as same:
                theirs.tell(names(same, fds))
                theirs.tell(names(ep, fds))
                ep.unregister(r)
                theirs.tell(names(same, fds, 0))

        os.write(w, b"x")
        a.sendall(b"x")
        pid = child(work)
        out = [theirs.get(), theirs.get(), theirs.get(), join(pid)]
        for fd in (copy, w, r):
            os.close(fd)
        return out


@case
def close_on_exec_stays():
    with pair() as (_a, b), Answer() as theirs, select.epoll() as ep:
        copy = os.dup(ep.fileno())
        os.set_inheritable(copy, True)
        ep.register(b, IN)

        def work():
            ep.poll(0)
            theirs.tell([os.get_inheritable(fd) for fd in (ep.fileno(), copy)])

        pid = child(work)
        os.close(copy)
        return [theirs.get(), join(pid)]


@case
def the_child_closes_it_unused():
    with pair() as (a, b), listener() as s, select.epoll() as ep:
        ep.register(b, IN)
        ep.register(s, IN)
        fds = {b.fileno(): "b", s.fileno(): "s"}

        def work():
            ep.close()
            s.close()
            b.close()

        before = names(ep, fds, 0)
        status = join(child(work))
        a.sendall(b"x")
        after = names(ep, fds)
        b.recv(1)
        with socket.create_connection(s.getsockname()):
            return [before, status, after, names(ep, fds)]


@case
def the_parent_waits_meanwhile():
    """A thread sleeps in the epoll while another forks: it is woken as ever."""
    with pair() as (a, b), select.epoll() as ep:
        fds, got = {b.fileno(): "b"}, []
        ep.register(b, IN)
        for _ in range(10):  # before it sleeps, or after
            sleeper = threading.Thread(target=lambda: got.append(names(ep, fds)))
            sleeper.start()
            got.append(join(child(lambda: None)))
            a.sendall(b"x")
            sleeper.join()
            b.recv(1)
        return got


@case
def changes_in_the_child():
    with pair() as (a, b), pair() as (c, d), Answer() as theirs, select.epoll() as ep:
        fds = {b.fileno(): "b", d.fileno(): "d"}
        ep.register(b, IN)

        def work():
            theirs.tell(attempt(ep.register, b.fileno(), IN))
            theirs.tell(attempt(ep.unregister, d.fileno()))
            ep.register(d, IN)
            ep.modify(b, OUT)
            theirs.tell(names(ep, fds))
            ep.unregister(b)
            theirs.tell(names(ep, fds))
            theirs.tell(attempt(ep.modify, b.fileno(), IN))

        a.sendall(b"x")
        pid = child(work)
        out = [theirs.get(), theirs.get(), theirs.get()]
        c.sendall(b"x")
        return [out, theirs.get(), theirs.get(), join(pid)]


@case
def a_grandchild():
    """The one in between has not used it."""
    with pair() as (a, b), select.epoll() as ep:
        ep.register(b, IN)

        def work():
            assert events(ep) == [(b.fileno(), ["IN"])]
            b.sendall(b"grandchild " + b.recv(100))

        def between():
            assert join(child(work)) == 0

        pid = child(between)
        a.sendall(b"x")
        return [a.recv(100).decode(), join(pid)]


@case
def before_it_listens():
    """Registered, and listening only in the child."""
    with socket.socket() as s, Answer() as port, select.epoll() as ep:
        s.bind(("127.0.0.1", 0))
        ep.register(s, IN | ET)

        def work():
            s.listen()
            port.tell(s.getsockname()[1])
            serve(ep, s)

        pid = child(work)
        port.get()
        return [ask(s, b"end")[1], join(pid)]


@case
def only_kernel_descriptors():
    """That one is the kernel's, and one in both."""
    with Answer() as theirs, select.epoll() as ep:
        r, w = os.pipe()
        pid = child(lambda: theirs.tell(len(ep.poll(3))))
        ep.register(r, IN)
        os.write(w, b"x")
        out = [theirs.get(), join(pid), len(ep.poll(0))]
        os.close(r)
        os.close(w)
        return out


@case
def a_first_socket_in_the_child():
    with listener() as s, Answer() as theirs, select.epoll() as ep:
        r, w = os.pipe()
        ep.register(r, IN)

        def work():
            with socket.create_connection(s.getsockname()) as x:
                ep.register(x, IN)
                fds = {x.fileno(): "x", r: "pipe"}
                theirs.tell(names(ep, fds))
                x.recv(1)
                os.write(w, b"x")
                theirs.tell(names(ep, fds))

        pid = child(work)
        with s.accept()[0] as y:
            y.sendall(b"x")
            out = [theirs.get(), theirs.get(), join(pid)]
        os.close(r)
        os.close(w)
        return out


@case
def the_parent_connects_and_the_child_reads():
    """Who has connected a socket after the fork, and asks for nothing, takes no data."""
    with listener() as server, socket.socket() as s, Answer() as go, Answer() as theirs:

        def work():
            theirs.tell(attempt(s.recv, 100, socket.MSG_DONTWAIT))
            go.get()
            with select.epoll() as ep:
                ep.register(s, IN)
                theirs.tell([events(ep)[0][1], s.recv(100)])

        pid = child(work)
        out = [theirs.get()]
        s.connect(server.getsockname())
        with server.accept()[0] as peer:
            peer.sendall(b"for the child")
            s.getpeername()
            go.tell("")
            return [*out, theirs.get(), join(pid)]


@case
def datagrams():
    with socket.socket(type=socket.SOCK_DGRAM) as s, select.epoll() as ep:
        s.bind(("127.0.0.1", 0))
        s.setblocking(False)
        ep.register(s, IN)
        with socket.socket(type=socket.SOCK_DGRAM) as x, Answer() as theirs:
            x.sendto(b"first", s.getsockname())
            x.sendto(b"second", s.getsockname())
            seen = len(events(ep))
            first = s.recv(100).decode()

            def work():
                assert events(ep) == [(s.fileno(), ["IN"])]
                theirs.tell((s.recv(100), attempt(s.recv, 100)))

            pid = child(work)
            return [seen, first, theirs.get(), join(pid), attempt(s.recv, 100)]


if __name__ == "__main__":
    main()
