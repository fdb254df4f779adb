"""StreamReader.read() and StreamWriter.drain(), compiled in ffloop, are coroutines as any."""

import asyncio
import collections.abc
import gc
import inspect
import socket
import subprocess
import sys
import traceback

import pytest

import ffloop


async def until(true):
    while not true():
        await asyncio.sleep(0)


@pytest.fixture
def opened(run):
    """Runs a function with the reader and writer of a server's stream, and its peer's socket."""

    def with_stream(use, **how):
        async def main():
            loop = asyncio.get_running_loop()
            accepted = loop.create_future()
            server = await asyncio.start_server(
                lambda *stream: accepted.set_result(stream), "127.0.0.1", 0, **how
            )
            with socket.socket() as peer:
                peer.setblocking(False)
                await loop.sock_connect(peer, server.sockets[0].getsockname()[:2])
                reader, writer = await accepted
                await use(reader, writer, peer)
                writer.close()
            server.close()

        run(main())

    return with_stream


@pytest.fixture(autouse=True)
def _on_loopback(request):
    if "fstack" in request.node.name:
        pytest.skip("the peer is a socket of this kernel's")


def test_read_gives_what_is_there_and_no_more_than_asked_for(opened):
    async def use(reader, writer, peer):
        for n in (1, 3, 4, 100):
            task = asyncio.ensure_future(reader.read(n))
            await until(lambda: reader._waiter is not None)
            peer.send(b"data")
            assert await task == b"data"[:n]
            if n < 4:
                assert await reader.read(10) == b"data"[n:]
        assert reader._buffer == b""
        peer.send(b"1")
        await until(lambda: reader._buffer)
        peer.send(b"2")
        await until(lambda: len(reader._buffer) == 2)
        assert await reader.read(n=1) == b"1"
        assert await reader.read(0) == b""
        assert await reader.read(2**70) == b"2"
        peer.shutdown(socket.SHUT_WR)
        assert await reader.read(5) == b""
        assert await reader.read() == b""
        assert reader.at_eof()

    opened(use)


def test_attributes_that_were_set_in_another_order(opened):
    async def use(reader, writer, peer):
        for of in (reader, writer):
            attributes = dict(of.__dict__)
            for name in attributes:
                delattr(of, name)
            for name in reversed(attributes):
                setattr(of, name, attributes[name])
        for data in (b"1", b"22"):
            task = asyncio.ensure_future(reader.read(100))
            await until(lambda: reader._waiter is not None)
            peer.send(data)
            assert await task == data
            writer.write(data)
            await writer.drain()
            assert await asyncio.get_running_loop().sock_recv(peer, 100) == data

    opened(use)


async def told(reader, peer, data):
    """A task that reads, whose data has come while it has not run yet."""
    task = asyncio.ensure_future(reader.read(100))
    await until(lambda: reader._waiter is not None)
    waiter = reader._waiter
    peer.send(data)
    await until(waiter.done)
    assert not task.done()
    assert reader._waiter is None
    return task


def test_the_compiled_ones_are_used(opened):
    async def use(reader, writer, peer):
        loop = asyncio.get_running_loop()
        compiled = isinstance(loop, ffloop.Loop) and not loop.get_debug()
        calls = [reader.read(1), writer.drain()]
        named = [type(call).__name__ for call in calls]
        for call in calls:
            call.close()
        assert named == ["Call" if compiled else "coroutine"] * 2

    opened(use)


@pytest.mark.parametrize("how", ["read", "readexactly", "readline"])
def test_what_comes_to_a_waiting_reader_that_is_cancelled_is_the_next_ones(opened, how):
    async def use(reader, writer, peer):
        task = await told(reader, peer, b"line\n")
        task.cancel()
        call = {"read": (100,), "readexactly": (5,), "readline": ()}[how]
        assert await asyncio.wait_for(getattr(reader, how)(*call), 60) == b"line\n"
        with pytest.raises(asyncio.CancelledError):
            await task
        peer.send(b"second")
        got = b""
        while len(got) < 6:
            got += await reader.read(4)
        assert got == b"second"

    opened(use)


