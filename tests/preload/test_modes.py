"""The modes with F-Stack's names: several instances, threads, CPUs, type flags, both stacks."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from common.ports import unused_port
from common.processes import completed
from programs import need
from shim import Instance, python

from ffloop._session import stats_page


@pytest.fixture
def two(tmp_path: Path) -> Iterator[list[Instance]]:
    instances = [Instance(tmp_path, number=i) for i in range(2)]
    yield instances
    for instance in instances:
        instance.stop()


def start(code: str, *args: object, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: "subprocess.Popen[str]") -> str:
    """Lets it go on to its end: what it wrote to standard error."""
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return errors


LISTEN = """
import socket, sys
s = socket.socket()
s.bind(('127.0.0.1', 0))
s.listen()
print(s.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("number", "index"), [("0", 0), ("1", 1), ("5", 1)])
def test_process_number(two: list[Instance], number: str, index: int) -> None:
    """FF_PROC_ID mod FF_NB_FSTACK_INSTANCE."""
    process = start(
        LISTEN, **two[0].environment(FF_NB_FSTACK_INSTANCE="2", FF_PROC_ID=number)
    )  # fmt: skip
    assert process.stdout
    port = int(process.stdout.readline())
    assert [i.holds(port) for i in two] == [index == 0, index == 1]
    assert end(process) == ""


def test_threads(two: list[Instance]) -> None:
    """FF_THREAD_SOCKET: the next thread takes the next instance."""
    code = """
import socket, sys, threading
def work():
    s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()
    ports.append(s.getsockname()[1])
    done.wait()
ports, done = [], threading.Event()
threads = [threading.Thread(target=work) for _ in range(4)]
for t in threads: t.start()
while len(ports) < 4: pass
print(*ports, flush=True)
sys.stdin.read()
done.set()
"""
    process = start(
        code, **two[0].environment(FF_NB_FSTACK_INSTANCE="2", FF_THREAD_SOCKET="1")
    )  # fmt: skip
    assert process.stdout
    ports = [int(p) for p in process.stdout.readline().split()]
    assert [sum(i.holds(p) for p in ports) for i in two] == [2, 2]
    assert end(process) == ""


MULTI = """
import os, socket, sys
port, server = int(sys.argv[1]), int(sys.argv[2])
listeners = []
for _ in range(4):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(('127.0.0.1', port))
    s.listen()
    listeners.append(s)
print('listening', flush=True)
for k, mine in enumerate(listeners[:2]):
    if os.fork() == 0:
        for s in listeners:
            if s is not mine: s.close()
        mine.setblocking(False)
        try: mine.accept()
        except BlockingIOError: pass
        with socket.create_connection(('127.0.0.1', server)) as s:
            s.sendall(b'%d %d' % (k, min(os.sched_getaffinity(0))))
            s.recv(1)
        os._exit(0)
for _ in range(2): os.wait()
"""


ECHO = """
import os, select, socket, sys, time
listener = socket.create_server((sys.argv[1], 0))
print(listener.getsockname()[1], flush=True)
peer, _ = listener.accept()
for _ in range(50):
    peer.sendall(peer.recv(100))
with select.epoll() as ep:  # what is the kernel's, and the time, are not kept waiting
    ep.register(peer, select.EPOLLIN)
    r, w = os.pipe()
    ep.register(r, select.EPOLLIN)
    os.write(w, b"x")
    assert ep.poll() == [(r, select.EPOLLIN)]
    os.read(r, 1)
    began = time.monotonic()
    assert ep.poll(0.1) == []
    assert time.monotonic() - began >= 0.1
print("asleep", flush=True)
sys.stdin.read()
"""


two_cpus = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU")


