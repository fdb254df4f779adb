"""call_soon, handles, timers, wake-ups. ffloop's are compiled, and must be asyncio's."""

import asyncio
import contextlib
import contextvars
import functools
import gc
import os
import socket
import sys
import threading
import time
import weakref

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ffloop

from .util import HOST, Log, pair, serve, until

VAR: contextvars.ContextVar[str] = contextvars.ContextVar("VAR", default="none")


def test_call_soon_forms(run_std):
    """Arguments of any number, callback by name, a context of one's own."""

    async def main():
        loop = asyncio.get_running_loop()
        calls: list[object] = []

        def note(*args):
            calls.append((VAR.get(), args))

        own = contextvars.copy_context()
        own.run(VAR.set, "own")
        VAR.set("task")
        loop.call_soon(note)
        loop.call_soon(note, 1)
        loop.call_soon(note, 1, 2)
        loop.call_soon(note, 1, 2, 3, context=own)
        loop.call_soon(callback=note)
        loop.call_soon(note, None, context=None)
        for bad in ((), (note,)):
            with pytest.raises(TypeError):
                loop.call_soon(*bad, other=1)
        with pytest.raises(TypeError):
            loop.call_soon()
        await asyncio.sleep(0)
        assert calls == [
            ("task", ()),
            ("task", (1,)),
            ("task", (1, 2)),
            ("own", (1, 2, 3)),
            ("task", ()),
            ("task", (None,)),
        ]

    run_std(main())


def test_handles(run_std):
    """A handle is an asyncio.Handle: cancelled, printed, referred to weakly, collected."""

    async def main():
        loop = asyncio.get_running_loop()
        calls: list[object] = []
        handle = loop.call_soon(calls.append, 1)
        assert isinstance(handle, asyncio.Handle)
        assert repr(handle).startswith("<Handle ")
        assert "append" in repr(handle)
        handle.cancel()
        handle.cancel()
        assert handle.cancelled()
        assert repr(handle) == "<Handle cancelled>"
        with pytest.raises(AttributeError):
            handle.other = 1

        # It may cancel itself, and others of the same iteration.
        first = loop.call_soon(lambda: (calls.append("first"), first.cancel(), second.cancel()))
        second = loop.call_soon(calls.append, "second")
        await asyncio.sleep(0)
        assert calls == ["first"]

        class Payload:
            pass

        payload = Payload()
        payload.handle = loop.call_soon(lambda _: None, payload)
        seen, ref = weakref.ref(payload.handle), weakref.ref(payload)
        await asyncio.sleep(0)
        del payload
        gc.collect()
        assert ref() is None
        assert seen() is None

    run_std(main())


def test_a_handle_is_new(run_std):
    """Whatever became of those before it."""

    async def main():
        loop = asyncio.get_running_loop()
        calls: list[object] = []
        ways = (loop.call_soon, lambda *call: loop.call_later(0, *call))
        for call in ways * 3:
            handle = call(calls.append, "cancelled")
            handle.cancel()
            gone = weakref.ref(handle)
            del handle
            await asyncio.sleep(0.001)
            assert gone() is None
            handle = call(calls.append, call)
            assert not handle.cancelled()
            await asyncio.sleep(0.001)
        assert calls == [*ways] * 3

    run_std(main())


def test_who_looks_at_the_timers_changes_nothing(run_ff):
    async def main():
        loop = asyncio.get_running_loop()
        calls: list[object] = []
        timers = [loop.call_later(i / 1000, calls.append, i) for i in (3, 1, 2)]
        assert set(timers) <= set(loop._scheduled)
        timers[1].cancel()
        assert set(timers) <= set(loop._scheduled)
        await asyncio.sleep(0.01)
        assert calls == [2, 3]
        assert not loop._scheduled

    run_ff(main())


def test_a_callback_that_raises(run_std):
    """It is reported with its handle, and the rest of the iteration runs."""

    async def main():
        loop = asyncio.get_running_loop()
        calls: list[object] = []

        def broken(*args):
            raise LookupError(args)

        handles = [
            loop.call_soon(broken),
            loop.call_soon(broken, 1, 2, 3),
            loop.call_soon(calls.append, 1),
        ]
        await asyncio.sleep(0)
        assert calls == [1]
        return handles

    handles = run_std(main())
    reported, run_std.errors = run_std.errors, []
    assert [e["handle"] for e in reported] == handles[:2]
    assert [e["exception"].args for e in reported] == [((),), ((1, 2, 3),)]
    assert all(e["message"].startswith("Exception in callback ") for e in reported)
    assert all("broken" in e["message"] for e in reported)


