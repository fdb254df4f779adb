"""The loop's turn: call_soon, handles, timers. ffloop's is compiled, and must be asyncio's."""

import asyncio
import contextvars
import gc
import time
import weakref

import pytest

import ffloop

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

        # It may cancel itself, and others of the same turn.
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


def test_a_callback_that_raises(run_std):
    """It is reported with its handle, and the rest of the turn runs."""

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
    """In order of time, never early; cancelled ones go, many or few; stop() ends the turn."""

    async def main():
        loop = asyncio.get_running_loop()
        calls: list[object] = []
        begun = loop.time()
        for i in (3, 1, 2):
            loop.call_later(i / 100, calls.append, i)
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
            loop.call_soon(calls.append, "next turn")

        loop.call_soon(first)
        loop.call_soon(calls.append, "second")
        await asyncio.sleep(0)
        assert calls == ["first", "second"]
        await asyncio.sleep(0)
        assert calls == ["first", "second", "next turn"]

    run_std(main())


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
    from ffloop import Loop

    class Mine(Loop):
        soon = turns = 0

        def call_soon(self, callback, *args, context=None):
            self.soon += 1
            return super().call_soon(callback, *args, context=context)

        def _run_once(self):
            self.turns += 1
            super()._run_once()

    class Clock(Loop):
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
        assert runner.get_loop().turns > 0


def test_a_closed_loop_is_collected():
    """The compiled turn keeps no loop alive."""
    import ffloop

    loop = ffloop.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    ref = weakref.ref(loop)
    del loop
    gc.collect()
    assert ref() is None


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
