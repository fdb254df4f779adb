"""The instance's life: embedded, named, wrong, refused, killed and back; forks and leaks."""

import asyncio
import contextlib
import errno
import gc
import logging
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading

import pytest
from common import instances
from common.processes import completed

import ffloop
from ffloop._session import discovery

from .util import HOST, Log, pair, serve, until

pytestmark = pytest.mark.ring


def wait_gone(pid: int) -> None:
    """Until a process that is not our child has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    select.select([fd], [], [])
    os.close(fd)


@pytest.fixture
def alone(monkeypatch):
    """No embedded instance of an earlier test."""
    monkeypatch.delenv(discovery._ENV, raising=False)


@pytest.fixture
def named(tmp_path):
    """Starts instances at one path; the callable returns the process."""
    path = str(tmp_path / "named.sock")
    started = []

    def start(*args):
        started.append(instances.start(path, *args, stderr=subprocess.DEVNULL))
        started[-1].stdout.close()  # tests look for descriptors that are left
        return started[-1]

    start.path = path
    yield start
    for process in started:
        instances.stop(process)


def test_embedded_ends_with_its_last_session(alone, caplog):
    with caplog.at_level(logging.INFO, "ffloop"):
        loop = ffloop.new_event_loop()
    info = loop.instance
    assert info.embedded
    assert info.stack == "host"
    assert f"pid {info.pid}" in caplog.text
    second = ffloop.new_event_loop()
    assert second.instance.pid == info.pid
    loop.close()
    loop.close()
    assert second.instance.pid == info.pid
    second.close()
    wait_gone(info.pid)


def test_embedded_is_in_the_applications_session(alone):
    """The kernel shares CPUs out by session; a terminal's signals go to a process group."""
    loop = ffloop.Loop()
    pid = loop.instance.pid
    assert os.getsid(pid) == os.getsid(0)
    assert os.getpgid(pid) != os.getpgrp()
    loop.close()
    wait_gone(pid)


def test_embedded_ends_after_kill_9(alone):
    code = (
        "import asyncio, ffloop\n"
        "async def main():\n"
        "    server = await asyncio.start_server(print, '127.0.0.1', 0)\n"
        "    print(ffloop.instance().pid, server.sockets[0].getsockname()[1], flush=True)\n"
        "    await server.serve_forever()\n"
        "ffloop.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE) as app:
        pid, port = map(int, app.stdout.readline().split())
        with socket.create_connection((HOST, port)) as client:
            app.kill()
            app.wait()
            client.settimeout(60)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
    wait_gone(pid)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port))


def test_embedded_does_not_hold_the_applications_output(alone):
    """`output=$(app)` must not wait for the instance."""
    code = "import ffloop; ffloop.new_event_loop().close(); print('done')"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True)
    assert done.stdout == b"done\n"
    assert done.stderr == b""


def test_embedded_without_standard_descriptors(alone):
    """A daemon has closed them."""
    code = "import os, ffloop; ffloop.new_event_loop().close(); os._exit(7)"
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-P", "-c", code]
    )
    assert done.returncode == 7


def test_children_find_the_embedded_instance(alone):
    loop = ffloop.new_event_loop()
    code = "import ffloop; loop = ffloop.new_event_loop(); print(loop.instance.pid); loop.close()"
    done = subprocess.run([sys.executable, "-P", "-c", code], stdout=-1, check=True)
    assert int(done.stdout) == loop.instance.pid
    loop.close()


def test_named(named, alone, monkeypatch):
    process = named()
    loop = ffloop.new_event_loop(instance=named.path)
    assert loop.instance.pid == process.pid
    assert not loop.instance.embedded
    loop.close()
    monkeypatch.setenv("FFLOOP_INSTANCE", named.path)
    loop = ffloop.new_event_loop()
    assert loop.instance.path == named.path
    loop.close()


def test_a_running_instance_is_found_at_its_usual_place(tmp_path, alone, monkeypatch):
    # XDG_RUNTIME_DIR is tmp_path in every test.
    (tmp_path / "ffloop").mkdir()
    path = str(tmp_path / "ffloop" / "instance.sock")
    monkeypatch.delenv("FFLOOP_INSTANCE")
    with instances.running(path, stderr=subprocess.DEVNULL) as process:
        loop = ffloop.new_event_loop()
        assert loop.instance.pid == process.pid
        loop.close()
    loop = ffloop.new_event_loop()  # its socket is dead: it does without
    assert loop.instance.direct
    loop.close()


