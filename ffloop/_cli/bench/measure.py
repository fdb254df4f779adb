"""Runs each server in a process of its own, loads it, and measures the cost.

A case is an application, a body's size and a number of connections. Each round of a case measures
every loop, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..._session.discovery import executable
from . import procs

_HERE = pathlib.Path(__file__).resolve().parent


@dataclass(frozen=True)
class App:
    """An application: the traffic that measures it, the sizes measured (bytes; 0: a small answer),
    and its name in server.py ("": the same name)."""

    traffic: str
    sizes: tuple[int, ...]
    server: str = ""


APPS = {
    "raw": App("http", (0, 65536, 1048576)),
    "aiohttp": App("http", (0, 65536, 1048576)),
    "tls": App("https", (0, 65536)),
    "connect": App("connect", (0,), "raw"),
    "echo-protocol": App("echo", (1024, 10240, 102400)),
    "echo-streams": App("echo", (1024, 10240, 102400)),
    "echo-sockets": App("echo", (1024, 10240, 102400)),
}


@dataclass
class Place:
    """Where a loop is measured: host, CPUs, network namespaces (descriptors), and the process that
    polls (an instance, or the server itself), which is stopped while others are measured."""

    name: str
    loop: str
    host: str = "127.0.0.1"
    cpus: frozenset[int] = frozenset()  # of the server; empty: any
    load_cpus: frozenset[int] = frozenset()  # empty: the server's
    server_namespace: int | None = None
    load_namespace: int | None = None
    within: Callable[[int], Any] | None = None  # enters a namespace
    environ: dict[str, str] = field(default_factory=dict)
    polling: subprocess.Popen[Any] | None = None
    server_polls: bool = False

    def popen(
        self, namespace: int | None, cpus: frozenset[int], command: list[str], **options: Any
    ) -> subprocess.Popen[str]:
        """Starts a process in a namespace, on the CPUs (empty: any)."""
        if cpus:
            command = ["taskset", "-c", ",".join(map(str, sorted(cpus))), *command]
        with contextlib.ExitStack() as stack:
            if namespace is not None and self.within is not None:
                stack.enter_context(self.within(namespace))
            # A group of its own: Ctrl-C reaches the command, which ends the process.
            return subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, process_group=0, **options
            )

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        if self.polling is None:
            yield
            return
        self.polling.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.polling.send_signal(signal.SIGSTOP)


def plain(loops: list[str]) -> list[Place]:
    """The loops on this machine's loopback."""
    return [Place(loop, loop) for loop in loops]


@dataclass
class Server:
    place: Place
    app: str
    size: int
    pid: int
    port: int
    instance: int | None

    def cpu(self) -> tuple[float, float]:
        """CPU seconds so far of the application and of the instance."""
        instance = procs.cpu_seconds(self.instance) if self.instance else 0.0
        return procs.cpu_seconds(self.pid), instance


class Failed(Exception):
    """A sentence that says what could not be measured."""


