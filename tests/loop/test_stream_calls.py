"""StreamReader.read() and StreamWriter.drain(), compiled in ffloop, are coroutines as any."""

import asyncio
import collections.abc
import gc
import inspect
import socket

import pytest


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


def test_what_comes_to_a_waiting_reader_that_is_cancelled_is_the_next_ones(opened):
    """The data of both connections comes with one wait: the reader is cancelled after it has been
    told of its own, and before its task runs."""

    async def use(reader, writer, peer):
        ours, theirs = socket.socketpair()

        class Cancels(asyncio.Protocol):
            def data_received(self, data):
                waits.cancel()

        loop = asyncio.get_running_loop()
        with theirs:
            transport, _ = await loop.connect_accepted_socket(Cancels, ours)
            waits = asyncio.ensure_future(reader.read(10))
            await until(lambda: reader._waiter is not None)
            peer.send(b"first")
            theirs.send(b"x")
            with pytest.raises(asyncio.CancelledError):
                await waits
            peer.send(b"second")
            got = b""
            while len(got) < 11:
                got += await reader.read(4)
            assert got == b"firstsecond"
            transport.close()

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


def test_reader_and_writer_are_still_asyncios(opened):
    async def use(reader, writer, peer):
        assert isinstance(reader, asyncio.StreamReader)
        assert isinstance(writer, asyncio.StreamWriter)
        assert repr(reader).startswith("<StreamReader")
        assert repr(writer).startswith("<StreamWriter")
        assert await asyncio.StreamWriter.drain(writer) is None
        peer.send(b"data")
        assert await asyncio.StreamReader.read(reader, 4) == b"data"

    opened(use)
