"""Who may use a loop's session, and its end: every way to lose it, whoever waits on it."""

import asyncio
import contextlib
import errno
import gc
import logging
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import warnings

import pytest
from common.processes import completed

import ffloop
from ffloop._session import discovery, ownership
from ffloop._session.native import ffi, lib

from .util import HOST, Log, pair, serve, until

pytestmark = pytest.mark.ring


@pytest.fixture
def instance(tmp_path):
    """Starts instances at one path; the callable returns the process."""
    path = str(tmp_path / "instance.sock")
    started = []

    def start(*args):
        process = subprocess.Popen(
            [discovery.executable(), "--socket", path, *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        assert process.stdout.readline().startswith(b"ffloop instance ready")
        return process

    start.path = path
    yield start
    for process in started:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        process.stdout.close()


async def in_thread(call):
    """call() in a thread: its result, or its exception."""
    try:
        return await asyncio.to_thread(call)
    except Exception as exc:
        return exc


# ---- another thread --------------------------------------------------------------------------


def test_reads_from_another_thread(run_std):
    async def main():
        async with pair() as (client, server):
            transport = client.transport
            sock = transport.get_extra_info("socket")
            assert await in_thread(sock.getpeername) == server.transport.get_extra_info("sockname")
            assert await in_thread(sock.getsockname) == transport.get_extra_info("sockname")
            assert await in_thread(sock.fileno) == sock.fileno() >= 0
            nodelay = (socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert await in_thread(lambda: sock.getsockopt(*nodelay)) == 1

    run_std(main())


def test_many_reads_beside_traffic(run_ff):
    """Each is made by the loop's thread; natively the kernel has its locks."""

    async def main():
        async with pair() as (client, server):
            sock = client.transport.get_extra_info("socket")
            read = lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)  # noqa: E731
            reads = asyncio.gather(
                *(asyncio.to_thread(lambda: [read() for _ in range(100)]) for _ in range(2))
            )
            for count in range(1, 201):
                client.transport.write(b"x" * 1000)
                await server.got(1000 * count)
            for found in await reads:
                assert len(found) == 100
                assert min(found) > 0

    run_ff(main())


@pytest.mark.parametrize("backlog", [False, True])
def test_a_write_from_another_thread_is_refused(run_ff, backlog):
    """Not one byte of it is sent, none of another's is lost, and the error says what to do."""

    async def main():
        async with pair() as (client, server):
            transport = client.transport
            size = 8 << 20 if backlog else 1
            if backlog:
                server.transport.pause_reading()
            transport.write(b"a" * size)
            for call in (
                lambda: transport.write(b"b"),
                lambda: transport.writelines([b"b", b"b"]),
                transport.write_eof,
                transport.pause_reading,
                lambda: transport.get_extra_info("socket").setsockopt(6, 1, 1),
            ):
                exc = await in_thread(call)
                assert isinstance(exc, RuntimeError)
                assert "call_soon_threadsafe" in str(exc)
            if backlog:
                server.transport.resume_reading()
            transport.write(b"c")
            assert await server.got(size + 1) == b"a" * size + b"c"

    run_ff(main())


@pytest.mark.parametrize("paused", [False, True])
def test_a_file_from_another_thread_is_refused(run_ff, tmp_path, paused):
    (tmp_path / "file").write_bytes(b"bytes")

    async def main():
        loop = asyncio.get_running_loop()
        async with pair() as (client, server):
            if paused:
                client.transport.pause_reading()
            with (tmp_path / "file").open("rb") as file:
                send = lambda: asyncio.run(loop.sendfile(client.transport, file))  # noqa: E731
                exc = await in_thread(send)
            assert isinstance(exc, RuntimeError)
            assert "call_soon_threadsafe" in str(exc)
            client.transport.write(b"a")
            assert await server.got(1) == b"a"

    run_ff(main())


def test_a_datagram_from_another_thread_is_refused(run_ff):
    """And the transport lives on."""

    async def main():
        loop = asyncio.get_running_loop()
        heard = loop.create_future()

        class Box(asyncio.DatagramProtocol):
            def datagram_received(self, data, addr):
                heard.set_result(data)

        there, _ = await loop.create_datagram_endpoint(Box, local_addr=(HOST, 0))
        here, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=there.get_extra_info("sockname")
        )
        exc = await in_thread(lambda: here.sendto(b"a"))
        assert isinstance(exc, RuntimeError)
        assert "call_soon_threadsafe" in str(exc)
        assert not here.is_closing()
        here.sendto(b"b")
        assert await heard == b"b"
        here.close()
        there.close()

    run_ff(main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_close_from_another_thread_is_passed_on(run_std, how):
    async def main():
        async with pair() as (client, server):
            await in_thread(getattr(client.transport, how))
            asyncio.get_running_loop().call_soon(int)  # asyncio's own is not woken by it
            assert await client.lost is None
            await server.lost

    run_std(main())


def test_a_loop_that_changes_its_thread(run_ff):
    """Made here, run there, then here again: the one that runs it may use it."""
    loop = run_ff.factory()

    async def main():
        async with pair() as (client, server):
            client.transport.write(b"x")
            assert await server.got(1) == b"x"
            return threading.get_ident()

    with pytest.raises(TypeError):
        loop.run_until_complete(None)
    ran = []
    thread = threading.Thread(target=lambda: ran.append(loop.run_until_complete(main())))
    thread.start()
    thread.join()
    assert ran == [thread.ident]
    assert loop.run_until_complete(main()) == threading.get_ident()
    loop.close()


def test_whose_a_new_socket_is():
    """The newest of this thread's loops that is open, not the newest that there was."""
    older, newer = ffloop.new_event_loop(), ffloop.new_event_loop()
    with ffloop.socket() as sock:
        assert sock._ep().session is newer._session
    newer.close()
    with ffloop.socket() as sock:
        assert sock._ep().session is older._session
    older.close()
    with ffloop.socket() as sock:
        assert not sock._ep().session.of_loop
    ownership.end()


# ---- descriptors -----------------------------------------------------------------------------


def test_a_dup_of_a_transports_socket_is_watched(run_std):
    """The transport's own number is not."""

    async def main():
        loop = asyncio.get_running_loop()
        async with pair() as (client, server):
            sock = client.transport.get_extra_info("socket")
            other = sock.dup()
            for add in (loop.add_reader, loop.add_writer):
                with pytest.raises(RuntimeError, match="transport"):
                    add(sock.fileno(), print)
            writable, readable = loop.create_future(), loop.create_future()
            loop.add_writer(other.fileno(), lambda: writable.done() or writable.set_result(None))
            await writable
            assert loop.remove_writer(other.fileno())
            assert not loop.remove_writer(other.fileno())
            client.transport.pause_reading()
            loop.add_reader(other.fileno(), lambda: readable.done() or readable.set_result(None))
            server.transport.write(b"x")
            await readable
            assert loop.remove_reader(other.fileno())
            other.close()
            client.transport.resume_reading()
            assert await client.got(1) == b"x"

    run_std(main())


def test_a_closed_sockets_number_is_another_files(run_ff):
    """The library's descriptor left the loop's selector before it was closed."""

    async def main():
        loop = asyncio.get_running_loop()
        async with serve() as (_, addr):
            sock = ffloop.socket()
            await loop.sock_connect(sock, addr)
            number = sock.fileno()
            loop.add_reader(sock, print)
            sock.close()
            read, write = os.pipe()
            if read != number:
                os.dup2(read, number)
                os.close(read)
            got = loop.create_future()
            loop.add_reader(number, lambda: got.done() or got.set_result(os.read(number, 1)))
            os.write(write, b"x")
            assert await got == b"x"
            loop.remove_reader(number)
            os.close(number)
            os.close(write)

    run_ff(main())


def test_a_number_from_before_sock_connect(run):
    """A reader on it hears of data, and of nothing before."""

    async def main():
        loop = asyncio.get_running_loop()
        seen = []
        async with serve(lambda: seen.append(Log()) or seen[-1]) as (_, addr):
            with socket.socket() as sock:
                sock.setblocking(False)
                number = sock.fileno()
                await loop.sock_connect(sock, addr)
                calls, data = [], loop.create_future()

                def ready():
                    calls.append(1)
                    if not data.done():
                        data.set_result(sock.recv(10))

                loop.add_reader(number, ready)
                await until(lambda: seen and seen[0].transport)
                for _ in range(20):
                    await asyncio.sleep(0)
                assert not calls
                seen[0].transport.write(b"x")
                assert await data == b"x"
                loop.remove_reader(number)

    run(main())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_is_collected_unclosed_is_closed(run_ff):
    """Also where a ResourceWarning is an error; and its handle's next owner has news of its own."""

    async def main():
        loop = asyncio.get_running_loop()
        async with serve() as (_, addr):
            before = loop.ffloop_stats()["app_sockets"]
            with warnings.catch_warnings():
                warnings.simplefilter("error", ResourceWarning)
                for make in (ffloop.socket, socket.socket):
                    sock = make()
                    sock.setblocking(False)
                    await loop.sock_connect(sock, addr)
                    del sock
                gc.collect()
            await until(lambda: loop.ffloop_stats()["app_sockets"] <= before + 2)
            assert loop.ffloop_stats()["app_sockets"] >= before

    run_ff(main())


def test_a_watch_of_a_collected_socket_is_gone():
    listener = socket.create_server((HOST, 0))
    kq = ffloop.Kqueue()
    sock = ffloop.socket()
    with pytest.raises(BlockingIOError):
        sock.connect(listener.getsockname())
    number = sock.fileno()
    kq.control([ffloop.kevent(number, ffloop.KQ_FILTER_READ)], 0)
    kq.control([ffloop.kevent(number, ffloop.KQ_FILTER_READ, ffloop.KQ_EV_ENABLE)], 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del sock
        gc.collect()
    kq.control(None, 1, 0)
    with pytest.raises(FileNotFoundError):  # its filter is not there any more
        kq.control([ffloop.kevent(number, ffloop.KQ_FILTER_READ, ffloop.KQ_EV_ENABLE)], 0)
    kq.close()
    listener.close()
    ownership.end()


def test_no_garbage_of_a_refused_connect(run_std):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket() as free:
            free.bind((HOST, 0))
            gc.collect()
            gc.disable()
            try:
                for _ in range(20):
                    with pytest.raises(ConnectionRefusedError):
                        await loop.create_connection(Log, *free.getsockname())
                assert gc.collect() < 20
                for _ in range(20 if run_std.by_ring else 0):
                    with pytest.raises(OSError, match="address"):
                        await loop.create_datagram_endpoint(Log, local_addr=("192.0.2.1", 0))
                assert gc.collect() < 20
            finally:
                gc.enable()

    if run_std.name == "ffloop":  # asyncio's own has a cycle in some versions
        run_std(main())


# ---- its end ---------------------------------------------------------------------------------


def kill(process, session):
    process.kill()


def stop(process, session):
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)


def break_the_protocol(process, session):
    # The instance lives, and ends this session: its word, not a guess, is what is said.
    client = session.client
    at = ffi.offsetof("struct ffl_segment", "ring") + ffi.sizeof("struct ffl_ring_ctl")
    with mmap.mmap(lib.ffl_client_memfd(client.c), lib.ffl_client_size(client.c)) as memory:
        memory[at : at + 4] = struct.pack("=I", 0x7FFFFFFF)  # buffers given back: too many
    with pytest.raises(ConnectionResetError):
        client.ping()


async def connects(made, address):
    """A connection comes at `address`, whose server puts its protocols into `made`; both end."""
    peer, _ = await asyncio.get_running_loop().create_connection(Log, *address)
    await until(lambda: made)
    peer.abort()
    await made[-1].lost


ENDS = [
    (kill, "the instance ended"),
    (stop, "the instance was stopped"),
    (break_the_protocol, "a receive buffer came back that was not out"),
]


@pytest.mark.parametrize(("how", "why"), ENDS)
def test_everybody_learns_of_the_end(instance, caplog, how, why, tmp_path):
    """Transports, calls that wait, readers, writers and a listener: in one way, with the reason."""
    caplog.set_level(logging.INFO, logger="ffloop")
    process = instance()

    async def main():
        loop = asyncio.get_running_loop()
        told, made = [], []
        with socket.create_server((HOST, 0)) as listener, (tmp_path / "file").open("wb+") as file:
            file.truncate(64 << 20)  # more than the kernel's buffers
            address = listener.getsockname()
            server = await loop.create_server(lambda: made.append(Log()) or made[-1], HOST, 0)
            served = server.sockets[0]
            number = served.fileno()
            transport, protocol = await loop.create_connection(Log, *address)
            transport.write(b"x" * (16 << 20))
            waits, reads, full = ffloop.socket(), ffloop.socket(), ffloop.socket()
            for sock in (waits, reads, full):
                await loop.sock_connect(sock, address)
            waiting = asyncio.create_task(loop.sock_recv(waits, 1))
            sends, _ = await loop.create_connection(Log, *address)
            sending = asyncio.create_task(loop.sendfile(sends, file))
            await until(lambda: sends._flushing is not None and not sends._flushing.done())
            with pytest.raises(BlockingIOError):
                while True:
                    full.send(b"x" * 65536)

            def tell(what, sock, call):
                try:
                    call()
                except BlockingIOError:
                    return
                except OSError as exc:
                    told.append((what, exc))
                    loop.remove_reader(sock)
                    loop.remove_writer(sock)

            loop.add_reader(reads.fileno(), tell, "reader", reads, lambda: reads.recv(1))
            loop.add_writer(full.fileno(), tell, "writer", full, lambda: full.send(b"x" * 65536))
            await asyncio.sleep(0)
            how(process, loop._session)
            exc = await protocol.lost
            await until(lambda: len(told) == 2)
            with pytest.raises(ConnectionResetError, match=why):
                await waiting
            with pytest.raises(ffloop.InstanceError, match=why):
                await sending
            assert sorted(what for what, _ in told) == ["reader", "writer"]
            for each in (exc, *(each for _, each in told)):
                assert isinstance(each, ffloop.InstanceError)
                assert each.errno == errno.ECONNRESET
                assert why in str(each)
            if how is not break_the_protocol:
                await asyncio.to_thread(process.wait)
                await asyncio.to_thread(instance)
            await until(lambda: loop._session.attached)
            for sock in (waits, reads, full):
                with pytest.raises(ffloop.InstanceError, match=why):  # also from now on
                    sock.recv(1)
                sock.close()
            await until(lambda: served._sock._ep().live)
            assert served.fileno() == number
            await connects(made, served.getsockname())
            server.close()

    ffloop.run(main(), instance=instance.path)
    assert why in caplog.text
    assert "listening again on" in caplog.text


def test_the_counters_of_a_lost_session(instance):
    process = instance()

    async def main():
        loop = asyncio.get_running_loop()
        process.kill()
        await until(lambda: not loop._session.attached)
        with pytest.raises(ffloop.InstanceGone, match="the instance ended"):
            loop.ffloop_stats()

    ffloop.run(main(), instance=instance.path, reconnect=False)


def test_a_writer_finds_the_end_before_the_loop_does(instance):
    """Its callback's own send does; then it is called once more, as after a reset."""
    process = instance()

    async def main():
        loop, calls, reported = asyncio.get_running_loop(), [], []
        loop.set_exception_handler(lambda _, context: reported.append(context))
        with socket.create_server((HOST, 0)) as listener, ffloop.socket() as sock:
            await loop.sock_connect(sock, listener.getsockname())

            def send():
                calls.append(sock)
                kill(process, loop._session)
                process.wait()
                with pytest.raises(ffloop.InstanceGone):
                    while True:
                        with contextlib.suppress(BlockingIOError):
                            sock.send(b"x")

            loop.add_writer(sock, send)
            await until(lambda: len(calls) > 1)
            loop.remove_writer(sock)
            assert not reported

    ffloop.run(main(), instance=instance.path, reconnect=False)


@pytest.mark.parametrize("kind", ["datagram", "stream", "accepted"])
def test_a_protocol_finds_the_end_before_the_loop_does(instance, kind):
    """In connection_made: whoever makes the transport waits no longer, and it is lost as others."""
    process = instance()

    async def main():
        loop, reported = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda _, context: reported.append(context))
        lost = loop.create_future()

        class Finds(asyncio.BaseProtocol):
            def connection_made(self, transport):
                kill(process, loop._session)
                process.wait()
                with pytest.raises(ffloop.InstanceGone):
                    loop._session.client.ping()

            def connection_lost(self, exc):
                lost.set_result(exc)

        with socket.create_server((HOST, 0)) as listener, contextlib.ExitStack() as peers:
            if kind == "datagram":
                await loop.create_datagram_endpoint(Finds, (HOST, 0))
            elif kind == "stream":
                with contextlib.suppress(ffloop.InstanceGone):
                    await loop.create_connection(Finds, *listener.getsockname())
            else:
                server = await loop.create_server(Finds, HOST, 0)
                peers.enter_context(socket.create_connection(server.sockets[0].getsockname()))
            assert isinstance(await lost, ffloop.InstanceGone)
            assert not reported

    ffloop.run(main(), instance=instance.path, reconnect=False)


@pytest.mark.parametrize("how", ["silent", "stopped"])
def test_attaching_again_does_not_hold_the_loop(instance, how):
    process = instance()
    entered = threading.Event()

    async def main():
        loop = asyncio.get_running_loop()
        real = discovery.attach

        def attach(*args):
            entered.set()
            return real(*args)

        loop_module = __import__("ffloop._loop.reattach", fromlist=["discovery"])
        loop_module.discovery.attach = attach
        try:
            process.kill()
            await asyncio.to_thread(process.wait)
            if os.path.exists(instance.path):
                os.unlink(instance.path)
            if how == "silent":
                other = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                other.bind(instance.path)
                other.listen()
            else:
                other = instance()
                other.send_signal(signal.SIGSTOP)
            await until(entered.is_set)
            # It waits in there for an answer, and the loop has its turns: a timer, the kernel.
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            theirs.send(b"x")
            assert await loop.sock_recv(ours, 1) == b"x"
            await asyncio.sleep(0.01)
            assert not loop._session.attached
            ours.close()
            theirs.close()
            if how == "silent":
                other.close()
            else:
                other.send_signal(signal.SIGCONT)
                await until(lambda: loop._session.attached)
        finally:
            loop_module.discovery.attach = real

    ffloop.run(main(), instance=instance.path)


def test_one_port_is_taken_meanwhile(instance, caplog):
    """That listener waits, by itself; the other one, and clients, go on."""
    caplog.set_level(logging.INFO, logger="ffloop")
    process = instance()

    async def main():
        loop = asyncio.get_running_loop()
        one = await loop.create_server(Log, HOST, 0)
        two = await loop.create_server(Log, HOST, 0)
        first, second = (server.sockets[0].getsockname() for server in (one, two))
        process.kill()
        await asyncio.to_thread(process.wait)
        with socket.create_server(first):
            await asyncio.to_thread(instance)
            await until(lambda: two.sockets[0]._sock._ep().live)
            await until(lambda: f"cannot listen again on {first}" in caplog.text)
            transport, _ = await loop.create_connection(Log, *second)
            transport.abort()
            assert not one.sockets[0]._sock._ep().live
        await until(lambda: one.sockets[0]._sock._ep().live)
        transport, _ = await loop.create_connection(Log, *first)
        transport.abort()
        one.close()
        two.close()

    ffloop.run(main(), instance=instance.path)
    assert f"listening again on {first_of(caplog)}" in caplog.text


def first_of(caplog):
    said = next(r for r in caplog.records if r.msg.startswith("cannot listen again"))
    return said.args[0]


def test_attaching_goes_on_after_any_exception(instance, monkeypatch):
    from ffloop._loop import reattach

    process = instance()
    left = [MemoryError("one"), ValueError("two"), KeyError("three")]
    real = discovery.attach

    def attach(*args):
        if left:
            raise left.pop(0)
        return real(*args)

    async def main():
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(reattach.discovery, "attach", attach)
        process.kill()
        await asyncio.to_thread(process.wait)
        await asyncio.to_thread(instance)
        await until(lambda: not left and loop._session.attached)

    ffloop.run(main(), instance=instance.path)


def test_the_next_instance_ends_at_once(instance, monkeypatch):
    """After the listener had its address there, before the loop has heard of it."""
    from ffloop._loop import reattach

    process, real = instance(), reattach.Listener.again
    ended, reported, made = [], [], []

    def again(listener, client):
        handle = real(listener, client)
        if not ended:
            ended.append(client.instance_pid)
            os.kill(client.instance_pid, signal.SIGKILL)
            with pytest.raises(ffloop.InstanceGone):
                while True:
                    client.ping()
        return handle

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context))
        monkeypatch.setattr(reattach.Listener, "again", again)
        server = await loop.create_server(lambda: made.append(Log()) or made[-1], HOST, 0)
        served = server.sockets[0]
        process.kill()
        await asyncio.to_thread(process.wait)
        await asyncio.to_thread((await asyncio.to_thread(instance)).wait)
        await asyncio.to_thread(instance)
        await until(lambda: served._sock._ep().live)
        await connects(made, served.getsockname())
        server.close()

    ffloop.run(main(), instance=instance.path)
    assert ended and not reported