def test_the_end_after_data_is_not_there_before_the_data_is_taken(opened):
    async def use(reader, writer, peer):
        task = await told(reader, peer, b"data")
        reader.feed_eof()
        assert not reader.at_eof()
        assert await task == b"data"
        assert reader.at_eof()
        assert await reader.read(5) == b""

    opened(use)


def test_another_protocols_data_is_its_readers(opened):
    async def use(reader, writer, peer):
        def another():
            new = asyncio.StreamReader()
            writer.transport.set_protocol(asyncio.StreamReaderProtocol(new))
            return new

        olds = [asyncio.ensure_future(reader.read(100))]
        await until(lambda: reader._waiter is not None)
        new = another()
        peer.send(b"first")
        assert await new.read(100) == b"first"
        olds[0].cancel()
        await asyncio.wait(olds)
        olds.append(asyncio.ensure_future(reader.read(100)))
        await until(lambda: reader._waiter is not None)
        peer.send(b"second")
        assert await new.read(100) == b"second"
        olds[1].cancel()
        await asyncio.wait(olds)
        assert all(old.cancelled() for old in olds)

    opened(use)


def test_drain_waits_for_the_writers_own_protocol(opened):
    async def use(reader, writer, peer):
        loop = asyncio.get_running_loop()
        transport, old = writer.transport, writer.transport.get_protocol()
        transport.set_write_buffer_limits(high=0)
        writer.write(b"x" * 16_000_000)
        assert old._paused
        new = asyncio.StreamReaderProtocol(asyncio.StreamReader())
        new.pause_writing()
        transport.set_protocol(new)
        left = 16_000_000
        while left:
            left -= len(await loop.sock_recv(peer, 1_000_000))
        await until(lambda: not new._paused)
        task = asyncio.ensure_future(writer.drain())
        for _ in range(3):
            await asyncio.sleep(0)
        assert not task.done()
        old.resume_writing()
        await task

    opened(use)


def test_a_waiter_that_is_done_already_is_no_result(opened):
    """The loop's create_future() is the application's."""

    async def use(reader, writer, peer):
        loop = asyncio.get_running_loop()

        class Done:
            def create_future(self):
                future = loop.create_future()
                future.set_result(7)
                reader._buffer.extend(b"data")
                return future

        reader._loop = Done()
        assert await reader.read(10) == b"data"
        reader._loop = loop
        assert reader._waiter is None

    opened(use)


def test_a_second_reader_is_refused_while_one_waits(opened):
    async def use(reader, writer, peer):
        task = asyncio.ensure_future(reader.read(10))
        await until(lambda: reader._waiter is not None)
        with pytest.raises(RuntimeError, match="already waiting for incoming data"):
            await reader.read(10)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task, 0)
        assert reader._waiter is None
        peer.send(b"x")
        assert await reader.read(10) == b"x"

    opened(use)


def test_what_is_fed_by_hand_ends_a_read(opened):
    async def use(reader, writer, peer):
        for feed, wanted in (
            (lambda: reader.feed_data(b"by hand"), b"by hand"),
            (lambda: reader.feed_eof(), b""),
        ):
            task = asyncio.ensure_future(reader.read(10))
            await until(lambda: reader._waiter is not None)
            feed()
            assert await task == wanted

    opened(use)


def test_an_exception_of_the_reader_is_raised_by_both(opened):
    async def use(reader, writer, peer):
        task = asyncio.ensure_future(reader.read(10))
        await until(lambda: reader._waiter is not None)
        reader.set_exception(OSError("gone"))
        for call in (task, reader.read(10), writer.drain()):
            with pytest.raises(OSError, match="gone"):
                await call
        assert reader._waiter is None

    opened(use)


