"""The world of the kill tests: a survivor, and beside it applications, forked children under the
shim and instances that are killed at random moments under load.

The survivor's requests never stop: none may fail, and their p99 before, during and after is in the
output (pytest -s). Afterwards nothing of the dead may be left with anybody who lives: no
descriptor, no mapping, no session, no socket.
"""

import asyncio
import contextlib
import operator
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from common import instances

import ffloop
from ffloop._session import stats_page

LIMIT = 60.0  # for anything that is waited for
PROGRAMS = Path(__file__).with_name("programs.py")
SHIM = Path(ffloop.__path__[0], "_native", "libff_syscall.so")
KINDS = ("application", "forked child", "instance")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Program:
    """A process that says lines."""

    def __init__(self, *args: str, **environ: str) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("FFLOOP", "FF_"))}
        self.process = subprocess.Popen(args, stdin=-1, stdout=-1, env={**kept, **environ}, cwd="/")
        self.pid = self.process.pid

    async def line(self) -> list[str]:
        assert self.process.stdout
        read = asyncio.get_running_loop().run_in_executor(None, self.process.stdout.readline)
        words = (await asyncio.wait_for(read, LIMIT)).decode().split()
        assert words, f"{self.process.args} has ended"
        return words

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(LIMIT)
        self.process.stdin.close()
        self.process.stdout.close()


class Started:
    """An instance."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process, self.pid = process, process.pid

    def kill(self) -> None:
        instances.stop(self.process)


class OnHost:
    """Instances with the host stack, named a and b. Another stack has the same members."""

    host = "127.0.0.1"
    tells_peers = True  # one that is killed ends its connections

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> str:
        return str(self.folder / f"{name}.sock")

    async def instance(self, name: str) -> Any:
        """Starts it; what comes back has a pid, and kill() and its end in that."""
        return Started(await asyncio.to_thread(instances.start, self.path(name), "--no-huge"))

    async def connect(self, name: str, port: int) -> Streams:
        """To a port of the instance's, from outside."""
        return await asyncio.open_connection(self.host, port)


def holds(pid: int) -> dict[str, int]:
    """What a process holds: descriptors by kind, and mapped segments."""
    kinds: Counter[str] = Counter()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            kinds[re.sub("[0-9]+", "#", os.readlink(f"/proc/{pid}/fd/{fd}"))] += 1
    maps = Path(f"/proc/{pid}/maps").read_text()
    kinds["segments mapped"] = maps.count("memfd:ffloop-segment")
    return dict(kinds)


def lives(pid: int) -> tuple[list[int], int]:
    """Of an instance: the pids of its sessions (those that are ending too), and its sockets."""
    seen = stats_page.read(pid)
    return sorted(s.pid for s in seen.sessions), len(seen.sockets)


async def until_same(look, wanted, same=operator.eq) -> None:
    end = time.monotonic() + LIMIT
    while not same(found := look(), wanted):
        assert time.monotonic() < end, f"left behind: {found}, and before: {wanted}"
        await asyncio.sleep(0.01)


def no_more(found: dict[str, int], before: dict[str, int]) -> bool:
    """`before` was perhaps looked at while something of the first dead was still being closed."""
    return all(count <= before.get(kind, 0) for kind, count in found.items())


class Survivor:
    """Requests to a server that nobody kills; each is timed, and none may fail. `quiet`: seconds
    before and after."""

    def __init__(self, where: Any, port: int, quiet: float) -> None:
        self.where, self.port, self.quiet = where, port, quiet
        self.took: dict[str, list[float]] = {}
        self.phase = ""
        self.tasks: list[asyncio.Task[None]] = []

    async def ask(self) -> None:
        reader, writer = await self.where.connect("a", self.port)
        while (phase := self.phase) != "end":
            began = time.perf_counter()
            writer.write(b"x" * 200)
            await asyncio.wait_for(reader.readexactly(200), LIMIT)
            self.took.setdefault(phase, []).append(time.perf_counter() - began)
            await asyncio.sleep(0.002)
        writer.close()
        await writer.wait_closed()

    async def live(self, phase: str) -> None:
        self.phase = phase
        self.tasks = self.tasks or [asyncio.ensure_future(self.ask()) for _ in range(4)]
        if phase in ("before", "after"):
            await asyncio.sleep(self.quiet)
            await self.counts(phase)

    async def counts(self, phase: str) -> None:
        """Until there are enough requests for a percentile."""
        await until_same(lambda: len(self.took.get(phase, ())) > 100, True)

    async def end(self) -> None:
        self.phase = "end"
        await asyncio.gather(*self.tasks)

    def table(self) -> str:
        lines = [f"{'':8}{'requests':>10}{'p50 ms':>10}{'p99 ms':>10}{'worst ms':>10}"]
        for phase, took in self.took.items():
            cuts = statistics.quantiles(took, n=100)
            figures = (f"{s * 1e3:10.2f}" for s in (cuts[49], cuts[98], max(took)))
            lines.append(f"{phase:8}{len(took):10}{''.join(figures)}")
        return "\n".join(lines)