def test_a_callback_that_cancels_itself_and_raises(run_std):
    async def main():
        loop = asyncio.get_running_loop()

        def cancelled(*which):
            handles[which[0]].cancel()
            raise LookupError

        def removed():
            loop.remove_reader(ours)
            raise LookupError

        handles = [loop.call_soon(cancelled, 0), loop.call_later(0, cancelled, 1)]
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.send(b"1")
            loop.add_reader(ours, removed)
            await until(lambda: len(run_std.errors) == 3)

    run_std(main())
    reported, run_std.errors = run_std.errors, []
    assert {e["message"] for e in reported} == {"Exception in callback None()"}
    assert all(isinstance(e["handle"], asyncio.Handle) for e in reported)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_exception_that_ends_the_program(run_std, kind):
    """It leaves run_forever; what was queued behind it runs on the next one, in order."""
    loop = run_std.factory()
    try:
        calls: list[object] = []

        def end():
            raise kind

        loop.call_soon(calls.append, 1)
        loop.call_soon(end)
        loop.call_soon(calls.append, 2)
        with pytest.raises(kind):
            loop.run_forever()
        assert calls == [1]
        loop.call_soon(calls.append, 3)
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert calls == [1, 2, 3]
    finally:
        loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon(print)


def test_timers(run_std):
    """In order of time, never early; cancelled ones go, many or few; stop() ends the iteration."""

    async def main():
        loop = asyncio.get_running_loop()
        calls: list[object] = []
        begun = loop.time()
        for i in (3, 1, 2):
            loop.call_at(begun + i / 100, calls.append, i)  # however long this takes
        for _ in range(300):
            loop.call_later(0.005, calls.append, "cancelled").cancel()
        kept = [loop.call_later(3600, calls.append, "late") for _ in range(10)]
        cancelled = [loop.call_later(1800, calls.append, "late") for _ in range(200)]
        for timer in cancelled:
            timer.cancel()
        await asyncio.sleep(0.04)
        assert calls == [1, 2, 3]
        assert loop.time() - begun >= 0.04
        assert len(loop._scheduled) <= len(kept)
        assert loop._timer_cancelled_count == 0
        for timer in kept:
            timer.cancel()

    run_std(main())


def test_a_turn_runs_what_was_queued_before_it(run_std):
    async def main():
        loop = asyncio.get_running_loop()
        calls: list[object] = []

        def first():
            calls.append("first")
            loop.call_soon(calls.append, "next iteration")

        loop.call_soon(first)
        loop.call_soon(calls.append, "second")
        await asyncio.sleep(0)
        assert calls == ["first", "second"]
        await asyncio.sleep(0)
        assert calls == ["first", "second", "next iteration"]

    run_std(main())


def test_callbacks_without_end_leave_room_for_events(run):
    """A few iterations may pass between two looks at the events, not many."""

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            steps = 0
            seen = loop.create_future()
            loop.add_reader(ours, lambda: seen.done() or seen.set_result(steps))

            def step():
                nonlocal steps
                steps += 1
                if steps == 1000:
                    theirs.send(b"x")
                if not seen.done():
                    loop.call_soon(step)

            step()
            assert await seen < 1000 + 20
            loop.remove_reader(ours)

    run(main())


def test_debug_mode_may_change_at_any_time(run_std, caplog):
    async def main():
        loop = asyncio.get_running_loop()
        calls: list[object] = []
        for debug in (True, False, True, False):
            loop.call_soon(loop.set_debug, debug)
            loop.call_soon(calls.append, debug)
            await asyncio.sleep(0)
            assert loop.get_debug() is debug
            handle = loop.call_soon(calls.append, "soon")
            assert (handle._source_traceback is not None) is debug
            await asyncio.sleep(0)
        assert calls == [True, "soon", False, "soon"] * 2

    run_std(main())


def test_a_subclass_with_its_own(run_ff):
    """Methods and a clock that a subclass overrides are used."""

    class Mine(ffloop.Loop):
        soon = iterations = 0

        def call_soon(self, callback, *args, context=None):
            self.soon += 1
            return super().call_soon(callback, *args, context=context)

        def _run_once(self):
            self.iterations += 1
            super()._run_once()

    class Clock(ffloop.Loop):
        ahead = 0.0

        def time(self):
            return super().time() + self.ahead

    async def main():
        loop = asyncio.get_running_loop()
        timer = loop.create_future()
        loop.call_later(1000, timer.set_result, None)
        loop.ahead = 2000.0
        await timer

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(main())
    with asyncio.Runner(loop_factory=Mine) as runner:
        runner.run(asyncio.sleep(0.001))
        assert runner.get_loop().soon > 0
        assert runner.get_loop().iterations > 0


