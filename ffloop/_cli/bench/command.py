"""The command `ffloop bench`: checks the request, shows progress, prints tables, writes files."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from . import chart, measure
from .measure import Failed, Place, Server

if TYPE_CHECKING:
    from rich.table import Table

_RING = {
    "spin": "ring alone, two CPUs, both spin",
    "sleep": "ring alone, two CPUs, both sleep",
    "sleep_one_cpu": "ring alone, one CPU, both sleep",
    "nop_spin": "client and instance, two CPUs, the instance spins",
    "nop_sleep": "client and instance, two CPUs, both sleep",
    "nop_sleep_one_cpu": "client and instance, one CPU, both sleep",
}


_CONGESTION = pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control")


# ---- can it be measured? -------------------------------------------------------------------------


def _missing(args: argparse.Namespace) -> str | None:
    """Why args cannot be measured (a package, program, descriptor or file is missing), and what to
    do; None: nothing is missing."""
    wanted = {
        "uvloop": (args.loops, ", or measure without it: --loops asyncio,ffloop"),
        "rloop": (args.loops, ""),
        "aiohttp": (args.apps, ", or measure without it: --apps raw,ring"),
        "matplotlib": (["matplotlib"] if args.chart else [], ""),
    }
    for package, (words, other) in wanted.items():
        if package in words and importlib.util.find_spec(package) is None:
            from_where = "rloop" if package == "rloop" else "'ffloop[bench]'"
            return f"{package} is not installed: pip install {from_where}{other}"
    tls = "tls" in args.apps
    for program, needed in (("wrk", args.load == "wrk" or tls), ("openssl", tls)):
        if needed and shutil.which(program) is None:
            without = "leave tls out of --apps" if tls else "--load own does without"
            return f"{program} is not installed (Debian: apt-get install {program}); {without}"
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    for count in (*args.connections, args.idle or 0):
        if count + 64 > descriptors:  # and a process's other descriptors
            return f"{count} connections take more than {descriptors} descriptors: raise ulimit -n"
    for path in (args.json, args.chart):
        if path is None:
            continue
        if not path.resolve().parent.is_dir():
            return f"{path}: there is no such directory"
        if path.is_dir() or not os.access(
            path if path.exists() else path.resolve().parent, os.W_OK
        ):
            return f"{path}: cannot be written"
    return None


def main(args: argparse.Namespace, places: Any = None, base: str = "uvloop") -> int:
    """Measures and reports. `places`: a context manager of the places to measure in (default: this
    machine's loopback); `base`: the loop whose figures are 1.00. Returns an exit status."""
    problem = _missing(args)
    if problem is not None:
        print(f"ffloop bench: {problem}", file=sys.stderr)
        return 2
    if args.load is None:
        args.load = "wrk" if shutil.which("wrk") else "own"
    about = machine(args.load)
    done: dict[str, Any] = {"machine": about, "results": [], "ring": []}
    status = 0
    try:
        with places or contextlib.nullcontext(measure.plain(args.loops)) as found:
            _measure(args, found, done)
    except Failed as exc:
        print(f"ffloop bench: {exc}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        return 130
    _report(args, done, base)  # a failure loses nothing measured before
    return status


def machine(load: str) -> dict[str, Any]:
    """The versions and the machine that the figures depend on. (With TCP's congestion control bbr,
    its pacing decides the figures of large bodies, on loopback too.)"""
    versions = {}
    for package in ("ffloop", "uvloop", "rloop", "aiohttp"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "congestion_control": _CONGESTION.read_text().strip() if _CONGESTION.exists() else "",
        "load": load,
        "packages": versions,
    }


# ---- measuring -----------------------------------------------------------------------------------


def _measure(args: argparse.Namespace, places: list[Place], done: dict[str, Any]) -> None:
    apps = [app for app in args.apps if app != "ring"]
    if args.idle is not None:
        with _progress(len(apps) * len(places)) as step:
            for app in apps:
                for row in measure.idle(places, app, args.idle, args.seconds):
                    done["results"].append(row)
                    step(f"{app}, {row['loop']}, idle")
        return
    runs = len(places) * (args.rounds + 1)
    cases = [(app, size) for app in apps for size in args.bytes or measure.APPS[app].sizes]
    total = len(cases) * len(args.connections) * runs
    with _progress(total + ("ring" in args.apps)) as step:

        def load(where: Server, connections: int, warm: bool) -> dict[str, float]:
            seconds = min(1, args.seconds) if warm else args.seconds
            measured = measure.load(args.load == "wrk", where, connections, seconds)
            step(f"{app}, {where.place.name}, {connections} connections")
            return measured

        for app, size in cases:
            done["results"] += measure.compare(
                places, app, size, args.connections, args.rounds, load
            )
        if "ring" in args.apps:
            done["ring"] = measure.ring(4)
            step("ring")


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=total)
        yield lambda what: progress.update(task, advance=1, description=what)


# ---- the report ----------------------------------------------------------------------------------


def _report(args: argparse.Namespace, done: dict[str, Any], base: str) -> None:
    from rich.console import Console

    about, results = done["machine"], done["results"]
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 130)
    title = f"Python {about['python']}, {about['cores']} cores, load {about['load_before']:.2f}"
    kernel = f"Linux {about['kernel']} {about['congestion_control']}".rstrip()
    console.print(f"{title}, {about['machine']}, {kernel}")
    if args.idle is not None:
        console.print(_idle_table(results))
    elif results:
        console.print(_table(results, base))
    if done["ring"]:
        console.print(_ring_table(done["ring"]))
    if args.json is not None:
        args.json.write_text(json.dumps(done, indent=1))
    if args.chart is not None and results and args.idle is None:
        chart.draw(results, args.chart, title)


