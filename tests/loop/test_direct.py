"""Direct mode: what is seen of it, and what it costs."""

import asyncio
import contextlib
import gc
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest
from common import open_fds
from common.processes import completed

import ffloop
from ffloop._session import stats_page

from .util import HOST, Log, pair, serve

RESET = struct.pack("=ii", 1, 0)


# asyncio and direct mode: what is of the kernel's descriptors.
KERNELS = pytest.mark.parametrize("run_std", ["asyncio", "direct"], indirect=True)


class Echo(Log):
    def data_received(self, data):
        self.transport.write(data)


def children(pid):
    task = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in task.read_text().split()] if task.exists() else []


def test_it_says_so(run_direct, caplog):
    async def main():
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ffloop.Loop)
        assert repr(loop).startswith("<DirectLoop direct stack=host running=True")
        assert loop.instance == ffloop.InstanceInfo("", "host", os.getpid(), True, True)
        assert ffloop.instance() == loop.instance

    with caplog.at_level("DEBUG", "ffloop"):
        run_direct(main())
    (said,) = (line for line in caplog.records if line.name == "ffloop")
    assert said.getMessage() == "using this kernel's sockets directly (stack host)"
    assert said.levelname == "DEBUG"  # a default that changes nothing; asyncio's says its selector


def test_nothing_else_is_there(monkeypatch):
    """No child, no thread, no socket to an instance; and nothing is named or running."""
    monkeypatch.delenv("FFLOOP_INSTANCE", raising=False)

    def there():
        return children(os.getpid()), os.listdir("/proc/self/task")

    before = there()  # what other tests have left

    async def main():
        async with serve(Log), pair():
            assert there() == before
            assert not any("segment" in name for name in open_fds())

    ffloop.run(main())


def test_sockets_are_the_applications_own(run_direct):
    async def main():
        loop = asyncio.get_running_loop()
        sock = ffloop.socket()
        assert type(sock) is socket.socket
        assert sock.gettimeout() == 0
        async with serve(Log) as (server, addr):
            await loop.sock_connect(sock, addr)
            transport, _ = await loop.create_connection(Log, sock=sock)
            inner = transport.get_extra_info("socket")
            assert inner.fileno() == sock.fileno()
            assert type(server.sockets[0]._sock) is socket.socket
            transport.abort()

    run_direct(main())


class Counted(socket.socket):
    """Somebody's own, that knows what passes."""

    def __init__(self, *args, **more):
        self.passed = dict.fromkeys(("accept", "recv", "send"), 0)
        super().__init__(*args, **more)

    def accept(self):
        self.passed["accept"] += 1
        return super().accept()

    def recv(self, *args):
        self.passed["recv"] += 1
        return super().recv(*args)

    def send(self, *args):
        self.passed["send"] += 1
        return super().send(*args)


def test_what_a_class_of_its_own_does_is_done(run_direct, tmp_path):
    file = tmp_path / "sent"
    file.write_bytes(b"x" * 1000)

    async def main():
        loop = asyncio.get_running_loop()
        listener, client, served = Counted(), Counted(), Log()
        listener.bind(("127.0.0.1", 0))
        server = await loop.create_server(lambda: served, sock=listener)
        client.connect(listener.getsockname())
        transport, made = await loop.create_connection(Log, sock=client)
        transport.write(b"ask")
        with file.open("rb") as opened:
            await loop.sendfile(transport, opened)
        assert await served.got(1003) == b"ask" + b"x" * 1000
        served.transport.write(b"answer")
        assert await made.got(6) == b"answer"
        transport.close()
        await asyncio.gather(made.lost, served.lost)
        server.close()
        assert listener.passed["accept"] > 0
        assert client.passed["recv"] > 0
        assert client.passed["send"] > 0

    run_direct(main())


BY_PROTOCOL = """
class Echo(asyncio.Protocol):
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data): self.transport.write(data)
async def serve():
    return await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
"""