async def serve_once():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), HOST, 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def serve_for_good():
    """The server's factory knows its protocols, and they their transports."""
    made = []
    async with serve(lambda: made.append(Log()) or made[-1]) as (_, address):
        transport, client = await asyncio.get_running_loop().create_connection(Log, *address)
        transport.close()
        await client.lost
        await until(lambda: made)
        await made[0].lost


@pytest.mark.parametrize("work", [None, lambda: asyncio.sleep(0.001), serve_once, serve_for_good])
def test_a_closed_loop_goes_by_its_reference_count(run_ff, work):
    """Nothing of the loop's own refers to it in a circle."""
    gc.collect()
    gc.disable()
    try:
        loop = ffloop.new_event_loop()
        if work is not None:
            loop.run_until_complete(work())
        loop.close()
        ref = weakref.ref(loop)
        del loop
        assert ref() is None
    finally:
        gc.enable()


def test_a_loop_that_nobody_closed_is_collected(run_ff, warned, no_leaks):
    """With its open connections, whose descriptors it watches."""

    async def main():
        server = await asyncio.start_server(lambda reader, writer: None, HOST, 0)
        await asyncio.open_connection(*server.sockets[0].getsockname())

    loop = ffloop.new_event_loop()
    loop.run_until_complete(main())
    ref = weakref.ref(loop)
    del loop
    gc.collect()
    assert any("unclosed event loop" in str(one.message) for one in warned)
    warned.clear()  # a recorded warning refers to what it is of
    gc.collect()
    assert ref() is None


CAPTURED = ("call_soon", "call_soon_threadsafe", "call_later", "call_at")


@pytest.mark.parametrize("name", CAPTURED)
def test_a_captured_method_obeys_close(run_std, name):
    loop = run_std.factory()
    method = getattr(loop, name)
    loop.close()
    args = (0, print) if name in ("call_later", "call_at") else (print,)
    with pytest.raises(RuntimeError, match="closed"):
        method(*args)


@pytest.mark.parametrize("name", CAPTURED)
def test_a_captured_method_obeys_debug_mode(run_std, name):
    """In debug mode: where it was called from is in the handle, a coroutine is no callback."""
    loop = run_std.factory()
    try:
        method = getattr(loop, name)
        loop.set_debug(True)
        first = (0,) if name in ("call_later", "call_at") else ()
        handle = method(*first, print)
        assert handle._source_traceback
        handle.cancel()
        coroutine = asyncio.sleep(0)
        with pytest.raises(TypeError, match="coroutine"):
            method(*first, coroutine)
        coroutine.close()
    finally:
        loop.close()


def test_wake_ups_from_other_threads(run_std):
    """None is lost, whether the loop sleeps, runs or is about to; each thread's come in order."""
    threads, each = 4, 500

    async def main():
        loop = asyncio.get_running_loop()
        seen: list[tuple[int, int]] = []
        done = loop.create_future()

        def note(thread, i, answered):
            seen.append((thread, i))
            answered.set()
            if len(seen) == threads * each:
                done.set_result(None)

        def other(thread):
            answered = threading.Event()
            for i in range(each):
                answered.clear()
                loop.call_soon_threadsafe(note, thread, i, answered)
                if i % 3:  # the loop goes to sleep in between, or has more waiting
                    assert answered.wait(60)

        others = [threading.Thread(target=other, args=(n,)) for n in range(threads)]
        for thread in others:
            thread.start()
        await done
        for thread in others:
            thread.join()
        for n in range(threads):
            assert [i for thread, i in seen if thread == n] == list(range(each))

    run_std(main())


@given(
    st.lists(st.tuples(st.integers(0, 50), st.booleans(), st.booleans()), min_size=1, max_size=300)
)
@settings(deadline=None, max_examples=50, suppress_health_check=list(HealthCheck))
def test_any_timers(run_ff, plans):
    """Times, cancelled at once or by an earlier one, made in debug mode or not: what is left fires
    in order of time, and none is left behind."""

    async def main():
        loop = asyncio.get_running_loop()
        fired: list[int] = []
        start = loop.time()
        for when, debug, cancelled in plans:
            loop.set_debug(debug)
            timer = loop.call_at(start + when / 1e5, fired.append, when)
            if cancelled:
                timer.cancel()
                timer.cancel()
        loop.set_debug(False)
        done = loop.create_future()
        loop.call_at(start + 51 / 1e5, done.set_result, None)
        await done
        assert fired == sorted(when for when, _, cancelled in plans if not cancelled)
        assert not loop._scheduled
        assert loop._timer_cancelled_count == 0

    run_ff(main())