def test_wrong_path(no_leaks, tmp_path):
    with pytest.raises(ffloop.InstanceNotFound, match="ffloop instance") as caught:
        ffloop.new_event_loop(instance=tmp_path / "nothing")
    assert caught.value.errno == errno.ENOENT


def test_dead_path(no_leaks, tmp_path):
    path = str(tmp_path / "dead.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(path)
    with pytest.raises(ffloop.InstanceNotFound, match="no instance listens there") as caught:
        ffloop.new_event_loop(instance=path)
    assert caught.value.errno == errno.ECONNREFUSED


def test_not_a_socket(no_leaks, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ffloop.InstanceError):
        ffloop.new_event_loop(instance=tmp_path / "file")


HELLO = struct.Struct("=QIIII16s")
REPLY = struct.Struct("=QIIiI16s128s")
MAGIC = 0x436B636F534C4646


@contextlib.contextmanager
def impostor(tmp_path, answer):
    """A server that answers one hello with `answer(hello)`."""
    path = str(tmp_path / "impostor.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(path)
        sock.listen()

        def serve_one():
            peer, _ = sock.accept()
            with peer:
                peer.send(answer(peer.recv(1000)))

        thread = threading.Thread(target=serve_one)
        thread.start()
        yield path
        thread.join()


@pytest.mark.parametrize(
    ("status", "version", "error", "words"),
    [
        (1, 99, ffloop.VersionMismatch, "same ffloop version"),
        (2, 1, ffloop.InstanceRefused, "as a user"),
        (3, 1, ffloop.InstanceRefused, "sessions"),
    ],
)
def test_refusals(no_leaks, tmp_path, status, version, error, words):
    def answer(hello):
        magic, own, *_ = HELLO.unpack(hello)
        return REPLY.pack(magic, version if status == 1 else own, status, 1, 0, b"host", b"no")

    with impostor(tmp_path, answer) as path:
        with pytest.raises(error, match=words):
            ffloop.new_event_loop(instance=path)


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n", b"x" * 168, b"\0"])
def test_garbage(no_leaks, tmp_path, garbage):
    with impostor(tmp_path, lambda hello: garbage) as path:
        with pytest.raises(ffloop.ProtocolError, match=r"ffloop instance"):
            ffloop.new_event_loop(instance=path)


def test_stack_is_insisted_on(named, alone, no_leaks):
    with pytest.raises(ffloop.StackUnavailable, match="ffloop instance --stack fstack"):
        ffloop.new_event_loop(stack="fstack")
    named()
    with pytest.raises(ffloop.StackUnavailable, match="runs 'host'"):
        ffloop.new_event_loop(instance=named.path, stack="fstack")


def test_missing_executable(alone, monkeypatch, no_leaks):
    monkeypatch.setenv("FFLOOP_INSTANCE_EXECUTABLE", "/nowhere/ffloop-instance")
    with pytest.raises(ffloop.InstanceNotFound, match="reinstall"):
        ffloop.new_event_loop()


def test_killed_in_the_middle(named, no_leaks):
    """Connections are lost, waiting calls fail, new ones fail clearly; then it listens again."""

    async def main():
        loop = asyncio.get_running_loop()
        process = named.process
        made = []
        server = await loop.create_server(lambda: made.append(Log()) or made[-1], HOST, 0)
        addr = server.sockets[0].getsockname()
        transport, client = await loop.create_connection(Log, *addr)
        await until(lambda: made)
        raw = ffloop.socket()
        await loop.sock_connect(raw, addr)
        waiting = asyncio.create_task(loop.sock_recv(raw, 10))
        await asyncio.sleep(0)
        transport.write(b"x" * 100)
        process.kill()
        await asyncio.to_thread(process.wait)
        for protocol in (client, made[0]):
            exc = await protocol.lost
            assert isinstance(exc, ConnectionResetError)
            assert isinstance(exc, ffloop.InstanceError)
            assert exc.errno == errno.ECONNRESET
            assert "instance ended" in str(exc)
        with pytest.raises(ConnectionResetError):
            await waiting
        transport.write(b"ignored")
        with pytest.raises(ConnectionResetError, match="instance ended"):
            await loop.create_connection(Log, *addr)
        assert server.is_serving()
        assert server.sockets[0].getsockname() == addr
        raw.close()

        process = await asyncio.to_thread(named)

        async def again():
            while True:
                try:
                    return await loop.create_connection(Log, *addr)
                except ConnectionError:
                    await asyncio.sleep(0.01)

        transport, client = await again()
        assert loop.instance.pid == process.pid
        await until(lambda: len(made) >= 3)
        transport.write(b"back")
        assert await made[-1].got(4) == b"back"
        transport.abort()
        await client.lost
        server.close()

    named.process = named()
    ffloop.run(main(), instance=named.path)


def test_embedded_is_started_again(alone, caplog):
    async def main():
        loop = asyncio.get_running_loop()
        async with serve() as (_, addr):
            first = loop.instance.pid
            os.kill(first, signal.SIGKILL)
            while True:
                try:
                    transport, client = await loop.create_connection(Log, *addr)
                except ConnectionError:
                    await asyncio.sleep(0.001)
                    continue
                if loop.instance.pid != first:
                    break
                await client.lost
            transport.abort()
            await client.lost

    with caplog.at_level(logging.INFO, "ffloop"):
        ffloop.run(main())
    assert "ended" in caplog.text
    assert "listening again" in caplog.text


def test_without_reconnect(named):
    process = named()
    loop = ffloop.new_event_loop(instance=named.path, reconnect=False)
    process.kill()
    process.wait()

    async def down():
        await until(lambda: not loop._session.attached)
        with pytest.raises(ConnectionResetError, match="instance ended"):
            await loop.create_connection(Log, HOST, 1)

    loop.run_until_complete(down())
    loop.close()


def test_a_forked_child_cannot_disturb_the_parent(alone):
    async def main():
        async with pair() as (client, server):
            pid = os.fork()
            if pid == 0:
                # The child has the parent's transports, and they are dead here.
                try:
                    client.transport.write(b"from the child")
                    client.transport.abort()
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            client.transport.write(b"from the parent")
            assert await server.got(15) == b"from the parent"

    ffloop.run(main())


def test_a_forked_child_makes_its_own_loop(alone):
    async def echo():
        async with pair() as (client, server):
            client.transport.write(b"x")
            assert await server.got(1) == b"x"

    parent = ffloop.new_event_loop()
    parent.run_until_complete(echo())
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.events._set_running_loop(None)
            ffloop.run(echo())
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    parent.run_until_complete(echo())
    parent.close()


def test_loops_leave_no_descriptor(alone, no_leaks):
    async def main():
        async with pair() as (client, server):
            client.transport.get_extra_info("socket").fileno()
            client.transport.write(b"x")
            assert await server.got(1) == b"x"

    for _ in range(20):
        ffloop.run(main())


def test_out_of_descriptors(alone, no_leaks, monkeypatch):
    """Wherever they end while a loop is made: an OSError, and nothing half done."""
    monkeypatch.setattr(sys, "unraisablehook", lambda args: failures.append(args.exc_value))
    failures, refused, made = [], 0, 0
    keep = ffloop.new_event_loop()  # and its instance
    used = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    fill = [os.open("/dev/null", os.O_RDONLY) for _ in range(top + 1 - used)]
    try:
        for extra in range(24):
            resource.setrlimit(resource.RLIMIT_NOFILE, (top + 2 + extra, hard))
            try:
                ffloop.new_event_loop().close()
            except OSError:
                refused += 1
            else:
                made += 1
            gc.collect()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fill:
            os.close(fd)
        keep.close()
    assert failures == []
    assert refused > 3
    assert made > 3


SUBREAPER = """
import ctypes, os, pathlib, ffloop

assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER

async def main():
    import asyncio
    return asyncio.get_running_loop().instance.pid

def state(pid):
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

pids = []
for _ in range(3):
    pids.append(ffloop.run(main(), instance="spawn"))
    while state(pids[-1]) != "Z":
        pass
print([pathlib.Path(f"/proc/{pid}").exists() for pid in pids])
"""


def test_process_1_keeps_no_instances_that_ended():
    """Embedded instances detach themselves: process 1 becomes their parent. In a container without
    an init that is the application."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("FFLOOP_")}
    command = [sys.executable, "-P", "-c", SUBREAPER]
    done = completed(*command, env=env)
    assert done.stdout == "[False, False, True]\n", done.stderr