def _new_table(title: str, *columns: str, left: int = 1) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < left else "right", no_wrap=True)
    return table


def _table(results: list[dict[str, Any]], base: str) -> Table:
    """The medians. The last two columns are ratios to `base` in the same case."""
    found = next((r["loop"] for r in results if base in r["loop"]), None)
    peers = {(r["app"], r["bytes"], r["connections"]): r for r in results if r["loop"] == found}
    ratios = (f"req/s x {found}", "CPU x") if found else ()
    table = _new_table(
        "Medians; CPU µs per request (of it the instance's), latency in µs",
        *("app", "loop", "bytes", "conn.", "req/s", "MiB/s", "CPU", "instance"),
        *("p50", "p99", *ratios),
        left=2,
    )
    before = None
    for r in results:
        case = (r["app"], r["bytes"], r["connections"])
        if before not in (None, case):
            table.add_section()
        before = case
        cells = [r["app"], r["loop"], str(r["bytes"] or "small"), str(r["connections"])]
        cells += [f"{r['rps']:.0f}", f"{r['mib_s']:.0f}", f"{r['cpu_us']:.2f}"]
        cells += [f"{r['instance_us']:.2f}" if r["instance_us"] else "-"]
        cells += [f"{r['p50_us']:.0f}", f"{r['p99_us']:.0f}"]
        if found and r["loop"] != found:
            cells += [f"{r[key] / max(peers[case][key], 1e-9):.2f}" for key in ("rps", "cpu_us")]
        table.add_row(*cells)
    return table


def _idle_table(results: list[dict[str, Any]]) -> Table:
    columns = ("idle conn.", "app %", "instance %", "app KiB", "instance KiB")
    table = _new_table("CPU and memory of idle connections", "app", "loop", *columns, left=2)
    for r in results:
        cells = [r["app"], r["loop"], str(r["idle_connections"])]
        cells += [f"{r['app_percent']:.2f}", f"{r['instance_percent']:.2f}"]
        table.add_row(*cells, str(r["app_kib"]), str(r["instance_kib"] or "-"))
    return table


def _ring_table(results: list[dict[str, Any]]) -> Table:
    table = _new_table("The ring: ns a round trip, in C", "", "p50", "p99", "least")
    for r in results:
        figures = [f"{r[key]:.0f}" for key in ("p50_ns", "p99_ns", "min_ns")]
        table.add_row(_RING.get(r["what"], r["what"]), *figures)
    return table