@two_cpus
@pytest.mark.parametrize(("limit", "spins"), [("0", False), ("10000000", True), ("forever", True)])
def test_spin(instance: Instance, limit: str, spins: bool) -> None:
    """FFLOOP_SPIN_US: it looks at the rings before it sleeps; `ffloop stat` has both counts."""
    process = start(ECHO, instance.address, **instance.environment(FFLOOP_SPIN_US=limit))
    assert process.stdout
    port = int(process.stdout.readline())
    with socket.create_connection((instance.address, port)) as peer:
        for _ in range(50):
            peer.sendall(b"some")
            assert peer.recv(100) == b"some"
        assert process.stdout.readline() == "asleep\n"
        (session,) = stats_page.read(instance.process.pid).sessions
        app = session.app
        assert bool(app["spins"]) == spins
        assert app["sleeps"]
        assert end(process) == ""


@two_cpus
def test_multi_sc(two: list[Instance]) -> None:
    """The parent's listeners of one port are spread; a child that takes one is at its instance, for
    all that it does, and on its CPU."""
    port = unused_port()
    with socket.create_server(("127.0.0.1", 0)) as server:
        environment = two[0].environment(
            FF_MULTI_SC="1", FF_NB_FSTACK_INSTANCE="2", FF_INITIAL_LCORE_ID="0x1"
        )
        process = start(MULTI, port, server.getsockname()[1], **environment)
        assert process.stdout
        assert process.stdout.readline() == "listening\n"
        assert all(i.holds(port) for i in two)
        for _ in range(2):
            connection, address = server.accept()
            with connection:
                number, cpu = (int(word) for word in connection.recv(10).split())
                assert [i.holds(address[1]) for i in two] == [number == 0, number == 1]
                assert cpu == number
                connection.sendall(b".")
    assert end(process) == ""


def test_without_reuseport_it_is_in_use(two: list[Instance]) -> None:
    code = """
import errno, socket
a, b = socket.socket(), socket.socket()
a.bind(('127.0.0.1', 0)); a.listen()
assert b.connect_ex(a.getsockname()) == 0
c = socket.socket()
try: c.bind(a.getsockname())
except OSError as exc: print(errno.errorcode[exc.errno])
"""
    process = start(code, **two[0].environment(FF_MULTI_SC="1", FF_NB_FSTACK_INSTANCE="2"))
    assert process.stdout
    assert process.stdout.readline() == "EADDRINUSE\n"
    assert end(process) == ""


def test_missing_instance(two: list[Instance]) -> None:
    code = "import socket; s = socket.socket(); print(s.connect_ex(('127.0.0.1', 1)))"
    process = start(code, **two[0].environment(FF_NB_FSTACK_INSTANCE="3", FF_PROC_ID="2"))
    assert process.stdout
    assert process.stdout.readline() == "100\n"  # ENETDOWN
    errors = end(process)
    assert "FF_NB_FSTACK_INSTANCE=3" in errors and "--proc-id 2" in errors


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FF_NB_FSTACK_INSTANCE", "0"),
        ("FF_NB_FSTACK_INSTANCE", "two"),
        ("FF_PROC_ID", "-1"),
        ("FF_INITIAL_LCORE_ID", "cpu3"),
        ("FF_INITIAL_LCORE_ID", "0"),
        ("FF_MULTI_SC", "maybe"),
        ("FF_THREAD_SOCKET", "2"),
        ("FF_KERNEL_EVENT", "0"),
        ("FFLOOP_DUAL_LISTEN", "on"),
        ("FFLOOP_STACK", "linux"),
        ("FFLOOP_FALLBACK", "yes"),
        ("FFLOOP_ROUTES", "10.0.0.0/8"),
        ("FFLOOP_ROUTES", "10.0.0.0/40=stack"),
        ("FFLOOP_LOG", "loud"),
        ("FFLOOP_LOG_FILE", "/nowhere/log"),
        ("FFLOOP_SPIN_US", "long"),
        ("FFLOOP_POOL_KIB", "16M"),
        ("FFLOOP_TX_CAP", "-1"),
        ("FFLOOP_MAX_SOCKETS", "all"),
        ("FFLOOP_TIMEOUT_MS", "1.5"),
    ],
)
def test_bad_values(shared_instance: Instance, name: str, value: str) -> None:
    done = completed("true", env=shared_instance.environment(**{name: value}))
    assert f"libff_syscall: {name}" in done.stderr
    assert value in done.stderr
    assert (done.returncode, done.stdout) == (0, "")


