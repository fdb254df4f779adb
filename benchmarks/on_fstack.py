"""The places of run.py's `--fstack`: uvloop on kernel sockets, ffloop on F-Stack, over veth."""

from __future__ import annotations

import contextlib
import pathlib
import signal
import sys
from collections.abc import Iterator

from ffloop._cli.bench.measure import Failed, Place

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests"))
APP_CPU, STACK_CPU = 1, 0  # F-Stack polls a CPU of its own


@contextlib.contextmanager
def on_fstack(delays: list[int]) -> Iterator[list[Place]]:
    """uvloop on kernel sockets over a veth pair, with the CPUs that F-Stack leaves on this machine
    and with its CPU as well; ffloop on F-Stack over an equal pair, for each pkt_tx_delay.
    Raises Failed with what is missing."""
    from fstack import net

    if reason := net.missing():
        raise Failed(reason)
    both, one = frozenset((STACK_CPU, APP_CPU)), frozenset((APP_CPU,))
    with contextlib.ExitStack() as stack:
        kernel = stack.enter_context(contextlib.closing(net.Net()))
        with net.within(kernel.stack):
            net.run("ip", "link", "set", "lo", "up")
            net.run("ip", "addr", "add", f"{net.STACK}/24", "dev", "stack0")
        places = [
            Place(name, "uvloop", net.STACK, cpus, kernel.stack, kernel.peer, net.within)
            for name, cpus in (("uvloop, 1 CPU", one), ("uvloop, 2 CPUs", both))
        ]
        for delay in delays:
            veth = stack.enter_context(contextlib.closing(net.Net()))
            options = (*net.SHORT_FORM, "--pkt-tx-delay", str(delay))
            options += ("--lcore-mask", hex(1 << STACK_CPU))
            instance = stack.enter_context(contextlib.closing(net.Instance(veth, *options)))
            stack.callback(instance.process.send_signal, signal.SIGCONT)
            instance.process.send_signal(signal.SIGSTOP)
            place = Place(f"ffloop, delay {delay}", "ffloop", net.STACK, one)
            place.environ = {"FFLOOP_INSTANCE": instance.path, "FFLOOP_STACK": "fstack"}
            place.load_namespace, place.within = veth.peer, net.within
            place.polling = instance.process
            places.append(place)
        yield places