def test_attach_keeps_its_time_limit_in_connect(tmp_path):
    """Where the queue of a stopped instance's socket is full, connect() would wait for ever."""
    path = str(tmp_path / "full.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(0)
        waiting = []
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.setblocking(False)
            waiting.append(sock)
            try:
                sock.connect(path)
            except BlockingIOError:
                break
        with pytest.raises(OSError, match="cannot reach") as caught:
            ffloop.new_event_loop(instance=path, timeout_ms=50)
        assert caught.value.errno == errno.ETIMEDOUT
        for sock in waiting:
            sock.close()


def test_a_close_waits_for_no_instance(instance):
    """It is stopped, and has not taken what was submitted: that would be the whole time limit."""
    process = instance()
    loop = ffloop.new_event_loop(instance=instance.path, timeout_ms=600_000)

    async def main():
        return await loop.create_server(Log, HOST, 0), ffloop.socket()

    kept = [loop.run_until_complete(main())]
    process.send_signal(signal.SIGSTOP)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        kept += [ffloop.socket() for _ in range(5000)]
        loop.close()
        kept.clear()
        gc.collect()
    process.send_signal(signal.SIGCONT)


def test_a_closed_connections_number_is_another_files(run_ff):
    """Of a socket that sock_connect took to the stack, and whose transport is closed."""

    async def main():
        loop = asyncio.get_running_loop()
        async with serve(Log) as (_, addr):
            sock = socket.socket()
            sock.setblocking(False)
            number = sock.fileno()
            await loop.sock_connect(sock, addr)
            transport, made = await loop.create_connection(Log, sock=sock)
            transport.abort()
            await made.lost
        assert sock.fileno() == -1
        ours, theirs = socket.socketpair()
        if (fd := ours.detach()) != number:
            os.dup2(fd, number)
            os.close(fd)
        seen = loop.create_future()
        loop.add_reader(number, seen.set_result, None)
        theirs.send(b"x")
        await seen
        loop.remove_reader(number)
        os.close(number)
        theirs.close()

    run_ff(main())


def test_a_loop_whose_client_was_collected_first():
    """Of a cycle that is garbage the collector ends any object first."""
    loop = ffloop.new_event_loop(instance="spawn")
    loop._session.client.__del__()
    loop.close()


def test_a_session_that_outlives_the_interpreters_modules():
    """Something of C's holds it to the very end; then nothing is told."""
    program = """
import ffloop, _thread
_thread.kept = ffloop.new_event_loop(instance="spawn")
_thread.kept.close()
"""
    command = [sys.executable, "-P", "-c", program]
    done = completed(*command)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="asyncio resumes no task in a child that it forked"
)
def test_a_forked_child_runs_on(instance):
    """While large writes wait in the parent: its connections are lost there, and it says why."""
    instance()
    read, write = os.pipe()

    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server((HOST, 0)) as listener:
            protocols = []
            for _ in range(3):
                transport, protocol = await loop.create_connection(Log, *listener.getsockname())
                transport.write(b"x" * (8 << 20))
                protocols.append(protocol)
            pid = os.fork()
            if not pid:
                try:
                    for protocol in protocols:
                        os.write(write, str(await protocol.lost).encode())
                finally:
                    os._exit(0)
            ended = await asyncio.to_thread(
                lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            )
            assert ended == 0
            assert not any(protocol.lost.done() for protocol in protocols)
            for protocol in protocols:
                protocol.transport.abort()
                await protocol.lost

    ffloop.run(main(), instance=instance.path)
    os.close(write)
    with open(read, "rb") as said:
        assert said.read().count(b"a fork") == 3