BY_STREAMS = """
async def echo(reader, writer):
    while data := await reader.read(100):
        writer.write(data)
        await writer.drain()
async def serve():
    return await asyncio.start_server(echo, "127.0.0.1", 0)
"""


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.parametrize("served", [BY_PROTOCOL, BY_STREAMS], ids=["protocol", "streams"])
def test_a_request_is_three_calls(tmp_path, served):
    """epoll_wait, recv, send: no more, but for spinning."""
    program = f"""
import asyncio, ffloop, sys
{served}
async def main():
    server = await serve()
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
ffloop.run(main(), instance="direct", spin_us=0)
"""
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-o", trace, sys.executable, "-P", "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        if not line:
            pytest.skip("strace may not trace here")
        with socket.create_connection(("127.0.0.1", int(line))) as sock:
            for number in range(4):
                sock.sendall(b"ask %d" % number)
                assert sock.recv(100) == b"ask %d" % number
        process.send_signal(signal.SIGTERM)
        for child in children(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        process.kill()
    words = re.sub(r"^\d+ +", "", trace.read_text(), flags=re.M)
    asked = words[words.index('"ask 1"') : words.index('"ask 3"')]
    calls = re.findall(r"^(?!mmap|munmap|madvise|brk)(\w+)\(", asked, flags=re.M)  # an arena more
    assert calls == ["sendto", "epoll_wait", "recvfrom"] * 2


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_bbr_measures_by_the_first_send_alone(tmp_path):
    """What waits behind it is flushed whole."""
    with socket.create_server((HOST, 0)) as listener, socket.socket() as probe:
        try:
            probe.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
        except OSError:
            pytest.skip("the kernel has no bbr")
        program = f"""
import asyncio, ffloop, socket
async def main():
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, *{listener.getsockname()})
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
    transport.write(bytes(64 << 20))
    transport.close()
    await loop.create_future()
ffloop.run(main(), instance="direct")
"""
        trace = tmp_path / "trace"
        command = ["strace", "-s0", "-o", trace, sys.executable, "-P", "-c", program]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            listener.settimeout(60)
            try:
                peer, _ = listener.accept()
            except TimeoutError:
                pytest.skip("strace may not trace here")
            with peer:
                while peer.recv(1 << 20):
                    pass
            for child in children(process.pid):
                os.kill(child, signal.SIGKILL)
    words = trace.read_text()
    assert words.count('TCP_CONGESTION, "') == 2  # the program's, and one look
    sends = re.findall(r"^send(?:msg|to)\(.* = (-?\d+)", words, flags=re.M)
    assert int(sends[0]) == 64 * 1024
    assert len(sends) > 3


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_a_connection_is_three_calls_of_epoll_ctl(tmp_path):
    """To be told of the connection, then of its data, and of no more; none fails."""
    with socket.create_server((HOST, 0)) as listener:
        program = f"""
import asyncio, ffloop
async def main():
    for _ in range(3):
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(asyncio.Protocol, *{listener.getsockname()})
        transport.close()
        await asyncio.sleep(0.001)
ffloop.run(main(), instance="direct")
"""
        trace = tmp_path / "trace"
        command = ["strace", "-o", trace, sys.executable, "-P", "-c", program]
        done = subprocess.run(command, capture_output=True, check=False)
    if not trace.exists() or "connect(" not in (words := trace.read_text()):
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    last = words[words.rindex("connect(") :]
    fd = re.match(r"connect\((\d+)", last)[1]
    calls = re.findall(rf"^epoll_ctl\(\d+, EPOLL_CTL_(\w+), {fd}, .*= (.*)", last, flags=re.M)
    assert calls == [("ADD", "0"), ("MOD", "0"), ("DEL", "0")]


def test_the_peer_of_the_wildcard(run_direct):
    """Connecting to 0.0.0.0 leads to 127.0.0.1."""

    async def main():
        async with serve() as (_, (_, port)):
            transport, client = await asyncio.get_running_loop().create_connection(
                Log, "0.0.0.0", port
            )
            assert transport.get_extra_info("peername") == ("127.0.0.1", port)
            transport.close()
            await client.lost

    run_direct(main())


def test_a_reset_while_paused_is_told_on_resume(run_direct):
    async def main():
        async with serve() as (_, addr):
            pass
        made = asyncio.get_running_loop().create_future()
        async with serve(lambda: made.set_result(Log()) or made.result()) as (_, addr):
            peer = socket.create_connection(addr)
            protocol = await made
            await protocol.made
            protocol.transport.pause_reading()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            peer.close()
            before = asyncio.get_running_loop().ffloop_stats()["waits"]
            for _ in range(3):
                await asyncio.sleep(0)
            assert protocol.calls == ["made"]
            assert asyncio.get_running_loop().ffloop_stats()["waits"] - before < 10
            protocol.transport.resume_reading()
            assert isinstance(await protocol.lost, ConnectionResetError)

    run_direct(main())


def test_who_only_writes_is_paused_when_that_fails(run_direct):
    """Reading goes on until the end is found; drain() waits for it, and then raises."""

    async def main():
        async with serve(lambda: Closes()) as (_, addr):
            _, writer = await asyncio.open_connection(*addr)
            with pytest.raises(ConnectionError):
                while True:
                    writer.write(b"x" * 1000)
                    await writer.drain()
            writer.close()

    class Closes(asyncio.Protocol):
        def connection_made(self, transport):
            transport.abort()

    run_direct(main())


def test_a_pause_comes_after_the_end(run_direct):
    async def main():
        async with pair() as (client, _):
            client.transport.pause_reading()
            client.transport.close()
            await client.lost
            client.transport.pause_reading()
            client.transport.resume_reading()

    run_direct(main())


@KERNELS
def test_a_connection_does_not_take_a_transports_number(run_std):
    """A program closed a descriptor that a transport has: the next connection says so."""

    async def main():
        loop = asyncio.get_running_loop()
        gc.collect()  # no other descriptor is closed meanwhile
        async with pair() as (client, _):
            fd = client.transport.get_extra_info("socket").fileno()
            kept = os.dup(fd)
            with socket.create_server((HOST, 0)) as listener:
                os.close(fd)
                with pytest.raises(RuntimeError, match="is used by transport"):
                    await loop.create_connection(Log, *listener.getsockname())
            os.dup2(kept, fd, inheritable=False)
            os.close(kept)

    run_std(main())


@KERNELS
def test_a_socket_class_in_the_librarys_place(run_std, monkeypatch):
    """What programs put in socket.socket's place, for a proxy, say, is asked as asyncio asks."""

    class Proxied(socket.socket):
        def __init__(self, family=socket.AF_INET, type=socket.SOCK_STREAM, proto=0, fileno=None):
            if type >= socket.SOCK_NONBLOCK:
                raise ValueError(f"Socket type must be stream or datagram, not {type}")
            super().__init__(family, type, proto, fileno)

        def send(self, data, flags=0):
            sent.append(bytes(data))
            return super().send(data, flags)

    sent: list[bytes] = []

    async def main():
        loop = asyncio.get_running_loop()
        async with serve() as (_, address):
            monkeypatch.setattr(socket, "socket", Proxied)
            transport, log = await loop.create_connection(Log, *address)
            transport.write(b"its own way")
            transport.close()
            await log.lost

    run_std(main())
    assert sent == [b"its own way"]


@pytest.mark.parametrize("how", ["watched", "paused", "half closed"])
def test_descriptors_of_transports_are_not_watched(run_std, how):
    async def main():
        loop = asyncio.get_running_loop()
        async with pair() as (client, server):
            fd = client.transport.get_extra_info("socket").fileno()
            if how == "paused":
                client.transport.pause_reading()
            elif how == "half closed":
                client.keep_open = True
                server.transport.write_eof()
                await client.eof
            for call in (loop.add_reader, loop.add_writer):
                with pytest.raises(RuntimeError, match="is used by transport"):
                    call(fd, print)

    run_std(main())


def test_another_threads_write_is_an_error(run_direct):
    async def main():
        loop = asyncio.get_running_loop()
        async with pair() as (client, server):
            with pytest.raises(RuntimeError, match="call_soon_threadsafe"):
                await loop.run_in_executor(None, client.transport.write, b"x")
            await loop.run_in_executor(None, client.transport.close)
            assert await server.lost is None

    run_direct(main())


def test_twenty_loops_in_twenty_threads(run_direct, no_leaks):
    async def main():
        async with pair() as (client, server):
            for i in range(50):
                client.transport.write(b"x" * 1000)
                await server.got(1000 * (i + 1))

    failed = []

    def one():
        try:
            run_direct(main())
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=one) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    gc.collect()