def test_good_values_are_silent(shared_instance: Instance) -> None:
    environment = shared_instance.environment(
        FF_KERNEL_EVENT="1", FF_MULTI_SC="1", FF_NB_FSTACK_INSTANCE="1", FF_PROC_ID="0",
        FF_INITIAL_LCORE_ID="1", FFLOOP_DUAL_LISTEN="1",
    )  # fmt: skip
    process = start(LISTEN, **environment)
    assert process.stdout
    assert int(process.stdout.readline())
    assert end(process) == ""


def test_modes_that_exclude_one_another(shared_instance: Instance) -> None:
    environment = shared_instance.environment(FF_MULTI_SC="1", FF_THREAD_SOCKET="1")
    done = completed("true", env=environment, check=True)
    assert "FF_MULTI_SC" in done.stderr and "FF_THREAD_SOCKET" in done.stderr


@pytest.mark.parametrize(
    ("flag", "routes", "stack"),
    [
        (0x1000000, "127.0.0.0/8=kernel", True),  # SOCK_FSTACK
        (0, "127.0.0.0/8=kernel", False),
        (0x2000000, "", False),  # SOCK_KERNEL
        (0, "", True),
    ],
)
def test_type_flags(shared_instance: Instance, flag: int, routes: str, stack: bool) -> None:
    code = LISTEN.replace("socket.socket()", f"socket.socket(type=socket.SOCK_STREAM | {flag})")
    process = start(code, **shared_instance.environment(FFLOOP_ROUTES=routes))
    assert process.stdout
    assert shared_instance.holds(int(process.stdout.readline())) == stack
    assert end(process) == ""


DUAL = """
import select, socket, sys, threading
way = sys.argv[1]
s = socket.socket()
ready = lambda: None
if way == 'epoll before':
    ep = select.epoll(); ep.register(s, select.EPOLLIN); ready = lambda: ep.poll(60)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('127.0.0.1', int(sys.argv[2]))); s.listen()
port = s.getsockname()[1]
if way == 'epoll':
    ep = select.epoll(); ep.register(s, select.EPOLLIN | select.EPOLLET)
    ready = lambda: ep.poll(60)
elif way == 'poll':
    po = select.poll(); po.register(s, select.POLLIN); ready = lambda: po.poll(60000)
elif way == 'select':
    ready = lambda: select.select([s], [], [], 60)[0]
if way != 'blocking': s.setblocking(False)
def serve():
    ready()
    x, _ = s.accept()
    print(x.recv(100).decode(), flush=True)
    x.close()
print(port, flush=True)
serve()  # from outside: the kernel's
c = socket.create_connection(('127.0.0.1', port)); c.sendall(b'stack')
serve()
print('again', flush=True)
serve()
"""


@pytest.mark.parametrize("way", ["blocking", "epoll", "epoll before", "poll", "select"])
def test_dual_listen(sim: str, tmp_path: Path, way: str) -> None:
    """A port on the simulated stack and on this kernel."""
    instance = Instance(tmp_path, "--stack", "sim", executable=sim)
    process = start(DUAL, way, unused_port(), **instance.environment(FFLOOP_DUAL_LISTEN="1"))
    assert process.stdout
    port = int(process.stdout.readline())
    with socket.create_connection(("127.0.0.1", port)) as a:
        a.sendall(b"kernel")
        assert [process.stdout.readline() for _ in range(3)] == ["kernel\n", "stack\n", "again\n"]
    with socket.create_connection(("127.0.0.1", port)) as a:
        a.sendall(b"kernel")
        assert process.stdout.readline() == "kernel\n"
    assert end(process) == ""
    instance.stop()


