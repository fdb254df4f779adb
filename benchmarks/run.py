"""asyncio, uvloop and ffloop in one run: `python benchmarks/run.py`.

Each server is a process of its own; wrk is the load. The rounds of one case go through the loops
in turn, so that a machine that slows down slows them all, and the medians are shown: requests a
second, CPU microseconds a request (of the application, and of the ffloop instance), median and
99th percentile of the latency. `--idle N` measures the CPU that N idle connections cost instead.
`--fstack` compares uvloop on kernel sockets with ffloop on the real F-Stack, over veth pairs, the
server and wrk on one CPU (F-Stack has the other one); it needs what tests/fstack needs.
All of it shares this machine's cores: figures from a busy machine mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import procs
from places import Place, on_fstack, plain

HERE = pathlib.Path(__file__).resolve().parent


@dataclasses.dataclass
class Server:
    place: Place
    pid: int
    port: int
    instance: int | None

    def cpu(self) -> tuple[float, float]:
        instance = procs.cpu_seconds(self.instance) if self.instance else 0.0
        return procs.cpu_seconds(self.pid), instance


@contextlib.contextmanager
def server(place: Place, app: str, size: int) -> Iterator[Server]:
    # A server has an embedded instance of its own, not that of whoever started us.
    environ = {k: v for k, v in os.environ.items() if k != "_FFLOOP_EMBEDDED"}
    process = place.popen(
        place.server_namespace,
        [sys.executable, str(HERE / "server.py"), place.loop, app, str(size), place.host],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environ | place.environ,
    )
    try:
        with place.running():
            line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the {place.name} server did not start")
        said = json.loads(line)
        owner = said["instance"] or procs.listener(said["port"])
        if place.loop == "ffloop" and owner in (None, said["pid"]):
            raise RuntimeError("the ffloop server listens on the kernel, not in an instance")
        instance = None if owner == said["pid"] else owner
        yield Server(place, said["pid"], said["port"], instance)
    finally:
        process.stdin.close()
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def load(where: Server, connections: int, seconds: float) -> dict[str, float]:
    """One run of wrk against a server, with what it cost the server."""
    place = where.place
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
    command += ["-s", str(HERE / "report.lua"), f"http://{place.host}:{where.port}/"]
    with place.running():
        app, instance = where.cpu()
        wrk = place.popen(place.wrk_namespace, command, stdout=subprocess.PIPE, text=True)
        output, _ = wrk.communicate()
        app_after, instance_after = where.cpu()
    found = re.search(r"^RESULT (.*)$", output, re.M)
    if wrk.returncode or found is None:
        raise RuntimeError(f"wrk said:\n{output}")
    said: dict[str, float] = json.loads(found[1])
    if said["errors"] or not said["requests"]:
        raise RuntimeError(f"{place.name}: {said['errors']} errors in {said['requests']} requests")
    requests = said["requests"]
    return {
        "rps": said["requests"] / said["seconds"],
        "mib_s": said["bytes"] / said["seconds"] / 2**20,
        "app_us": (app_after - app) / requests * 1e6,
        "instance_us": (instance_after - instance) / requests * 1e6,
        "p50_us": said["p50"],
        "p99_us": said["p99"],
    }


def compare(args: argparse.Namespace, app: str, size: int) -> Iterator[dict[str, object]]:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(server(place, app, size)) for place in args.places]
        for connections in args.connections:
            runs: dict[str, list[dict[str, float]]] = {p.name: [] for p in args.places}
            for each in servers:
                load(each, connections, 1)
            for _ in range(args.rounds):
                for each in servers:
                    runs[each.place.name].append(load(each, connections, args.seconds))
            for loop, measured in runs.items():
                yield {
                    "app": app,
                    "bytes": size,
                    "connections": connections,
                    "loop": loop,
                    **{key: statistics.median(r[key] for r in measured) for key in measured[0]},
                    "rounds": measured,
                }


def idle(args: argparse.Namespace, app: str) -> Iterator[dict[str, object]]:
    for place in args.places:
        with server(place, app, 0) as each, contextlib.ExitStack() as stack:
            for _ in range(args.idle):
                peer = socket.create_connection(("127.0.0.1", each.port))
                stack.callback(peer.close)
                peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                peer.recv(65536)
            time.sleep(1)
            before, began = each.cpu(), time.monotonic()
            time.sleep(args.seconds)
            after, passed = each.cpu(), time.monotonic() - began
            rss = procs.resident_kib(each.pid)
            instance_rss = procs.resident_kib(each.instance) if each.instance else 0
            yield {
                "app": app,
                "idle_connections": args.idle,
                "loop": place.name,
                "app_percent": (after[0] - before[0]) / passed * 100,
                "instance_percent": (after[1] - before[1]) / passed * 100,
                "app_kib": rss,
                "instance_kib": instance_rss,
            }


def columns(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def show(results: list[dict[str, object]]) -> str:
    head = ["app", "body", "conn.", "loop", "req/s", "MiB/s", "app us", "instance us"]
    rows = [[*head, "p50 us", "p99 us", "req/s x", "app CPU x"]]
    base = next((name for name in (r["loop"] for r in results) if "uvloop" in str(name)), None)
    peers = {(r["app"], r["bytes"], r["connections"]): r for r in results if r["loop"] == base}
    for r in results:
        peer = peers.get((r["app"], r["bytes"], r["connections"]))
        ratios = ["", ""]
        if peer is not None and r["loop"] != base:
            ratios = [f"{r[key] / max(peer[key], 1e-9):.2f}" for key in ("rps", "app_us")]  # type: ignore[operator,call-overload]
        rows.append(
            [str(r["app"]), str(r["bytes"] or "small"), str(r["connections"]), str(r["loop"])]
            + [f"{r['rps']:.0f}", f"{r['mib_s']:.0f}", f"{r['app_us']:.2f}"]
            + [f"{r['instance_us']:.2f}" if r["instance_us"] else "-"]
            + [f"{r['p50_us']:.0f}", f"{r['p99_us']:.0f}", *ratios]
        )
    return columns(rows) + (f"\nx: times that of {base}" if base else "")


def show_idle(results: list[dict[str, object]]) -> str:
    rows = [["app", "idle conn.", "loop", "app %", "instance %", "app KiB", "instance KiB"]]
    for r in results:
        rows.append(
            [str(r["app"]), str(r["idle_connections"]), str(r["loop"])]
            + [f"{r['app_percent']:.2f}", f"{r['instance_percent']:.2f}"]
            + [str(r["app_kib"]), str(r["instance_kib"] or "-")]
        )
    return columns(rows)


def machine() -> dict[str, object]:
    versions = {}
    for package in ("ffloop", "uvloop", "aiohttp"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "packages": versions,
    }


def main() -> int:
    def words(text: str) -> list[str]:
        return text.split(",")

    def numbers(text: str) -> list[int]:
        return [int(word) for word in text.split(",")]

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--loops", type=words, default=["asyncio", "uvloop", "ffloop"])
    parser.add_argument("--apps", type=words, default=["raw", "aiohttp"])
    parser.add_argument("--bytes", type=numbers, default=[0, 65536, 1048576], help="0: small")
    parser.add_argument("--connections", type=numbers, default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=3, help="a run of wrk, or of idling")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle", type=int, metavar="N", help="measure N idle connections instead")
    parser.add_argument("--fstack", action="store_true", help="over veth, on the real F-Stack")
    parser.add_argument("--delays", type=numbers, default=[50, 10], help="pkt_tx_delay, us")
    parser.add_argument("--json", type=pathlib.Path, help="write all rounds to this file")
    args = parser.parse_args()
    about = machine()
    if args.idle is None and shutil.which("wrk") is None:
        print("wrk is not installed (Debian: apt-get install wrk)", file=sys.stderr)
        return 2
    print(f"Python {about['python']}, {about['cores']} cores, load {about['load_before']:.2f}")
    results: list[dict[str, object]] = []
    places = on_fstack(args.delays) if args.fstack else contextlib.nullcontext(plain(args.loops))
    with places as args.places:
        for app in args.apps:
            if args.idle is not None:
                results += idle(args, app)
                continue
            for size in args.bytes:
                for row in compare(args, app, size):
                    results.append(row)
                    print(".", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)
    print(show(results) if args.idle is None else show_idle(results))
    if args.json is not None:
        args.json.write_text(json.dumps({"machine": about, "results": results}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
