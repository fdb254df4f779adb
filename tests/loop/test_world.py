"""Kernel and stack in one loop; debug mode; interrupts; threads; aiohttp as it is."""

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import sys
import threading
import time

import pytest
from common.processes import completed

import ffloop

from .util import HOST, Log, pair, serve, until


def test_everything_in_one_process(run_std, tmp_path, no_leaks):
    """A stack server, a unix socket, a subprocess, a pipe, SIGTERM and a kernel TCP client."""

    async def main():
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)

        async def echo(reader, writer):
            while data := await reader.read(1000):
                writer.write(data)
            writer.close()

        tcp = await asyncio.start_server(echo, HOST, 0)
        unix = await asyncio.start_unix_server(echo, str(tmp_path / "sock"))

        async def over(reader, writer, n):
            for i in range(n):
                writer.write(b"%d" % i)
                assert await reader.read(100) == b"%d" % i
            writer.close()
            await writer.wait_closed()

        def kernel_client(n):
            with socket.create_connection(tcp.sockets[0].getsockname()) as sock:
                for i in range(n):
                    sock.send(b"%d" % i)
                    assert sock.recv(100) == b"%d" % i

        async def subprocess():
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", "print(input()[::-1])", stdin=-1, stdout=-1
            )
            assert (await child.communicate(b"abc\n"))[0] == b"cba\n"
            assert child.returncode == 0

        async def pipe(n):
            read, write = os.pipe()
            os.set_blocking(read, False)
            got = asyncio.Queue()
            loop.add_reader(read, lambda: got.put_nowait(os.read(read, 100)))
            for i in range(n):
                os.write(write, b"%d" % i)
                assert await got.get() == b"%d" % i
            assert loop.remove_reader(read)
            os.close(read)
            os.close(write)

        await asyncio.gather(
            over(*await asyncio.open_connection(*tcp.sockets[0].getsockname()), 300),
            over(*await asyncio.open_unix_connection(str(tmp_path / "sock")), 300),
            asyncio.to_thread(kernel_client, 300),
            subprocess(),
            pipe(300),
        )
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        tcp.close()
        unix.close()
        assert loop.remove_signal_handler(signal.SIGTERM)
        await loop.shutdown_default_executor()
        if echoes := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(echoes)  # each until its peer's end has come

    run_std(main())


def test_neither_world_starves_the_other(run_ff):
    """A stack connection that never rests, and kernel events that come in all the same."""

    async def main():
        loop = asyncio.get_running_loop()

        class Pong(asyncio.Protocol):
            iterations = 0

            def connection_made(self, transport):
                self.transport = transport

            def data_received(self, data):
                Pong.iterations += 1
                self.transport.write(data)

        async with serve(Pong) as (_, addr):
            transport, client = await loop.create_connection(Pong, *addr)
            transport.write(b"ball")
            left, right = socket.socketpair()
            with left, right:
                for s in (left, right):
                    s.setblocking(False)
                for _ in range(200):
                    await loop.sock_sendall(left, b"x")
                    assert await loop.sock_recv(right, 1) == b"x"
                iterations = Pong.iterations
                await until(lambda: Pong.iterations > iterations + 100)
            transport.abort()
            await asyncio.sleep(0)

    run_ff(main())


def test_call_soon_threadsafe_wakes_a_sleeping_loop(run):
    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(50):
            fut = loop.create_future()
            threading.Thread(target=loop.call_soon_threadsafe, args=(fut.set_result, 1)).start()
            assert await fut == 1

    run(main())


@pytest.mark.parametrize("way", ["direct", "spawn"])
def test_a_signal_while_the_loop_closes(monkeypatch, capfd, way):
    """There is no moment in which it is written to a pipe that is closed."""
    loop = ffloop.new_event_loop(instance=way)
    loop.add_signal_handler(signal.SIGWINCH, print)
    close = loop._close_self_pipe

    def close_and_signal():
        close()
        signal.raise_signal(signal.SIGWINCH)  # whose default is to do nothing

    monkeypatch.setattr(loop, "_close_self_pipe", close_and_signal)
    loop.close()
    assert capfd.readouterr().err == ""
    assert signal.getsignal(signal.SIGWINCH) is signal.SIG_DFL


def test_timers_are_never_early(run_std):
    async def main():
        loop = asyncio.get_running_loop()
        for delay in (0.0001, 0.001, 0.0123):
            start = time.monotonic()
            fut = loop.create_future()
            loop.call_later(delay, fut.set_result, None)
            await fut
            assert time.monotonic() - start >= delay

    run_std(main())


def test_debug_mode(run_std, caplog):
    async def main():
        async def handle(reader, writer):
            writer.write(await reader.readexactly(5))
            writer.close()

        server = await asyncio.start_server(handle, HOST, 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"debug")
        assert await reader.read() == b"debug"
        writer.close()
        await writer.wait_closed()
        server.close()

    with caplog.at_level(logging.DEBUG, "asyncio"):
        run_std(main(), debug=True)
    for words in ("is serving", "got a new connection from", "connected to", "received EOF"):
        assert words in caplog.text