class Load:
    """Connections that ask a server without a pause, until it dies (or `stop`)."""

    def __init__(self, where: Any, name: str, port: int, connections: int = 4) -> None:
        self.answers = 0
        ask = [self.ask(where.connect(name, port)) for _ in range(connections)]
        self.tasks = [asyncio.ensure_future(each) for each in ask]

    async def ask(self, connect: Coroutine[Any, Any, Streams]) -> None:
        with contextlib.suppress(OSError, EOFError):
            reader, writer = await connect
            with contextlib.closing(writer):
                while True:
                    writer.write(b"y" * 3000)
                    await reader.readexactly(3000)
                    self.answers += 1

    async def answered(self) -> None:
        before = self.answers
        await until_same(lambda: self.answers > before or all(t.done() for t in self.tasks), True)

    async def ended(self) -> None:
        """The peer's death ends all: the instance has closed the sockets."""
        await asyncio.wait_for(asyncio.gather(*self.tasks), LIMIT)

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class World:
    """Instance A, which lives, with the survivor, a breeder of applications and a forking server;
    instance B, which dies, with an application that attaches anew each time."""

    def __init__(self, where: Any) -> None:
        self.where = where

    def program(self, instance: str, name: str, **environ: str) -> Program:
        command = (sys.executable, str(PROGRAMS), name, self.where.host)
        return Program(*command, FFLOOP_INSTANCE=self.where.path(instance), **environ)

    async def begin(self) -> None:
        self.a, self.b = await self.where.instance("a"), await self.where.instance("b")
        self.survivor = self.program("a", "serve")
        self.breeder = self.program("a", "breed")
        self.forker = self.program("a", "prefork", LD_PRELOAD=str(SHIM))
        self.attacher = self.program("b", "serve", FFLOOP_RECONNECT="1")
        self.survivor_port = int((await self.survivor.line())[1])
        await self.breeder.line()
        self.forker_port = int((await self.forker.line())[1])
        self.attacher_port = int((await self.attacher.line())[1])
        self.workers = [int((await self.forker.line())[0]) for _ in range(2)]

    def those_who_live(self) -> list[int]:
        return [p.pid for p in (self.a, self.survivor, self.breeder, self.forker, self.attacher)]

    def end(self) -> None:
        for name in ("attacher", "forker", "breeder", "survivor", "b", "a"):
            if hasattr(self, name):
                getattr(self, name).kill()

    async def kill_application(self, rng: random.Random) -> None:
        self.breeder.process.stdin.write(b"\n")
        self.breeder.process.stdin.flush()
        pid, port = map(int, await self.breeder.line())
        load = Load(self.where, "a", port)
        await load.answered()
        await asyncio.sleep(rng.random() * 0.02)
        os.kill(pid, signal.SIGKILL)
        await load.ended()

    async def kill_forked_child(self, rng: random.Random) -> None:
        load = Load(self.where, "a", self.forker_port)
        await load.answered()
        await asyncio.sleep(rng.random() * 0.02)
        os.kill(self.workers.pop(rng.randrange(2)), signal.SIGKILL)
        self.workers.append(int((await self.forker.line())[0]))
        other = Load(
            self.where, "a", self.forker_port, 1
        )  # the one that lives, or the new one, serves
        await other.answered()
        assert other.answers
        for each in (load, other):
            await each.stop()

    async def kill_instance(self, rng: random.Random) -> None:
        load = Load(self.where, "b", self.attacher_port)
        await load.answered()
        await asyncio.sleep(rng.random() * 0.02)
        self.b.kill()
        await (load.ended() if self.where.tells_peers else load.stop())
        self.b = await self.where.instance("b")
        end = time.monotonic() + LIMIT
        while not load.tasks or not load.answers or load.tasks[0].done():
            assert time.monotonic() < end, "the application did not attach again"
            load = Load(self.where, "b", self.attacher_port, 1)
            await load.answered()
        await load.stop()

    async def kill(self, kind: str, rng: random.Random) -> None:
        await getattr(self, "kill_" + kind.replace(" ", "_"))(rng)


async def live_and_die(where: Any, kills: int, quiet: float) -> None:
    """Kills one of each of KINDS, then `kills`, in turn; prints what the survivor saw."""
    rng = random.Random(6)
    w = World(where)
    try:
        await w.begin()
        survivor = Survivor(where, w.survivor_port, quiet)
        await survivor.live("warm up")
        for kind in KINDS:
            await w.kill(kind, rng)  # what is made once and kept
        settled = sorted([w.survivor.pid, w.forker.pid, *w.workers])
        await until_same(lambda: lives(w.a.pid)[0], settled)
        await asyncio.sleep(0.2)
        before = {pid: holds(pid) for pid in w.those_who_live()}
        alive = lives(w.a.pid)
        await survivor.live("before")
        await survivor.live("during")
        began = time.perf_counter()
        for i in range(kills):
            await w.kill(KINDS[i % 3], rng)
        took = time.perf_counter() - began
        await survivor.counts("during")
        await survivor.live("after")
        settled = sorted([w.survivor.pid, w.forker.pid, *w.workers])
        await until_same(lambda: lives(w.a.pid), (settled, alive[1]))
        for pid, held in before.items():
            await until_same(lambda pid=pid: holds(pid), held, no_more)
        await survivor.end()
        print(f"\n{kills} kills in {took:.0f} s, a third each: {', '.join(KINDS)}")
        print(survivor.table())
        print("held by instance A, before and after:", before[w.a.pid])
    finally:
        w.end()