def test_stat_shows_it(run_direct):
    """Also of a process that is stopped."""
    program = """
import asyncio, ffloop
async def serve(reader, writer):
    await reader.read()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
ffloop.run(main(), instance="direct")
"""
    command = [sys.executable, "-P", "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = int(process.stdout.readline())
            with socket.create_connection(("127.0.0.1", port)) as sock:
                while not stats_page.read(process.pid).totals["accepts"]:
                    time.sleep(0.001)
                process.send_signal(signal.SIGSTOP)
                os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
                stat = [
                    sys.executable,
                    "-P",
                    "-m",
                    "ffloop",
                    "stat",
                    "--json",
                    "--instance",
                    str(process.pid),
                ]
                done = completed(*stat, check=True)
                (one,) = json.loads(done.stdout)["instances"]
                assert (one["path"], one["stack"], one["pid"]) == ("direct", "host", process.pid)
                assert one["totals"]["accepts"] == 1
                assert one["state"] == "stopped"
                sockets = {
                    (s["state"], tuple(s["local"]), tuple(s["peer"] or ())) for s in one["sockets"]
                }
                assert sockets == {
                    ("listening", ("127.0.0.1", port), ()),
                    ("connected", ("127.0.0.1", port), sock.getsockname()),
                }
                everybody = completed(*stat[:-2], check=True)
                found = [each["pid"] for each in json.loads(everybody.stdout)["instances"]]
                assert process.pid in found
        finally:
            process.kill()


@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio does so from Python 3.13 on")
def test_a_unix_servers_file_goes_with_it(run_direct, tmp_path):
    path = tmp_path / "sock"

    async def main():
        server = await asyncio.get_running_loop().create_unix_server(Log, path)
        assert path.exists()
        server.close()
        assert not path.exists()

    run_direct(main())


@pytest.mark.parametrize("given", [str, os.fsencode, pathlib.Path])
def test_a_unix_connection(run_direct, tmp_path, given):
    path = given(tmp_path / "sock")
    served = []

    def serves():
        served.append(Log())
        return served[-1]

    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(FileNotFoundError):
            await loop.create_unix_connection(Log, path)
        with pytest.raises(TypeError, match="family"):
            await loop.create_unix_connection(Log, path, family=0)
        server = await loop.create_unix_server(serves, path)
        with pytest.raises(ZeroDivisionError):  # and leaves no socket, which would be a warning
            await loop.create_unix_connection(lambda: 1 // 0, path)
        transport, protocol = await loop.create_unix_connection(Log, path)
        assert protocol.calls == ["made"]
        assert transport.get_extra_info("peername") == os.fsdecode(path)
        assert transport.get_extra_info("socket").family == socket.AF_UNIX
        transport.close()
        await protocol.lost
        assert len(served) == 2  # the kernel has had both since they were connected
        for each in served:
            await each.lost
        server.close()

    run_direct(main())


@pytest.mark.parametrize("spin_us", [0, "forever", 50], ids=str)
def test_it_spins_as_it_is_told(run_direct, spin_us):
    async def main():
        async with pair(Echo) as (client, _server):
            for number in range(1, 101):
                client.transport.write(b"x")
                await client.got(number)
            return asyncio.get_running_loop().ffloop_stats()

    stats = run_direct(main(), spin_us=spin_us)
    if spin_us == 0:
        assert stats["spins"] == 0
    elif spin_us == "forever":
        assert stats["sleeps"] == 0
        assert stats["spin_hits"] > 0
    else:
        assert 0 < stats["spins"] <= stats["sleeps"] + stats["spin_hits"]


def test_a_spin_without_end_hears_signals(run_direct):
    """Also where the program has a wake-up descriptor of its own."""

    async def main():
        loop = asyncio.get_running_loop()
        heard = loop.create_future()
        before = signal.signal(
            signal.SIGALRM, lambda *_: loop.call_soon_threadsafe(heard.set_result, None)
        )
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        await heard
        signal.signal(signal.SIGALRM, before)

    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        signal.set_wakeup_fd(ours.fileno())
        try:
            run_direct(main(), spin_us="forever")
        finally:
            assert signal.set_wakeup_fd(-1) == ours.fileno()


def test_a_closed_wake_up_descriptor_of_the_programs_own(run_direct):
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        signal.set_wakeup_fd(ours.fileno())
        ours.close()
        try:
            run_direct(asyncio.sleep(0))
        finally:
            signal.set_wakeup_fd(-1)


def test_a_task_is_this_loops(run_direct):
    async def main():
        loop = asyncio.get_running_loop()
        coroutine = asyncio.sleep(0)
        with contextlib.closing(coroutine), pytest.raises(TypeError):
            loop.create_task(coroutine, loop=loop)

    run_direct(main())


def test_an_idle_loop_sleeps(run_direct):
    async def main():
        loop = asyncio.get_running_loop()
        async with pair(), serve(Log):
            before = loop.ffloop_stats()["waits"]
            await asyncio.sleep(0.05)
            assert loop.ffloop_stats()["waits"] - before <= 3

    run_direct(main())
