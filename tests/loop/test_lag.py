"""How long iterations worked: counted in every mode, shown to Prometheus."""

import asyncio
import contextlib
import io
import json
import math
import pathlib
import time

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from rich.console import Console

import ffloop
from ffloop._cli import main, tables
from ffloop._session import stats_page

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


@pytest.mark.parametrize("way", ["direct", "spawn"])
def test_others_see_it(way, capsys):
    """In what shows every loop and instance: as text, as a table, for Prometheus, with rates."""
    loop = ffloop.new_event_loop(instance=way)

    def shown():
        one = stats_page.read(loop.instance.pid)
        return one, one.lag if way == "direct" else one.sessions[0].lag

    async def slow_once():
        time.sleep(LONG)

    loop.run_until_complete(asyncio.sleep(0.001))  # in direct mode a page begins with a sleep
    before, _ = shown()
    loop.run_until_complete(slow_once())
    after, lag = shown()
    assert lag == stats_page.Lag(*loop.ffloop_lag())
    assert lag.below(1) >= LONG
    rates = tables.Rates([before], 1.0)
    key = (after.pid,) if way == "direct" else (after.pid, after.sessions[0].id)
    assert sum(lag.since(rates._lags[key]).iterations.values()) < total(lag)
    with contextlib.closing(loop):
        assert main.main(["stat", "--instance", str(after.pid), "--json"]) == 0
        (told,) = json.loads(capsys.readouterr().out)["instances"]
        told = told["lag"] if way == "direct" else told["sessions"][0]["lag"]
        assert told["seconds"] == lag.seconds
        assert list(told["iterations"].values()) == list(lag.iterations.values())
        assert list(told["iterations"])[-1] == "Infinity"
        assert main.main(["stat", "--instance", str(after.pid), "--openmetrics"]) == 0
    families = {
        f.name: f for f in openmetrics.text_string_to_metric_families(capsys.readouterr().out)
    }
    samples = families["ffloop_iteration_seconds"].samples
    assert [s.value for s in samples if s.name.endswith("_count")] == [total(lag)]
    console = Console(width=250, record=True, file=io.StringIO())
    console.print(tables.tables([after], [], 0))
    assert "lag p99" in console.export_text()


def test_counters_have_the_same_names():
    """In direct mode and by ring; and each of them is documented."""
    names = []
    for way in ("direct", "spawn"):
        with contextlib.closing(ffloop.new_event_loop(instance=way)) as loop:
            names.append(set(loop.ffloop_stats()))
    direct, ring = names
    assert direct == ring
    page = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()
    assert {name for name in ring if f"`{name}`" not in page} == set()


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
