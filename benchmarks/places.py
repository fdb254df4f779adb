"""Where run.py measures a loop: host, CPUs and network namespace; and the places on F-Stack."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests"))
APP_CPU, STACK_CPU = 1, 0  # F-Stack polls a CPU of its own


@dataclasses.dataclass
class Place:
    name: str
    loop: str
    host: str = "127.0.0.1"
    cpus: frozenset[int] = frozenset()  # of the server and of wrk; empty: any
    server_namespace: int | None = None  # descriptors
    wrk_namespace: int | None = None
    environ: dict[str, str] = dataclasses.field(default_factory=dict)
    instance: Any = None  # F-Stack's: stopped while others are measured, for it polls

    def popen(self, namespace: int | None, command: list[str], **options: Any) -> Any:
        """A process in a namespace, on the place's CPUs."""
        if self.cpus:
            command = ["taskset", "-c", ",".join(map(str, sorted(self.cpus))), *command]
        with _within(namespace):
            return subprocess.Popen(command, **options)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        if self.instance is None:
            yield
            return
        self.instance.process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.instance.process.send_signal(signal.SIGSTOP)


def _within(namespace: int | None) -> Any:
    if namespace is None:
        return contextlib.nullcontext()
    from fstack import net

    return net.within(namespace)


@contextlib.contextmanager
def on_fstack(delays: list[int]) -> Iterator[list[Place]]:
    """uvloop on kernel sockets over a veth pair, with the CPUs that F-Stack leaves on this machine
    and with its CPU as well; ffloop on F-Stack over an equal pair, for each pkt_tx_delay.
    Raises RuntimeError with what is missing."""
    from fstack import net

    if reason := net.missing():
        raise RuntimeError(reason)
    both, one = frozenset((STACK_CPU, APP_CPU)), frozenset((APP_CPU,))
    with contextlib.ExitStack() as stack:
        kernel = stack.enter_context(contextlib.closing(net.Net()))
        with net.within(kernel.stack):
            net.run("ip", "link", "set", "lo", "up")
            net.run("ip", "addr", "add", f"{net.STACK}/24", "dev", "stack0")
        where = {"host": net.STACK, "server_namespace": kernel.stack, "wrk_namespace": kernel.peer}
        places = [
            Place("uvloop, 1 CPU", "uvloop", cpus=one, **where),
            Place("uvloop, 2 CPUs", "uvloop", cpus=both, **where),
        ]
        for delay in delays:
            veth = stack.enter_context(contextlib.closing(net.Net()))
            options = (*net.SHORT_FORM, "--pkt-tx-delay", str(delay))
            options += ("--lcore-mask", hex(1 << STACK_CPU))
            instance = stack.enter_context(contextlib.closing(net.Instance(veth, *options)))
            stack.callback(instance.process.send_signal, signal.SIGCONT)
            instance.process.send_signal(signal.SIGSTOP)
            environ = {"FFLOOP_INSTANCE": instance.path, "FFLOOP_STACK": "fstack"}
            place = Place(f"ffloop, delay {delay}", "ffloop", net.STACK, one, instance=instance)
            place.environ, place.wrk_namespace = environ, veth.peer
            places.append(place)
        yield places


def plain(loops: list[str]) -> list[Place]:
    """The loops on this machine's loopback, each ffloop server with an instance of its own."""
    return [Place(loop, loop) for loop in loops]