@contextlib.contextmanager
def server(place: Place, app: str, size: int) -> Iterator[Server]:
    """A server of `app` that answers with `size` bytes (0: a small answer). Raises Failed."""
    # The server gets an embedded instance of its own, not this process's.
    environ = {k: v for k, v in os.environ.items() if k != "_FFLOOP_EMBEDDED"}
    process = place.popen(
        place.server_namespace,
        place.cpus,
        [
            *(sys.executable, "-P", str(_HERE / "server.py")),
            *(place.loop, APPS[app].server or app, str(size), place.host),
        ],
        stdin=subprocess.PIPE,
        env=environ | place.environ,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    if place.server_polls:
        place.polling = process
    try:
        with place.running():
            line = process.stdout.readline()
        if not line:
            raise Failed(f"the {place.name} server of {app} did not start")
        said = json.loads(line)
        owner = said["instance"] or procs.listener(said["port"])
        instance = None if owner == said["pid"] else owner
        yield Server(place, app, size, said["pid"], said["port"], instance)
    finally:
        process.stdin.close()
        process.terminate()
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _program(name: str) -> pathlib.Path:
    return pathlib.Path(executable()).with_name(name)


def _command(wrk: bool, where: Server, connections: int, seconds: float) -> list[str]:
    host, port = where.place.host, str(where.port)
    traffic = APPS[where.app].traffic
    if wrk and traffic in ("http", "https"):
        # (Its own time-out is 2 s: on a busy machine a late answer is no error.)
        duration = f"-d{max(1, round(seconds))}s"
        command = ["wrk", "-t1", f"-c{connections}", duration, "--timeout", "60s"]
        return [*command, "-s", str(_HERE / "report.lua"), f"{traffic}://{host}:{port}/"]
    program = str(_program("ffloop-load"))
    return [program, traffic, host, port, str(connections), str(seconds), str(where.size)]


def load(wrk: bool, where: Server, connections: int, seconds: float) -> dict[str, float]:
    """Loads a server once, by wrk (`wrk`, HTTP only) or else by ffloop-load. Returns requests and
    MiB per second, CPU microseconds per request, and latency in microseconds. Raises Failed."""
    place = where.place
    with place.running():
        app, instance = where.cpu()
        command = _command(wrk, where, connections, seconds)
        process = place.popen(place.load_namespace, place.load_cpus or place.cpus, command)
        try:
            output, _ = process.communicate()
        finally:
            process.kill()
        app_after, instance_after = where.cpu()
    found = re.search(r"^RESULT (.*)$", output, re.M)
    if process.returncode or found is None:
        raise Failed(f"{command[0]} said:\n{output}")
    said: dict[str, float] = json.loads(found[1])
    if said["errors"] or not said["requests"]:
        raise Failed(f"{place.name}: {said['errors']} errors in {said['requests']} requests")
    requests = said["requests"]
    return {
        "rps": said["requests"] / said["seconds"],
        "mib_s": said["bytes"] / said["seconds"] / 2**20,
        "cpu_us": (app_after - app + instance_after - instance) / requests * 1e6,
        "app_us": (app_after - app) / requests * 1e6,
        "instance_us": (instance_after - instance) / requests * 1e6,
        "p50_us": said["p50"],
        "p99_us": said["p99"],
    }


def compare(
    places: list[Place],
    app: str,
    size: int,
    connections: list[int],
    rounds: int,
    run: Callable[[Server, int, bool], dict[str, float]],
) -> Iterator[dict[str, Any]]:
    """Starts a server per place, and yields the medians, a row per number of connections and loop.
    `run(server, connections, warm)` makes the load; each server has a warm run before the rounds.
    Raises Failed."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(server(place, app, size)) for place in places]
        for row in round_robin(servers, connections, rounds, run):
            yield {"app": app, "bytes": size, **row}


def round_robin(
    servers: list[Server],
    connections: list[int],
    rounds: int,
    run: Callable[[Server, int, bool], dict[str, float]],
) -> Iterator[dict[str, Any]]:
    """As compare(), for servers that run already; rows without app and bytes."""
    for count in connections:
        runs: dict[str, list[dict[str, float]]] = {each.place.name: [] for each in servers}
        for each in servers:
            run(each, count, True)
        for _ in range(rounds):
            for each in servers:
                runs[each.place.name].append(run(each, count, False))
        for loop, measured in runs.items():
            yield {
                "connections": count,
                "loop": loop,
                **{key: statistics.median(r[key] for r in measured) for key in measured[0]},
                "rounds": measured,
            }


def idle(places: list[Place], app: str, count: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Yields CPU (%) and memory (KiB) of each place's server with `count` idle connections. Raises
    Failed."""
    for place in places:
        with server(place, app, 0) as each, contextlib.ExitStack() as stack:
            for _ in range(count):
                peer = socket.create_connection((place.host, each.port))
                stack.callback(peer.close)
                peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                peer.recv(65536)
            time.sleep(1)
            before, began = each.cpu(), time.monotonic()
            time.sleep(seconds)
            after, passed = each.cpu(), time.monotonic() - began
            yield {
                "app": app,
                "idle_connections": count,
                "loop": place.name,
                "app_percent": (after[0] - before[0]) / passed * 100,
                "instance_percent": (after[1] - before[1]) / passed * 100,
                "app_kib": procs.resident_kib(each.pid),
                "instance_kib": procs.resident_kib(each.instance) if each.instance else 0,
            }


def ring(scale: int) -> list[dict[str, Any]]:
    """Measures round trips over the ring, without Python: a row of names and nanoseconds per way
    of waiting. `scale` divides the number of trips. Raises Failed."""
    program = _program("ffloop-ring-bench")
    try:
        done = subprocess.run(
            [program, "--scale", str(scale), "--json", "-"], capture_output=True, text=True
        )
    except OSError as exc:
        raise Failed(f"{program}: {exc.strerror}: reinstall ffloop") from None
    if done.returncode:
        raise Failed(f"{program.name} said: {done.stderr.strip()}")
    said = json.loads(done.stdout.splitlines()[-1])
    return [{"what": key, **value} for key, value in said.items() if isinstance(value, dict)]
