"""Other processes: fork, exec, spawn; who owns what."""

import contextlib
import ctypes
import os
import resource
import select
import signal
import socket
import subprocess
import sys

from lib import *  # noqa: F403
from lib import attempt, c, case, child, join, listener, main, pair, wait


@case
def child_writes_parent_reads():
    with pair() as (a, b):
        pid = child(lambda: a.sendall(b"from the child"))
        got = b.recv(100).decode()
        return [got, join(pid)]


@case
def child_reads_what_came_before():
    with pair() as (a, b):
        a.sendall(b"before")
        wait(b)
        pid = child(lambda: b.sendall(b.recv(100)[::-1]))
        return [join(pid), a.recv(100).decode()]


@case
def child_reads_what_the_parent_left():
    with pair() as (a, b):
        a.sendall(b"firstsecond")
        wait(b)
        mine = b.recv(5).decode()
        r, w = os.pipe()
        pid = child(lambda: os.write(w, b.recv(100)))
        return [mine, os.read(r, 100).decode(), join(pid)]


@case
def parent_reads_after_the_child():
    with pair() as (a, b):
        a.sendall(b"abcdef")
        wait(b)
        r, w = os.pipe()
        pid = child(lambda: os.write(w, b.recv(3)))
        theirs = os.read(r, 100).decode()
        status = join(pid)
        a.sendall(b"g")
        return [theirs, status, b.recv(1) != b""]


@case
def close_in_the_parent_leaves_the_child():
    with pair() as (a, b):
        r, w = os.pipe()

        def work():
            a.close()
            os.write(w, b"ready")
            b.sendall(b"alive " + b.recv(100))

        pid = child(work)
        os.read(r, 5)
        b.close()
        a.sendall(b"ping")
        return [a.recv(100).decode(), a.recv(100).decode(), join(pid)]


@case
def end_of_stream_when_both_have_closed():
    with pair() as (a, b):
        r, w = os.pipe()
        pid = child(lambda: os.read(r, 1))
        b.close()
        before = wait(a, select.POLLIN, 0.1)
        os.write(w, b"x")
        join(pid)
        return [before, attempt(a.recv, 1)]


@case
def fork_per_connection():
    with listener() as s:
        got = []
        for i in range(5):
            with socket.create_connection(s.getsockname()) as client:
                accepted, _ = s.accept()
                pid = child(lambda x=accepted: x.sendall(b"hello " + x.recv(100)))
                accepted.close()
                client.sendall(b"%d" % i)
                got.append(client.recv(100).decode())
                got.append(client.recv(100).decode())
                join(pid)
        return got


@case
def prefork():
    with listener(backlog=64) as s:

        def serve():
            while True:
                x, _ = s.accept()
                with x:
                    if (data := x.recv(100)) == b"end":
                        return
                    x.sendall(b"got " + data)

        pids = [child(serve) for _ in range(3)]
        out = []
        for i in range(30):
            with socket.create_connection(s.getsockname()) as client:
                client.sendall(b"%d" % i)
                out.append(client.recv(100).decode())
        statuses = []
        for _ in pids:
            with socket.create_connection(s.getsockname()) as client:
                client.sendall(b"end")
                client.recv(1)
        statuses = [join(pid) for pid in pids]
        return [out, statuses]


@case
def a_killed_child_leaves_the_listener():
    with listener() as s:
        r, w = os.pipe()

        def work():
            os.write(w, b"x")
            s.accept()

        pid = child(work)
        os.read(r, 1)
        os.kill(pid, signal.SIGKILL)
        join(pid)
        with socket.create_connection(s.getsockname()) as client:
            accepted, _ = s.accept()
            with accepted:
                accepted.sendall(b"still here")
                return client.recv(100).decode()


@case
def child_opens_its_own():
    with listener() as s:

        def work():
            with socket.create_connection(s.getsockname()) as x:
                x.sendall(b"a new one")

        pid = child(work)
        accepted, _ = s.accept()
        with accepted:
            return [accepted.recv(100).decode(), join(pid)]


@case
def grandchild():
    with pair() as (a, b):

        def work():
            if os.fork() == 0:
                a.sendall(b"grandchild")
                os._exit(0)
            os.wait()

        pid = child(work)
        return [b.recv(100).decode(), join(pid)]


@case
def exec_inherits():
    with pair() as (a, b):
        os.set_inheritable(a.fileno(), True)
        code = f"import os; os.write({a.fileno()}, b'after exec')"
        pid = child(lambda: os.execv(sys.executable, [sys.executable, "-c", code]))
        got = b.recv(100).decode()
        return [got, join(pid)]


@case
def exec_as_standard_output():
    with pair() as (a, b):

        def work():
            os.dup2(a.fileno(), 1)
            code = "import os; os.write(1, b'to the socket')"
            os.execvp(sys.executable, [sys.executable, "-c", code])

        pid = child(work)
        got = b.recv(100).decode()
        return [got, join(pid)]


def vector(strings):
    """A char *[] that ends with NULL."""
    return (ctypes.c_char_p * (len(strings) + 1))(*strings)


@case
def spawn_with_a_socket_as_stdout():
    with pair() as (a, b):
        code = "import os; os.write(1, b'spawned')"
        done = subprocess.run([sys.executable, "-c", code], stdout=a.fileno(), check=False)
        return [b.recv(100).decode(), done.returncode]


