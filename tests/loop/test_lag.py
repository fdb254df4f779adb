"""How long iterations worked: counted in every mode, shown to Prometheus."""

import asyncio
import math
import time

import pytest

import ffloop

LONG = 0.03


def total(lag):
    return sum(lag.iterations.values())


def slow(lag):
    """Iterations that worked for LONG or more."""
    return sum(count for bound, count in lag.iterations.items() if bound > LONG)


def test_a_blocking_callback_is_seen(run_ff):
    async def main():
        loop = asyncio.get_running_loop()
        before = loop.ffloop_lag()
        loop.call_soon(time.sleep, LONG)  # the loop is kept
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        after = loop.ffloop_lag()
        assert slow(after) > slow(before)
        assert after.seconds - before.seconds >= LONG
        assert list(after.iterations)[-1] == math.inf
        assert list(after.iterations) == sorted(after.iterations)

    run_ff(main())


# (A busy machine may stop the loop at any time: what must not be counted is tried until it is not.)


def test_a_wait_is_none(run_ff):
    async def main():
        loop = asyncio.get_running_loop()
        while True:
            before = loop.ffloop_lag()
            await asyncio.sleep(2 * LONG)
            after = loop.ffloop_lag()
            assert total(after) > total(before)
            if slow(after) == slow(before):
                break

    run_ff(main())


def test_time_between_two_runs_is_none(stack):
    loop = ffloop.new_event_loop()
    while True:
        loop.run_until_complete(asyncio.sleep(0))
        before = loop.ffloop_lag()
        time.sleep(2 * LONG)
        loop.run_until_complete(asyncio.sleep(0))
        after = loop.ffloop_lag()
        assert total(after) > total(before)
        if slow(after) == slow(before):
            break
    loop.close()
    assert loop.ffloop_lag() == after


def test_for_prometheus(stack):
    client = pytest.importorskip("prometheus_client")
    from prometheus_client.parser import text_string_to_metric_families

    loop = ffloop.new_event_loop()
    registry = client.CollectorRegistry()
    registry.register(ffloop.metrics.LoopCollector(loop, "mine"))
    loop.run_until_complete(asyncio.sleep(0))
    text = client.generate_latest(registry).decode()
    (family,) = text_string_to_metric_families(text)
    assert (family.name, family.type) == ("ffloop_loop_lag_seconds", "histogram")
    values = {sample.name.rpartition("_")[2]: sample.value for sample in family.samples}
    assert values["count"] == total(loop.ffloop_lag()) > 0
    assert all(sample.labels["loop"] == "mine" for sample in family.samples)
    assert {sample.labels.get("le") for sample in family.samples} > {"+Inf", "1.024e-06"}
    loop.close()