@pytest.mark.parametrize(
    ("host", "port", "options"),
    [
        ("127.0.0.1", 80, {}),
        ("127.0.0.1", "80", {"type": socket.SOCK_STREAM}),
        ("::1", 80, {"family": socket.AF_INET6}),
        ("fe80::1%lo", 0, {"proto": socket.IPPROTO_UDP}),
        ("0X7f.1", 80, {}),
        ("2130706433", 80, {}),
        (b"127.0.0.1", None, {"flags": socket.AI_PASSIVE}),
        ("localhost", 80, {"family": socket.AF_INET}),
        ("127.0.0.1", "http", {"type": socket.SOCK_STREAM}),
        (None, 80, {"flags": socket.AI_PASSIVE}),
        ("", 80, {}),
        ("127.0.0.1", 80, {"family": socket.AF_INET6}),
        ("not a name", 80, {}),
    ],
)
def test_getaddrinfo(run_std, host, port, options):
    """Literals and names alike: what the socket module says, its errors too."""
    try:
        expected = socket.getaddrinfo(host, port, **options)
    except OSError as exc:
        expected = exc

    async def main():
        loop = asyncio.get_running_loop()
        if isinstance(expected, OSError):
            with pytest.raises(type(expected)) as seen:
                await loop.getaddrinfo(host, port, **options)
            assert seen.value.errno == expected.errno
        else:
            assert await loop.getaddrinfo(host, port, **options) == expected

    run_std(main())


def test_methods_of_ones_own_stay():
    """A subclass's methods and an instance's attributes are not covered, debug mode or not."""

    class Own(ffloop.Loop):
        def create_future(self):
            made.append("future")
            return super().create_future()

    made = []
    loop = Own()
    try:
        loop.time = lambda: 1e9
        for debug in (True, False, True, False):
            loop.set_debug(debug)
            assert loop.time() == 1e9
            assert loop.create_future().get_loop() is loop
        assert made == ["future"] * 4
        del loop.time
        assert abs(loop.time() - time.monotonic()) < 60
    finally:
        loop.close()
    assert loop.create_future().get_loop() is loop


def test_the_collector_passes_by_what_a_running_loop_will_call(run_ff):
    """What it will call is alive. Afterwards, and once the loop stops, handles are collected."""

    async def main():
        loop = asyncio.get_running_loop()
        soon, later = loop.call_soon(print), loop.call_later(60, print)
        assert not gc.is_tracked(soon)
        assert not gc.is_tracked(later)
        at_once = loop.call_later(0, print)
        await asyncio.sleep(0.001)
        assert gc.is_tracked(soon)
        assert gc.is_tracked(at_once)
        assert gc.is_tracked(loop._add_reader(near, print))
        timers = [loop.call_later(60, print) for _ in range(300)]
        for timer in timers[::2] + timers[1:60:2]:  # so many that the heap is tidied
            timer.cancel()
        await asyncio.sleep(0.001)
        assert not any(map(gc.is_tracked, timers[61::2]))
        return later, loop.call_soon(print)

    near, far = socket.socketpair()
    with near, far, contextlib.closing(ffloop.new_event_loop()) as loop:
        assert all(map(gc.is_tracked, loop.run_until_complete(main())))
        assert gc.is_tracked(loop.call_later(60, print))
        assert all(map(gc.is_tracked, loop._scheduled))


def test_a_loop_with_timers_that_nobody_closed_is_collected(run_ff, warned):
    """And what its timers and callbacks refer to, though they refer to each other."""

    class Kept:
        pass

    async def main():
        loop = asyncio.get_running_loop()
        for call in (loop.call_soon, functools.partial(loop.call_later, 60)):
            kept = Kept()
            kept.handle, kept.loop = call(print, kept), loop
            refs.append(weakref.ref(kept))
        loop.stop()

    refs: list[weakref.ref] = []
    loop = ffloop.new_event_loop()
    task = loop.create_task(main())
    loop.run_forever()
    loop.call_later(60, print, task)
    refs.append(weakref.ref(loop))
    del loop, task
    gc.collect()
    warned.clear()
    gc.collect()
    assert [ref() for ref in refs] == [None] * 3