@case
def spawn_with_a_socket_as_stdin():
    with pair() as (a, b):
        a.sendall(b"line one\nline two\n")
        a.shutdown(socket.SHUT_WR)
        done = subprocess.run(["cat"], stdin=b.fileno(), capture_output=True, check=False)
        return done.stdout.decode()


@case
def posix_spawn_inherits():
    with pair() as (a, b):
        os.set_inheritable(a.fileno(), True)
        code = f"import os; os.write({a.fileno()}, b'posix_spawn')"
        pid = os.posix_spawn(sys.executable, [sys.executable, "-c", code], os.environ)
        got = b.recv(100).decode()
        return [got, join(pid)]


@case
def posix_spawn_closes_from():
    """A socket that closes on exec, as standard output; and the rest is closed."""
    with pair() as (a, b):
        read_end, write_end = os.pipe()
        os.set_inheritable(write_end, True)
        code = f"import os; os.write(1, b'to the socket'); os.write({write_end}, b'?')"
        argv = [os.fsencode(sys.executable), b"-c", code.encode()]
        actions, pid = ctypes.create_string_buffer(256), ctypes.c_int()
        said = [
            c("posix_spawn_file_actions_init", actions),
            c("posix_spawn_file_actions_adddup2", actions, a.fileno(), 1),
            c("posix_spawn_file_actions_adddup2", actions, os.open("/dev/null", os.O_WRONLY), 2),
            c("posix_spawn_file_actions_addclosefrom_np", actions, 3),
            c("posix_spawn", ctypes.byref(pid), argv[0], actions, None, vector(argv),
              vector([k + b"=" + v for k, v in os.environb.items()])),
            c("posix_spawn_file_actions_destroy", actions),
        ]  # fmt: skip
        a.close()
        os.close(write_end)
        return [
            said,
            *(x.decode() for x in (b.recv(100), b.recv(1), os.read(read_end, 1))),
            join(pid.value),
        ]


def closes_from_beyond(limit):
    with pair() as (a, b):
        os.dup2(b.fileno(), 300, inheritable=True)
        code = "import os; os.write(1, b'%d' % os.path.exists('/proc/self/fd/300'))"
        argv = [os.fsencode(sys.executable), b"-c", code.encode()]
        actions, pid = ctypes.create_string_buffer(256), ctypes.c_int()
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        said = [
            c("posix_spawn_file_actions_init", actions),
            c("posix_spawn_file_actions_adddup2", actions, a.fileno(), 1),
            c("posix_spawn_file_actions_addclosefrom_np", actions, 3),
            resource.getrlimit(resource.RLIMIT_NOFILE) == limit,
            c("posix_spawn", ctypes.byref(pid), argv[0], actions, None, vector(argv),
              vector([k + b"=" + v for k, v in os.environb.items()])),
            c("posix_spawn_file_actions_destroy", actions),
        ]  # fmt: skip
        with contextlib.suppress(ValueError):  # only root may raise the hard one
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        os.close(300)
        return [said, b.recv(10).decode(), join(pid.value)]


@case
def posix_spawn_closes_from_beyond_the_limit():
    """A descriptor may have a number that is above the limit by now."""
    return closes_from_beyond((200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


@case
def posix_spawn_closes_from_beyond_the_hard_limit():
    return closes_from_beyond((200, 200))


@case
def exec_closes_cloexec():
    with pair() as (a, b):
        pid = child(lambda: os.execvp("sleep", ["sleep", "0.3"]))
        a.close()
        got = b.recv(1).decode()
        os.kill(pid, signal.SIGKILL)
        join(pid)
        return got


@case
def exec_inherits_a_listener():
    with listener() as s:
        os.set_inheritable(s.fileno(), True)
        code = (f"import socket; s = socket.socket(fileno={s.fileno()}); x, _ = s.accept(); "
                "x.sendall(b'accepted after exec')")  # fmt: skip
        pid = child(lambda: os.execv(sys.executable, [sys.executable, "-c", code]))
        with socket.create_connection(s.getsockname()) as client:
            return [client.recv(100).decode(), join(pid)]


@case
def exec_that_fails():
    with pair() as (a, b):
        os.set_inheritable(a.fileno(), True)
        error = attempt(os.execv, "/no/such/program", ["x"])
        a.sendall(b"still mine")
        return [error, b.recv(100).decode()]


@case
def subprocess_pipes_still_work():
    with listener():
        return subprocess.run(["cat"], input=b"through pipes", capture_output=True,
                              check=False).stdout.decode()  # fmt: skip


CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000


def reaches(address):
    """Can a new stream, and a new datagram socket, reach it?"""
    with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
        return [attempt(stream.connect, address), attempt(datagram.sendto, b"x", address)]


@case
def in_another_network_namespace():
    """New sockets are that namespace's, also after an exec; old ones stay what they are."""
    with pair() as (a, b), listener() as server:
        address = server.getsockname()
        r, w = os.pipe()

        def work():
            got = [reaches(address), c("unshare", CLONE_NEWUSER | CLONE_NEWNET)]
            got += [reaches(address), a.send(b"x")]
            os.write(w, repr(got).encode())
            os.dup2(w, 1)
            code = f"import socket; print(socket.socket().connect_ex({address}))"
            os.execve(sys.executable, [sys.executable, "-c", code], dict(os.environ))

        pid = child(work)
        os.close(w)
        status = join(pid)
        with open(r) as out:
            return [out.read(), status, b.recv(1).decode()]


if __name__ == "__main__":
    main()