def test_drain_waits_while_writing_is_paused_and_raises_after_the_end(opened):
    async def use(reader, writer, peer):
        assert await writer.drain() is None
        writer.transport.set_write_buffer_limits(high=0)
        writer.write(b"x" * 16_000_000)
        task = asyncio.ensure_future(writer.drain())
        await asyncio.sleep(0)
        assert not task.done()
        loop = asyncio.get_running_loop()
        left = 16_000_000
        while left:
            left -= len(await loop.sock_recv(peer, 1_000_000))
        await task
        writer.transport.abort()
        with pytest.raises(ConnectionResetError):
            await writer.drain()

    opened(use)


def test_one_that_reads_on_is_resumed_after_a_pause(opened):
    async def use(reader, writer, peer):
        peer.send(b"x" * 100)
        await until(lambda: not writer.transport.is_reading())
        got = b""
        while len(got) < 100:
            got += await reader.read(40)
        assert writer.transport.is_reading()
        task = asyncio.ensure_future(reader.read(1000))
        await until(lambda: reader._waiter is not None)
        peer.send(b"y" * 100)  # too many for its limit at once
        assert await task == b"y" * 100
        assert writer.transport.is_reading()

    opened(use, limit=10)


@pytest.mark.parametrize("of", ["read", "drain"])
def test_they_are_coroutines(opened, of):
    async def use(reader, writer, peer):
        def call():
            return reader.read(5) if of == "read" else writer.drain()

        async def wrapped():
            return await call()

        name = {"read": "StreamReader.read", "drain": "StreamWriter.drain"}[of]
        made = call()
        assert isinstance(made, collections.abc.Coroutine)
        assert asyncio.iscoroutine(made)
        assert inspect.isawaitable(made)
        assert made.__qualname__ == name
        with pytest.raises(TypeError, match="can't send non-None value"):
            made.send(1)
        made.close()  # begun by nobody: no warning
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            made.send(None)
        made = call()
        with pytest.raises(ZeroDivisionError):
            made.throw(ZeroDivisionError())
        made.close()
        made = call()
        with pytest.raises(KeyError, match="why"):
            made.throw(KeyError("why"))
        with pytest.warns(RuntimeWarning, match=f"'{name}' was never awaited"):
            call()
            gc.collect()
        if of == "drain":
            with pytest.raises(StopIteration) as end:
                call().send(None)
            assert end.value.value is None
        peer.send(b"data")
        task = asyncio.create_task(call())
        assert of in repr(task)
        assert await task == (b"data" if of == "read" else None)
        peer.send(b"more")
        assert await wrapped() == (b"more" if of == "read" else None)

    opened(use)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_cannot_be_thrown_is_refused_and_ends_nothing(opened):
    async def use(reader, writer, peer):
        call = reader.read(5)
        many = (KeyError, None, None, None)
        for wrong in ((), (7,), (KeyError("a"), "b"), (KeyError, None, "no traceback"), many):
            with pytest.raises(TypeError):
                call.throw(*wrong)
        peer.send(b"data")
        assert await call == b"data"

    opened(use)


@pytest.mark.parametrize("of", ["read", "drain"])
@pytest.mark.parametrize("how", ["send", "throw", "close"])
def test_one_that_runs_is_not_entered_again(opened, of, how):
    """What a call calls (a loop's create_future(), a transport's is_closing()) calls it."""
    again = {"send": (None,), "throw": (KeyError(),), "close": ()}[how]
    raised = []

    async def use(reader, writer, peer):
        def enter():
            with pytest.raises(ValueError, match="coroutine already executing") as caught:
                getattr(call, how)(*again)
            raised.append(caught.value)
            gc.collect()

        class Loop:
            def create_future(self):
                enter()
                return loop.create_future()

        class Transport:
            def is_closing(self):
                enter()
                return False

        loop, transport = asyncio.get_running_loop(), writer._transport
        if of == "read":
            reader._loop = Loop()
            call = reader.read(5)
            peer.send(b"data")
            assert await call == b"data"
            reader._loop = loop
        else:
            writer._transport = Transport()
            call = writer.drain()
            assert await call is None
            writer._transport = transport
        assert len(raised) == 1

    opened(use)