def test_an_event_in_debug_mode_walks_no_stack(run_ff, monkeypatch):
    """What comes from the network was made nowhere in the program."""
    made = []

    def walk(frame):
        made.append(frame.f_code.co_name)
        return []

    async def main():
        asyncio.get_running_loop().set_debug(True)
        async with pair() as (client, served):
            client.transport.write(b"x")
            await served.got(1)

    monkeypatch.setattr(asyncio.format_helpers, "extract_stack", walk)
    run_ff(main())
    assert made
    assert "_process_events" not in made


def test_what_waits_at_a_socket_comes_before_later_callbacks(run):
    """A new connection's, and that of one that is read again; it has a backlog to send."""

    async def main():
        async def idle(n):
            for _ in range(n):
                await asyncio.sleep(0)

        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        with far:
            far.send(b"1")
            await idle(100)
            transport, log = await loop.create_connection(Log, sock=near)
            await idle(3)
            assert log.data == b"1"
            transport.write(bytes(10_000_000))
            transport.pause_reading()
            far.send(b"2")
            await idle(100)
            transport.resume_reading()
            await idle(3)
            assert log.data == b"12"
            transport.abort()
            await log.lost

    run(main())


@pytest.mark.parametrize("pipe", [False, True])
def test_what_waits_at_a_new_reader_comes_before_later_callbacks(run, pipe):
    """...though a loop that has long found no event may ask less often."""

    async def main():
        loop = asyncio.get_running_loop()
        order: list[str] = []
        reads, writes = socket.socketpair()
        with contextlib.closing(writes):
            writes.send(b"x")
            for _ in range(100):
                await asyncio.sleep(0)
            if pipe:
                end = os.fdopen(reads.detach(), "rb", buffering=0)
                transport, log = await loop.connect_read_pipe(Log, end)
                for _ in range(3):
                    await asyncio.sleep(0)
                assert log.data == b"x"
                transport.close()
                return
            reads.setblocking(False)
            with contextlib.closing(reads):
                loop.add_reader(reads, lambda: (loop.remove_reader(reads), order.append("reader")))
                loop.call_soon(loop.call_soon, order.append, "later")
                await until(lambda: len(order) == 2)
                assert order == ["reader", "later"]

    run(main())


@pytest.mark.skipif(
    not hasattr(asyncio.events, "_ThreadSafeHandle"), reason="this asyncio's handles have no lock"
)
def test_who_cancels_in_another_thread_waits_for_the_callback(run_std):
    async def main():
        loop = asyncio.get_running_loop()
        runs, cancelled = threading.Event(), threading.Event()
        early: list[bool] = []

        def callback():
            runs.set()
            early.append(cancelled.wait(0.05))

        def cancel():
            runs.wait()
            handle.cancel()
            cancelled.set()

        thread = threading.Thread(target=cancel)
        handle = loop.call_soon_threadsafe(callback)
        thread.start()
        await until(cancelled.is_set)
        thread.join()
        assert early == [False]
        assert handle.cancelled()

    run_std(main())


def test_what_a_callback_raised_is_being_handled(run):
    """logging.exception() in the loop's exception handler prints it."""
    seen = []

    class Raises(asyncio.Protocol):
        def data_received(self, data):
            raise ValueError("data")

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: seen.append(str(sys.exc_info()[1])))
        loop.call_soon(lambda: 1 / 0)
        async with pair(Raises) as (client, _):
            client.transport.write(b"x")
            await client.lost
        loop.call_soon(lambda: seen.append(sys.exc_info()[1]))
        await asyncio.sleep(0)

    run(main())
    assert seen == ["division by zero", "data", None]


def test_an_error_received_is_being_handled(run_std):
    async def main():
        loop = asyncio.get_running_loop()
        seen = loop.create_future()

        class Told(asyncio.DatagramProtocol):
            def error_received(self, exc):
                seen.set_result(sys.exc_info()[1] is exc)

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
            gone.bind((HOST, 0))
            address = gone.getsockname()
        transport, _ = await loop.create_datagram_endpoint(Told, remote_addr=address)
        transport.sendto(b"x")
        assert await seen
        transport.close()

    run_std(main())


def test_what_was_being_handled_outside_is_not_inside_afterwards(run_std):
    """A coroutine that is stepped while its caller handles an exception, as an eager task."""

    async def main():
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=(HOST, 9)
        )

        async def told_of_an_error():
            transport.sendto(bytes(70_000))
            await asyncio.sleep(0)
            return sys.exc_info()[1]

        steps = told_of_an_error()
        try:
            raise KeyError
        except KeyError:
            steps.send(None)
        with pytest.raises(StopIteration) as end:
            steps.send(None)
        assert end.value.value is None
        transport.close()

    run_std(main())
