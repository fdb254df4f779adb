"""The places of run.py's `--fstack`: uvloop on kernel sockets, ffloop on F-Stack, over veth."""

from __future__ import annotations

import contextlib
import pathlib
import shlex
import signal
import sys
from collections.abc import Iterator
from typing import Any

from ffloop._cli.bench.measure import Failed, Place

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests"))
STACK_CPU, APP_CPU = frozenset((0,)), frozenset((1,))  # F-Stack polls a CPU of its own
# The CPUs of a server and of its load. With an instance both have only what F-Stack leaves.
UVLOOPS = {
    "uvloop, 1 CPU": (APP_CPU, APP_CPU),
    "uvloop, 2 CPUs": (STACK_CPU | APP_CPU, STACK_CPU | APP_CPU),
    "uvloop, CPU of its own": (STACK_CPU, APP_CPU),
}


@contextlib.contextmanager
def on_fstack(delays: list[int]) -> Iterator[list[Place]]:
    """The places: uvloop on kernel sockets over a veth pair, on the CPU that F-Stack leaves, on
    both CPUs, and on F-Stack's; ffloop on F-Stack over equal pairs, by an instance for each
    pkt_tx_delay (µs), and direct on F-Stack's CPU. Raises Failed with what is missing."""
    from fstack import net

    if reason := net.missing():
        raise Failed(reason)

    def place(name: str, loop: str, veth: net.Net, inside: int | None, **more: Any) -> Place:
        made = Place(name, loop, net.STACK, server_namespace=inside, **more)
        made.load_namespace, made.within = veth.peer, net.within
        return made

    with contextlib.ExitStack() as stack:

        def pair() -> net.Net:
            return stack.enter_context(contextlib.closing(net.Net()))

        kernel = pair()
        with net.within(kernel.stack):
            net.run("ip", "link", "set", "lo", "up")
            net.run("ip", "addr", "add", f"{net.STACK}/24", "dev", "stack0")
        places = [
            place(name, "uvloop", kernel, kernel.stack, cpus=cpus, load_cpus=load)
            for name, (cpus, load) in UVLOOPS.items()
        ]
        on_cpu = (*net.SHORT_FORM, "--lcore-mask", hex(sum(1 << cpu for cpu in STACK_CPU)))
        for delay in delays:
            veth = pair()
            options = (*on_cpu, "--pkt-tx-delay", str(delay))
            instance = stack.enter_context(contextlib.closing(net.Instance(veth, *options)))
            stack.callback(instance.process.send_signal, signal.SIGCONT)
            instance.process.send_signal(signal.SIGSTOP)
            environ = {"FFLOOP_INSTANCE": instance.path, "FFLOOP_STACK": "fstack"}
            name = f"ffloop, delay {delay}"
            places.append(place(name, "ffloop", veth, None, cpus=APP_CPU, environ=environ))
            places[-1].polling = instance.process
        veth = pair()
        environ = {"FFLOOP_INSTANCE": "direct", "FFLOOP_STACK": "fstack"}
        environ["FFLOOP_FSTACK"] = shlex.join(on_cpu)
        direct = place("ffloop direct", "ffloop", veth, veth.stack, cpus=STACK_CPU, environ=environ)
        direct.load_cpus, direct.server_polls = APP_CPU, True
        yield [*places, direct]
