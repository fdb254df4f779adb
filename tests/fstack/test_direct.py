"""F-Stack in the application's own process: what only that way shows."""

import asyncio
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest
from loop.util import Log

import ffloop
from fstack import net

PORT = 8093


# ---- the process ----


def alone(fstack_net, script, *, environ=None):
    """Runs a script in the stack's namespace, with OPTIONS there: its standard output."""
    head = f"import ffloop\nOPTIONS = {net.DIRECT!r}\n"
    command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-P", "-c", head + script]
    with net.within(fstack_net.stack):
        done = subprocess.run(
            command, stdout=-1, stderr=-1, text=True, timeout=60, check=False,
            env=os.environ | (environ or {}),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize(
    ("fstack", "words"),
    [
        ("", "needs --conf FILE"),
        ("--iface nothere0 --addr 10.0.0.2/24", "no interface 'nothere0'"),
        ("--iface stack0 --addr x", "--addr takes A.B.C.D/BITS"),
        ("--colour red", "no option 'colour=red'"),
        ("iface stack0", "expected --OPTION VALUE"),
    ],
)
def test_options_that_cannot_be(fstack_net, fstack, words):
    """Told before F-Stack begins, so the next try may be right."""
    script = f"""
for options in {{"fstack": {fstack!r}}}, {{}}:
    try:
        ffloop.new_event_loop(**(OPTIONS | options)).close()
        print("well")
    except (ValueError, OSError) as exc:
        print(type(exc).__name__, exc)
"""
    said = alone(fstack_net, script).splitlines()
    assert words in said[0]
    assert said[1] == "well"


def test_a_start_that_fails(fstack_net):
    """DPDK ends a process that cannot start; here it is an exception, and for good."""
    script = """
for _ in range(2):
    try:
        ffloop.new_event_loop(**OPTIONS | {"fstack": OPTIONS["fstack"] + " --eal --nonsense"})
    except OSError as exc:
        print(exc)
"""
    first, again = alone(fstack_net, script).splitlines()
    assert "could not start" in first and "docs/fstack.md" in first
    assert "not tried twice" in again


def refused(**options):
    with pytest.raises((OSError, ValueError)) as caught:
        ffloop.new_event_loop(**options)
    return str(caught.value)


def elsewhere(call):
    """What a call in another thread raises."""
    said = []

    def make():
        try:
            call()
        except Exception as exc:
            said.append(str(exc))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return said[0]


def test_another_loop(on_fstack_direct):
    """One at a time, with the same options; then the next."""
    loop = ffloop.new_event_loop()
    assert "another loop of this process" in refused()
    loop.close()
    assert "with other options" in refused(fstack=f"{net.DIRECT['fstack']} --eal -v")
    ffloop.run(asyncio.sleep(0))


def test_another_thread(on_fstack_direct):
    assert "belongs to the thread that started it" in elsewhere(ffloop.new_event_loop)
    loop = ffloop.new_event_loop()
    assert "belongs to the thread that made the loop" in elsewhere(loop.close)
    assert "belongs to the thread that made the loop" in elsewhere(loop.run_forever)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_a_fork(on_fstack_direct):
    """It has nothing of the parent's, and takes nothing away."""
    loop = ffloop.new_event_loop()
    if (pid := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            loop.close()
            os._exit(0 if "a fork of one where F-Stack runs" in refused() else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


# ---- the loop ----


def test_again_and_again(on_fstack_direct):
    """The loop runs, and what ends it comes out of it, as often as one likes; connections stay."""
    made = []
    loop = ffloop.new_event_loop()
    server = loop.run_until_complete(
        loop.create_server(lambda: made.append(Log()) or made[-1], net.STACK, 0)
    )

    def raises(exc):
        raise exc

    async def ask(sock, n):
        sock.send(b"%d" % n)
        await made[-1].got(n + 1)

    peer = loop.run_until_complete(asyncio.to_thread(
        socket.create_connection, server.sockets[0].getsockname()))  # fmt: skip
    for n in range(3):
        for exc in (KeyboardInterrupt(), SystemExit(3)):
            loop.call_soon(raises, exc)
            with pytest.raises(type(exc)):
                loop.run_forever()
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.run_until_complete(ask(peer, n))
    assert bytes(made[0].data) == b"012"
    peer.close()
    loop.run_until_complete(made[0].lost)
    server.close()
    loop.close()


def test_signals(on_fstack_direct):
    """A handler of Python's and the loop's own, while nothing else happens."""

    async def main():
        loop = asyncio.get_running_loop()
        told = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, told.set_result, "by the loop")
        os.kill(os.getpid(), signal.SIGUSR1)
        assert await told == "by the loop"
        loop.remove_signal_handler(signal.SIGUSR1)
        plain = asyncio.Event()
        before = signal.signal(signal.SIGUSR2, lambda *_: plain.set())
        os.kill(os.getpid(), signal.SIGUSR2)
        await plain.wait()
        signal.signal(signal.SIGUSR2, before)

    ffloop.run(main())
    with pytest.raises(KeyboardInterrupt):
        ffloop.run(interrupted())
    assert signal.set_wakeup_fd(-1) == -1  # what told the loop of signals is closed


async def interrupted():
    threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start()
    await asyncio.Event().wait()


def test_a_thread_that_computes(on_fstack_direct):
    """It has the interpreter meanwhile, and the stack works on: a loop that had something to look
    for in Python would wait for it with its stack, each time for 5 ms."""

    def compute():
        total = 0
        for i in range(5_000_000):
            total += i

    async def main():
        loop = asyncio.get_running_loop()
        before = sum(loop.ffloop_lag().iterations.values())
        await asyncio.to_thread(compute)
        return sum(loop.ffloop_lag().iterations.values()) - before

    assert ffloop.run(main()) < 10


def test_the_kernels_own(on_fstack_direct, tmp_path):
    """Executors, subprocesses, unix sockets and pipes, while a peer keeps the stack busy."""

    async def main():
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(echo, net.STACK, 0)
        address = server.sockets[0].getsockname()
        ended = threading.Event()
        busy = loop.run_in_executor(None, keep_busy, address, ended)
        assert await asyncio.to_thread(sum, range(10)) == 45
        process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        assert await process.communicate(b"through a pipe") == (b"through a pipe", None)
        local = await asyncio.start_unix_server(echo, tmp_path / "unix")
        reader, writer = await asyncio.open_unix_connection(tmp_path / "unix")
        for _ in range(100):
            writer.write(b"unix")
            assert await reader.readexactly(4) == b"unix"
        writer.close()
        ended.set()
        assert await busy > 0
        local.close()
        server.close()

    ffloop.run(main())


async def echo(reader, writer):
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()


def keep_busy(address, ended):
    count = 0
    with socket.create_connection(address, 10) as peer:
        while not ended.is_set():
            peer.sendall(b"?")
            assert peer.recv(1) == b"?"
            count += 1
    return count


def test_what_was_written_is_sent(on_fstack_direct):
    """A loop that is closed at once after the last write: the peer gets all of it, and the end."""
    size = 3_000_000
    got = []

    def read(listener):
        with listener, listener.accept()[0] as peer:
            total = 0
            while data := peer.recv(1 << 16):
                total += len(data)
            got.append(total)

    async def main(address):
        _, writer = await asyncio.open_connection(*address)
        for _ in range(size // 1000):
            writer.write(b"x" * 1000)
        await writer.drain()
        while writer.transport.get_write_buffer_size():
            await asyncio.sleep(0)
        writer.close()

    listener = socket.create_server((net.PEER, 0))
    thread = threading.Thread(target=read, args=(listener,))
    thread.start()
    ffloop.run(main(listener.getsockname()))
    thread.join(20)
    assert got == [size]


# ---- ffloop run ----

WORKER = f"""
import asyncio, os, signal

async def serve(reader, writer):
    await reader.readexactly(1)
    writer.write(b"%d %d " % (int(os.environ["FF_PROC_ID"]), os.getpid()))
    writer.write(b"%d" % min(os.sched_getaffinity(0)))
    writer.close()

async def main():
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    server = await asyncio.start_server(serve, "{net.STACK}", {PORT})
    print("serves", flush=True)
    await ended.wait()

asyncio.run(main())
"""


@pytest.fixture
def workers(fstack_net, tmp_path):
    """start(count, grace): `ffloop run --direct` on a net_tap port of its own, serving."""
    prefix, namespace = f"ffloop-test-direct-{os.getpid()}", net._new_namespace()
    (tmp_path / "app.py").write_text(WORKER)
    started = []

    def start(count, grace=0):
        config = tmp_path / "config.ini"
        config.write_text(net.config((1 << count) - 1, f"idle_sleep=20\nfile_prefix={prefix}"))
        fstack = f"--conf {config} --eal '--no-pci --vdev=net_tap0,iface=tap0'"
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-P", "-m", "ffloop", "run"]
        command += ["--stack", "fstack", "--direct", "--fstack", fstack]
        command += [f"--workers={count}", f"--grace={grace}"]
        with net.within(namespace), (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen([*command, str(tmp_path / "app.py")], stdout=-1, stderr=log)
            started.append(process)
            assert process.stdout.readline() == b"serves\n"
            net.run(*["ip", "link", "set", "tap0", "address", "02:00:00:00:00:01", "up"])
            net.run(*f"ip addr add {net.PEER}/24 dev tap0".split())
        for _ in range(1, count):
            assert process.stdout.readline() == b"serves\n"
        return process, namespace

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
    os.close(namespace)
    for path in pathlib.Path("/dev/hugepages").glob(f"*{prefix}*"):
        path.unlink()
    shutil.rmtree(f"/var/run/dpdk/container-{prefix}", ignore_errors=True)


def answers(namespace, count):
    """What `count` connections are told: {worker: (its pid, its CPU)}."""
    told = {}
    with net.within(namespace):
        for _ in range(count):
            with socket.create_connection((net.STACK, PORT), 10) as sock:
                sock.sendall(b"?")
                number, pid, cpu = (int(n) for n in sock.makefile("rb").read().split())
                told[number] = pid, cpu
    return told


@pytest.mark.skipif(os.cpu_count() < 2, reason="an lcore for each of two processes")
def test_workers(workers):
    """A primary and a secondary, a CPU each, one port; SIGTERM ends both well."""
    process, namespace = workers(2)
    told = answers(namespace, 100)
    assert set(told) == {0, 1}
    assert len(set(told.values())) == 2
    assert {cpu for _, cpu in told.values()} == {0, 1}
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def test_a_reload_answers_what_is_under_way(workers):
    """By the worker that has retired; then another has the stack."""
    process, namespace = workers(1, grace=3)
    with net.within(namespace), socket.create_connection((net.STACK, PORT), 10) as sock:
        process.send_signal(signal.SIGHUP)
        with contextlib.suppress(ConnectionRefusedError):
            while True:  # until it has retired; what it had not accepted by then is reset
                with contextlib.suppress(ConnectionResetError):
                    socket.create_connection((net.STACK, PORT), 10).close()
        sock.sendall(b"?")
        _, old, _ = sock.makefile("rb").read().split()
    assert int(old) != process.pid
    assert process.stdout.readline() == b"serves\n"
    process.terminate()
    assert process.wait(60) == 0