def test_slow_callbacks_are_told_apart(run_ff, caplog):
    async def main():
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.03

        class Slow(Log):
            def data_received(self, data):
                if data == b"slow":
                    time.sleep(0.05)
                super().data_received(data)

        made = []
        async with serve(lambda: made.append(Slow()) or made[-1]) as (_, addr):
            clients = [(await loop.create_connection(Log, *addr))[0] for _ in range(3)]
            await until(lambda: len(made) == 3)
            for transport, data in zip(clients, (b"fast", b"slow", b"fast"), strict=True):
                transport.write(data)
            for protocol in made:
                await protocol.got(4)
            for transport in clients:
                transport.abort()

    with caplog.at_level(logging.WARNING, "asyncio"):
        run_ff(main(), debug=True)
    told = [r.message for r in caplog.records if "took" in r.message]
    slow = [message for message in told if re.search("<(Stream|Direct)Tr", message)]
    assert len(slow) == 1, slow


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_interrupt_in_the_middle_of_a_batch(debug, exception, no_leaks):
    """What is left of the batch is delivered when the loop runs again."""
    loop = ffloop.new_event_loop()
    loop.set_debug(debug)
    made = []

    class Interrupted(Log):
        def data_received(self, data):
            super().data_received(data)
            if not fired:
                fired.append(1)
                raise exception

    fired = []
    clients = []

    async def start():
        server = await loop.create_server(lambda: made.append(Interrupted()) or made[-1], HOST, 0)
        for _ in range(10):
            clients.append(await loop.create_connection(Log, *server.sockets[0].getsockname()))
        await until(lambda: len(made) == 10)
        return server

    async def finish():
        for protocol in made:
            assert await protocol.got(4) == b"data"
        for transport, _ in clients:
            transport.write(b"more")
        for protocol in made:
            assert await protocol.got(8) == b"datamore"
        for transport, protocol in clients:
            transport.abort()
            await protocol.lost
        for protocol in made:
            await protocol.lost

    server = loop.run_until_complete(start())
    for transport, _ in clients:
        transport.write(b"data")
    with pytest.raises(exception):
        loop.run_forever()
    loop.run_until_complete(finish())
    server.close()
    loop.close()


def test_exception_in_a_batch_leaves_the_others_alone(run_ff):
    async def main():
        made = []

        class Bad(Log):
            def data_received(self, data):
                super().data_received(data)
                if len(made) > 1 and self is made[0]:
                    raise ZeroDivisionError

        async with serve(lambda: made.append(Bad()) or made[-1]) as (_, addr):
            loop = asyncio.get_running_loop()
            clients = [(await loop.create_connection(Log, *addr))[0] for _ in range(5)]
            await until(lambda: len(made) == 5)
            for transport in clients:
                transport.write(b"x")
            for protocol in made[1:]:
                await protocol.got(1)
            assert type(await made[0].lost) is ZeroDivisionError
            for transport in clients:
                transport.abort()

    run_ff(main())
    assert len(run_ff.errors) == 1
    run_ff.errors.clear()


@pytest.mark.parametrize("eager", [False, True])
def test_tasks_of_ones_own(run, eager, no_leaks):
    """A task factory makes the tasks of servers' handlers too; eager ones start at once."""
    if eager and sys.version_info < (3, 12):
        pytest.skip("eager tasks came with Python 3.12")
    made = []

    def factory(loop, coro, **kwargs):
        if eager:
            kwargs["eager_start"] = True
        task = asyncio.Task(coro, loop=loop, **kwargs)
        made.append(coro.__qualname__)  # the task of one that has ended has it no more
        return task

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        assert loop.get_task_factory() is factory
        order = []

        async def step():
            order.append("task")

        task = asyncio.create_task(step())
        order.append("after")
        await task
        assert order == (["task", "after"] if eager else ["after", "task"])

        async def handle(reader, writer):
            writer.write(await reader.readline())
            writer.close()

        server = await asyncio.start_server(handle, HOST, 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"line\n")
        assert await reader.read() == b"line\n"
        writer.close()
        await writer.wait_closed()
        server.close()
        assert any(name.endswith("handle") for name in made)

    run(main())


def test_asynchronous_generators_are_closed(run, no_leaks):
    """One that reads from a connection, left in the middle."""
    ended = []

    async def lines(reader, writer):
        try:
            while line := await reader.readline():
                yield line
        finally:
            await asyncio.sleep(0)  # the loop still turns
            writer.close()
            await writer.wait_closed()
            ended.append(True)

    async def main():
        loop = asyncio.get_running_loop()

        def feed(_, writer):
            writer.write(b"1\n2\n")
            writer.close()

        server = await asyncio.start_server(feed, HOST, 0)
        left = lines(*await asyncio.open_connection(*server.sockets[0].getsockname()))
        assert await anext(left) == b"1\n"
        server.close()
        await loop.shutdown_asyncgens()
        assert ended == [True]
        await loop.shutdown_default_executor()
        with pytest.raises(RuntimeError, match="shutdown"):
            await loop.run_in_executor(None, print)

    run(main())