def test_dual_listen_in_a_child(sim: str, tmp_path: Path) -> None:
    instance = Instance(tmp_path, "--stack", "sim", executable=sim)
    code = """
import os, socket, sys
s = socket.socket(); s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen()
print(s.getsockname()[1], flush=True)
if os.fork() == 0:
    x, _ = s.accept(); print(x.recv(100).decode(), flush=True); os._exit(0)
os.wait()
"""
    process = start(code, unused_port(), **instance.environment(FFLOOP_DUAL_LISTEN="1"))
    assert process.stdout
    with socket.create_connection(("127.0.0.1", int(process.stdout.readline()))) as a:
        a.sendall(b"kernel")
        assert process.stdout.readline() == "kernel\n"
    assert end(process) == ""
    instance.stop()


URING = """
import ctypes, errno, sys
c = ctypes.CDLL(None, use_errno=True)
setup, params = 425, ctypes.create_string_buffer(120)
for _ in range(2):
    fd = c.syscall(setup, 4, params)
    print(fd >= 0 or errno.errorcode[ctypes.get_errno()])
"""


def test_another_network_namespace(instance: Instance) -> None:
    """Its sockets are the kernel's, which the log says once; so it is after an exec without any."""
    need("unshare")
    code = "import socket; [socket.socket().connect_ex(('127.0.0.1', 1)) for _ in range(2)]"
    words = ["unshare", "-rn", sys.executable, "-c", code]
    if completed(*words).returncode:
        pytest.skip("this user may not make namespaces")
    done = completed(*words, env=instance.environment(FFLOOP_LOG="info"))
    assert done.stderr.count("in another network namespace") == done.stderr.count("\n") == 1


def test_io_uring_is_not_there(instance: Instance) -> None:
    """Said by name, once, with the way out: what goes through it would see placeholders."""
    done = python(URING, env=instance.environment())
    assert done.stdout.split() == ["ENOSYS", "ENOSYS"]
    assert (done.stderr.count("io_uring,"), done.stderr.count("FFLOOP_IO_URING=1")) == (1, 1)


def test_io_uring_is_the_kernels(instance: Instance) -> None:
    """Where the user says so. (EPERM, ENOSYS: machines that forbid it.)"""
    runs = [instance.environment(FFLOOP_IO_URING="1")]
    runs.append({k: v for k, v in runs[0].items() if k != "LD_PRELOAD"})
    shimmed, native = (python(URING, env=e) for e in runs)
    assert shimmed.stdout == native.stdout
    assert shimmed.stderr.count("FFLOOP_IO_URING=1") == 1


SILENT = """
import select, socket, sys
s = socket.socket()
s.bind(('127.0.0.1', 0))
s.listen(64)
print(s.getsockname()[1], flush=True)
watch = select.epoll()
connections = {}
for _ in range(int(sys.argv[1])):
    c = s.accept()[0]
    connections[c.fileno()] = c
    watch.register(c, select.EPOLLIN)
print('accepted', flush=True)
heard = 0
while heard < len(connections):
    for fd, _ in watch.poll(60) or sys.exit(f'{heard} heard'):
        heard += len(connections[fd].recv(10))
"""


def test_connections_that_are_silent_at_first(instance: Instance) -> None:
    """More than the pool has buffers are accepted before the first of them says anything."""
    environment = instance.environment(FFLOOP_POOL_KIB="64")
    process = start(SILENT, 400, **environment)
    assert process.stdout
    port = int(process.stdout.readline())
    peers = [socket.create_connection(("127.0.0.1", port)) for _ in range(400)]
    assert process.stdout.readline() == "accepted\n"
    for peer in peers:
        peer.sendall(b"x")
    assert end(process) == ""
    for peer in peers:
        peer.close()