def test_one_that_waits_ends_with_whoever_awaits_it(opened):
    async def use(reader, writer, peer):
        async def wrapped():
            await reader.read(5)

        made = wrapped()
        assert asyncio.isfuture(made.send(None))
        assert reader._waiter is not None
        made.close()
        assert reader._waiter is None
        call = reader.read(5)
        call.send(None)
        with pytest.raises(ZeroDivisionError):
            call.throw(ZeroDivisionError())
        assert reader._waiter is None
        call = reader.read(5)
        call.send(None)
        del call
        gc.collect()
        assert reader._waiter is None

    opened(use)


def test_the_applications_own_methods_stay(opened, monkeypatch):
    called = []

    async def read(self, n=-1):
        called.append("read")
        return await original(self, n)

    original = asyncio.StreamReader.read
    monkeypatch.setattr(asyncio.StreamReader, "read", read)

    async def use(reader, writer, peer):
        peer.send(b"data")
        assert await reader.read(5) == b"data"
        assert called == ["read"]
        await writer.drain()

    opened(use)


PATCHED = """
import asyncio, functools, sys
called = []
owner = getattr(asyncio, sys.argv[1])
original = getattr(owner, sys.argv[2])
def patched(*args, **named):
    called.append(1)
    return original(*args, **named)
if sys.argv[3] == "wraps":
    functools.update_wrapper(patched, original)
setattr(owner, sys.argv[2], patched)
import ffloop

async def main():
    async def serve(reader, writer):
        done.set_result(await reader.read(100))
        await writer.drain()
        writer.close()
    done = asyncio.get_running_loop().create_future()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await asyncio.sleep(0)
        writer.write(b"data")
        assert await done == b"data"
        writer.close()
        await writer.wait_closed()

ffloop.run(main())
assert called
"""


@pytest.mark.parametrize("kind", ["wraps", "plain"])
@pytest.mark.parametrize(
    "method",
    [
        "StreamReader.read",
        "StreamReader.feed_data",
        "StreamReaderProtocol.connection_made",
        "StreamReaderProtocol.data_received",
        "StreamWriter.drain",
    ],
)
def test_what_was_patched_before_ffloop_came_is_called(method, kind):
    command = [sys.executable, "-P", "-c", PATCHED, *method.split("."), kind]
    subprocess.run(command, check=True, timeout=60)


def test_reader_and_writer_are_still_asyncios(opened):
    async def use(reader, writer, peer):
        assert isinstance(reader, asyncio.StreamReader)
        assert isinstance(writer, asyncio.StreamWriter)
        assert repr(reader).startswith("<StreamReader")
        assert repr(writer).startswith("<StreamWriter")
        assert await asyncio.StreamWriter.drain(writer) is None
        peer.send(b"data")
        assert await asyncio.StreamReader.read(reader, 4) == b"data"
        assert writer.transport.get_protocol()._client_connected_cb.__name__ == "<lambda>"

    opened(use)


def test_what_a_servers_callback_raises_is_told(run):
    def broken(reader, writer):
        writer.close()
        raise ZeroDivisionError

    async def main():
        loop = asyncio.get_running_loop()
        told = loop.create_future()
        loop.set_exception_handler(lambda loop, context: told.set_result(context["exception"]))
        async with await asyncio.start_server(broken, "127.0.0.1", 0) as server:
            with socket.socket() as peer:
                peer.setblocking(False)
                await loop.sock_connect(peer, server.sockets[0].getsockname()[:2])
                exc = await told
                assert isinstance(exc, ZeroDivisionError)
                assert traceback.extract_tb(exc.__traceback__)[-1].name == "broken"
                assert await loop.sock_recv(peer, 1) == b""

    run(main())