def test_a_thousand_connections_reset_at_once(run_std):
    """Each is told, once, in order."""

    async def main():
        loop = asyncio.get_running_loop()
        made = []
        async with serve(lambda: made.append(Log()) or made[-1], backlog=1024) as (_, addr):
            peers = [socket.create_connection(addr) for _ in range(1000)]
            await until(lambda: len(made) == 1000 and all(p.transport for p in made))
            for peer in peers:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
                peer.close()
            for protocol in made:
                assert isinstance(await protocol.lost, ConnectionResetError)
                assert protocol.calls == ["made", ("lost", ConnectionResetError)]
        if run_std.by_ring:
            await until(lambda: not loop._session.receivers)

    run_std(main())


def test_writes_by_a_kept_write_are_counted(run_std, caplog):
    async def main():
        async with pair() as (client, _):
            write = client.transport.write
            client.transport.abort()
            await client.lost
            for _ in range(10):
                write(b"x")
            with pytest.raises(TypeError):
                write("x")

    run_std(main())
    said = [r for r in caplog.records if "socket.send() raised exception" in r.message]
    assert len(said) == 6


def test_nest_asyncio_is_refused(run_ff):
    loop = run_ff.factory()
    with pytest.raises(ValueError, match="nest_asyncio"):
        hasattr(loop, "_nest_patched")
    loop.close()