def test_loops_in_threads(no_leaks):
    async def main():
        async with pair() as (client, server):
            client.transport.write(b"x" * 100_000)
            assert len(await server.got(100_000)) == 100_000

    errors = []

    def thread():
        try:
            ffloop.run(main())
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=thread) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert errors == []


def test_run_in_a_test_of_unittest_and_policy():
    old = asyncio.get_event_loop_policy()
    try:
        ffloop.install()
        assert isinstance(asyncio.get_event_loop_policy(), ffloop.FFLoopPolicy)

        async def which():
            return asyncio.get_running_loop()

        assert isinstance(asyncio.run(which()), ffloop.Loop)
    finally:
        asyncio.set_event_loop_policy(old)


@pytest.mark.parametrize("secure", [False, True])
def test_aiohttp(run, tls, secure, no_leaks):
    """The server and the client of aiohttp, unmodified: routes, streaming, a WebSocket."""
    aiohttp = pytest.importorskip("aiohttp")
    from aiohttp import web

    async def main():
        async def hello(request):
            assert request.remote == HOST
            return web.Response(text=f"hello {request.match_info['name']}")

        async def upload(request):
            size = 0
            async for chunk in request.content.iter_chunked(65536):
                size += len(chunk)
            return web.json_response({"size": size})

        async def socket_(request):
            ws = web.WebSocketResponse()
            await ws.prepare(request)
            async for message in ws:
                await ws.send_str(message.data[::-1])
            return ws

        app = web.Application()
        app.add_routes(
            [
                web.get("/hello/{name}", hello),
                web.post("/upload", upload),
                web.get("/ws", socket_),
            ]
        )
        runner = web.AppRunner(app)
        await runner.setup()
        server_ctx, client_ctx = tls if secure else (None, None)
        site = web.TCPSite(runner, HOST, 0, ssl_context=server_ctx)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        base = f"{'https' if secure else 'http'}://{HOST}:{port}"
        connector = aiohttp.TCPConnector(ssl=client_ctx if secure else True)
        async with aiohttp.ClientSession(base, connector=connector) as session:
            for i in range(20):
                async with session.get(f"/hello/{i}") as response:
                    assert await response.text() == f"hello {i}"

            async def one(i):
                async with session.get(f"/hello/{i}") as response:
                    return await response.text()

            texts = await asyncio.gather(*(one(i) for i in range(50)))
            assert texts == [f"hello {i}" for i in range(50)]
            async with session.post("/upload", data=b"x" * 3_000_000) as response:
                assert await response.json() == {"size": 3_000_000}
            async with session.ws_connect("/ws") as ws:
                await ws.send_str("abc")
                assert await ws.receive_str() == "cba"
        await runner.cleanup()
        with contextlib.suppress(AttributeError):
            await asyncio.get_running_loop().shutdown_default_executor()

    run(main())


# Ctrl-C when nothing but the wait is to come any more.
LATE = """
import asyncio, ctypes, signal, sys, ffloop
armed = ctypes.c_int.in_dll(ctypes.CDLL(sys.argv[1]), "armed")
async def main():
    armed.value = signal.SIGINT
    await asyncio.Event().wait()
def select():
    with ffloop.FFSelector() as selector:
        armed.value = signal.SIGINT
        selector.select()
"""


@pytest.mark.parametrize("what", ["ffloop.run(main())", "select()"])
def test_a_signal_just_before_the_wait(stack, window, what):
    """Python's handler, which runs between two instructions, is not waited for in vain."""
    preload = f"{os.environ.get('LD_PRELOAD', '')}:{window}"  # behind a sanitizer's run time
    environ = os.environ | {"LD_PRELOAD": preload}
    done = completed(sys.executable, "-P", "-c", LATE + what, window, env=environ)
    assert done.returncode == -signal.SIGINT, done


def test_a_program_that_is_told_of_signals_itself(run_std):
    """Its descriptor stays the one that Python writes them to."""
    read, write = socket.socketpair()

    async def main():
        os.kill(os.getpid(), signal.SIGUSR1)
        told = await asyncio.get_running_loop().sock_recv(read, 1)
        assert told == bytes([signal.SIGUSR1])

    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    with read, write:
        read.setblocking(False)
        write.setblocking(False)
        signal.set_wakeup_fd(write.fileno())
        try:
            run_std(main())
        finally:
            assert signal.set_wakeup_fd(-1) == write.fileno()
            signal.signal(signal.SIGUSR1, before)
    run_std(asyncio.sleep(0))
    assert signal.set_wakeup_fd(-1) == -1
