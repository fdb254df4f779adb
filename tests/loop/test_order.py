"""In which order direct mode calls what events bring, and what is queued."""

import asyncio
import contextlib
import socket
import sys
import time


@contextlib.asynccontextmanager
async def connected(protocol):
    """A transport of one end of a pair of sockets, and the other end."""
    mine, theirs = socket.socketpair()
    with theirs:
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: protocol, sock=mine
        )
        yield transport, theirs
        transport.abort()


def test_what_a_watcher_schedules_runs_before_the_next_wait(run_direct):
    async def main():
        loop, left, done = asyncio.get_running_loop(), 20, asyncio.Event()
        near, far = socket.socketpair()

        def readable():
            nonlocal left
            left -= len(far.recv(1))
            loop.call_soon(near.send, b"x") if left else done.set()

        with near, far:
            loop.add_reader(far, readable)
            near.send(b"x")
            before = loop.ffloop_stats()["waits"]
            await done.wait()
            assert loop.ffloop_stats()["waits"] - before <= 22
            loop.remove_reader(far)

    run_direct(main())


def test_a_thread_gets_on_beside_a_loop_that_always_has_an_event(run_direct):
    """The loop gives the lock up by itself: in the minutes set here nobody asks it to."""

    async def main():
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        near, far = socket.socketpair()
        with near, far:
            loop.add_writer(near, int)
            steps = loop.run_in_executor(None, lambda: [time.sleep(0) for _ in range(100)])
            steps.add_done_callback(lambda _: done.set())
            await done.wait()
            loop.remove_writer(near)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(600)
    try:
        run_direct(main())
    finally:
        sys.setswitchinterval(interval)


def test_events_come_before_what_is_queued(run_direct):
    """As with uvloop: a callback's answer is read before the callbacks that it has queued run."""

    async def main():
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        calls: list[object] = []

        class Notes(asyncio.Protocol):
            def data_received(self, data):
                calls.append(data)
                if data == b"first":
                    loop.call_soon(queued)

        def queued():
            calls.append("queued")
            peer.send(b"second")
            loop.call_soon(lambda: (calls.append("later"), done.set()))

        async with connected(Notes()) as (_, peer):
            peer.send(b"first")
            await done.wait()
        assert calls == [b"first", "queued", b"second", "later"]

    run_direct(main())


def test_the_end_of_a_bulk_stream_is_not_in_its_datas_turn(run_direct):
    async def main():
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        calls: list[str] = []

        class Notes(asyncio.Protocol):
            def data_received(self, data):
                calls.append("data")
                loop.call_soon(calls.append, "turn")

            def eof_received(self):
                calls.append("eof")
                ended.set()

        async with connected(Notes()) as (_, peer):
            peer.sendall(bytes(64 * 1024))
            while "turn" not in calls:
                await asyncio.sleep(0)
            peer.sendall(bytes(64 * 1024))
            peer.shutdown(socket.SHUT_WR)
            await ended.wait()
        assert calls[-2:] == ["turn", "eof"]

    run_direct(main())


def test_a_bulk_stream_is_paused_by_its_data(run_direct):
    """Whoever pauses while much is there gets no more until he resumes."""

    async def main():
        pieces: list[int] = []

        class Pauses(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def data_received(self, data):
                pieces.append(len(data))
                self.transport.pause_reading()

        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as server:
            transport, _ = await loop.create_connection(Pauses, *server.getsockname())
            peer = server.accept()[0]
        with peer:
            peer.setblocking(False)
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += peer.send(bytes(1 << 20))
            while sum(pieces) < sent:
                seen = len(pieces)
                transport.resume_reading()
                while len(pieces) == seen:
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert len(pieces) == seen + 1
            transport.abort()

    run_direct(main())
