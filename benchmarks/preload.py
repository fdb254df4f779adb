"""Measures the shim: against F-Stack's own adapter, and nginx natively and under the shim.

    python benchmarks/preload.py nginx
    python benchmarks/preload.py fork
    python benchmarks/preload.py fstack --adapter LIB --adapter-instance COMMAND

`fstack` runs epoll_server.c under LIB (F-Stack's adapter, its libff_syscall.so) and under the shim,
over equal veth pairs with the same pkt_tx_delay: the stack on CPU 0, the server on CPU 1, wrk on
CPU 1 or, with --load-cpu 0, beside the stack. COMMAND starts the adapter's instance; in COMMAND,
{config} becomes the path of a configuration that this program writes, {interface} the veth's name.
Needs wrk, cc, and what tests/fstack needs.
`nginx` compares Debian's nginx on kernel sockets with nginx on the host stack; worker and instance
are on CPU 1, wrk is on CPU 0.
`fork` has a program with 5,000 sockets fork and spawn, natively and under the shim on the host
stack: CPU time of the program and its children, in ms per child.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ffloop._cli.bench import procs
from ffloop._cli.bench.measure import Failed, Place, Server, load, round_robin

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
STACK_CPU, APP_CPU = 0, 1
PORT = 8080

# The adapter's configuration, equal to ffloop's defaults and its --addr, --gateway, --pkt-tx-delay.
CONFIG = """[dpdk]
lcore_mask={mask:x}
channel=4
promiscuous=1
numa_on=0
memory=256
tx_csum_offoad_skip=0
tso=0
idle_sleep=0
pkt_tx_delay={delay}
port_list=0
[port0]
addr={addr}
netmask=255.255.255.0
broadcast=10.97.0.255
gateway={gateway}
[freebsd.boot]
hz=100
fd_reserve=1024
kern.ipc.maxsockets=262144
[freebsd.sysctl]
kern.ipc.somaxconn=32768
net.inet.tcp.sendspace=16384
net.inet.tcp.recvspace=8192
net.inet.tcp.delayed_ack=1
net.inet.tcp.functions_default=freebsd
"""


@dataclass
class Pair(Place):
    """A server and its instance; both are stopped while others are measured."""

    stopped: list[subprocess.Popen[Any]] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        for each in self.stopped:
            each.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            for each in reversed(self.stopped):
                each.send_signal(signal.SIGSTOP)


def _started(stack: contextlib.ExitStack, command: list[str], **options: Any) -> Any:
    """Starts a process, which ends with `stack`, stopped or not."""
    process = subprocess.Popen(command, **options)
    stack.callback(process.wait)
    stack.callback(process.send_signal, signal.SIGCONT)
    stack.callback(process.terminate)
    return process


def _until(ready: Callable[[], bool], process: subprocess.Popen[Any], what: str) -> None:
    """Waits until ready(), 20 s at most. Raises Failed."""
    until = time.monotonic() + 20
    while not ready():
        if process.poll() is not None or time.monotonic() > until:
            raise Failed(f"{what} did not start")
        time.sleep(0.05)


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), 1) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return bool(peer.recv(1))
    return False


def on_fstack(stack: contextlib.ExitStack, args: argparse.Namespace) -> list[Server]:
    """Servers of epoll_server.c under the adapter and under the shim. Raises Failed."""
    from fstack import net

    from ffloop._cli.preload import library

    if reason := net.missing():
        raise Failed(reason)
    work = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ffloop-bench-")))
    server = work / "epoll_server"
    net.run("cc", "-O2", "-Wall", str(HERE / "epoll_server.c"), "-o", str(server))
    config = work / "adapter.ini"
    addresses = {"addr": net.STACK, "gateway": net.PEER, "mask": 1 << STACK_CPU}
    config.write_text(CONFIG.format(delay=args.delay, **addresses))
    log = stack.enter_context((work / "log").open("ab"))
    servers = []
    for name in ("adapter", "ffloop"):
        veth = stack.enter_context(contextlib.closing(net.Net()))
        environ = dict(os.environ)
        place = Pair(name, name, net.STACK, frozenset({args.load_cpu}))
        place.load_namespace, place.within = veth.peer, net.within
        if name == "adapter":
            command = args.adapter_instance.format(config=config, interface="stack0")
            with net.within(veth.stack):
                instance = _started(stack, shlex.split(command), cwd=work, stdout=log, stderr=log)
            time.sleep(5)  # the adapter's instance does not say when it is ready
            environ |= {"LD_PRELOAD": args.adapter, "FF_INITIAL_LCORE_ID": hex(1 << APP_CPU)}
            environ |= {"FF_NB_FSTACK_INSTANCE": "1", "FF_PROC_ID": "0"}
        else:
            options = (*net.SHORT_FORM, "--pkt-tx-delay", str(args.delay))
            options += ("--lcore-mask", hex(1 << STACK_CPU))
            ours = stack.enter_context(contextlib.closing(net.Instance(veth, *options)))
            instance = ours.process
            stack.callback(instance.send_signal, signal.SIGCONT)
            environ |= {"LD_PRELOAD": str(library()), "FFLOOP_INSTANCE": ours.path}
            environ |= {"FFLOOP_STACK": "fstack"}
        pin = ["taskset", "-c", str(APP_CPU), "env", *_preload(environ), str(server), str(PORT)]
        with net.within(veth.stack):
            app = _started(stack, pin, stdout=log, stderr=log)
        with net.within(veth.peer):
            _until(lambda: _answers(net.STACK, PORT), app, f"the server under {name}'s shim")
        place.stopped = [instance, app]
        for each in reversed(place.stopped):
            each.send_signal(signal.SIGSTOP)
        servers.append(Server(place, "raw", 0, app.pid, PORT, instance.pid))
    return servers


def _preload(environ: dict[str, str]) -> list[str]:
    """The variables to set, for env(1): taskset is not to run under a shim."""
    return [f"{k}={v}" for k, v in environ.items() if os.environ.get(k) != v]


NGINX = """worker_processes 1; pid nginx.pid; error_log error.log; daemon off;
events {{ worker_connections 1024; }}
http {{ access_log off; keepalive_requests 100000000; client_body_temp_path body;
    proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    server {{ listen 127.0.0.1:{port}; location / {{ return 200 "{body}"; }} }} }}
"""


FORKS = """
import os, resource, socket
resource.setrlimit(resource.RLIMIT_NOFILE, (16384, 16384))
listener, kept = socket.create_server(("127.0.0.1", 0), backlog=64), []
for _ in range(2500):
    kept += [socket.create_connection(listener.getsockname()), listener.accept()[0]]
def cpu():
    both = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return sum(sum(resource.getrusage(who)[:2]) for who in both)
def fork():
    return os.fork() or os._exit(0)
def spawn():
    return os.posix_spawn("/bin/true", ["true"], os.environ)
for make in fork, spawn:
    before = cpu()
    for _ in range(50):
        os.waitpid(make(), 0)
    print((cpu() - before) * 20)
"""


def forks(rounds: int) -> None:
    """Prints the medians of `rounds` runs, and their ratios. Raises CalledProcessError."""
    preload = [
        str(pathlib.Path(sys.executable).with_name("ffloop")),
        "preload",
        "--stack",
        "host",
        "--",
    ]
    seen: dict[bool, list[list[float]]] = {False: [], True: []}
    for _ in range(rounds):
        for ours in seen:
            command = [*(preload if ours else []), sys.executable, "-c", FORKS]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            seen[ours].append([float(figure) for figure in out.split()])
    native, ffloop = (
        [statistics.median(row) for row in zip(*seen[ours], strict=True)] for ours in seen
    )
    for name, one, other in zip(("fork", "spawn"), native, ffloop, strict=True):
        print(f"{name:8} native {one:8.2f}  ffloop {other:8.2f}  ratio {other / one:6.2f}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as some:
        return int(some.getsockname()[1])


def nginx(stack: contextlib.ExitStack, args: argparse.Namespace) -> list[Server]:
    """Servers of nginx, natively and under the shim on the host stack. Raises Failed."""
    servers = []
    ours = [str(pathlib.Path(sys.executable).with_name("ffloop")), "preload", "--stack", "host"]
    for name, before in (("native", []), ("ffloop", [*ours, "--"])):
        work = stack.enter_context(tempfile.TemporaryDirectory(prefix="ffloop-bench-"))
        port = _free_port()
        conf = pathlib.Path(work, "nginx.conf")
        conf.write_text(NGINX.format(port=port, body="x" * 440))
        command = ["taskset", "-c", str(APP_CPU), *before, "nginx", "-p", work, "-e", "error.log"]
        master = _started(stack, [*command, "-c", str(conf)])
        _until(lambda port=port: _answers("127.0.0.1", port), master, f"nginx ({name})")
        children = pathlib.Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text()
        owner = procs.listener(port) if before else None
        workers = [int(pid) for pid in children.split() if int(pid) != owner]
        place = Place(name, name, "127.0.0.1", frozenset({STACK_CPU}))
        servers.append(Server(place, "raw", 0, workers[-1], port, owner))
    return servers


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("fstack", "nginx", "fork"))
    parser.add_argument("--adapter", metavar="LIB", help="F-Stack's own libff_syscall.so")
    parser.add_argument("--adapter-instance", metavar="COMMAND", help="starts its instance")
    parser.add_argument("--delay", type=int, default=50, metavar="US", help="pkt_tx_delay (50)")
    parser.add_argument("--load-cpu", type=int, choices=(0, 1), default=1, help="wrk's (1)")
    parser.add_argument("--connections", default="1,16,64", metavar="N,...")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of a round (2)")
    parser.add_argument("--json", metavar="FILE", help="all rounds")
    args = parser.parse_args()
    if args.what == "fstack" and not (args.adapter and args.adapter_instance):
        parser.error("fstack needs --adapter and --adapter-instance")
    if args.what == "fork":
        forks(args.rounds)
        return 0
    keys = ("rps", "p50_us", "p99_us", "app_us", "instance_us")
    print(f"{'connections':>11} {'':8}" + "".join(f"{key:>13}" for key in keys))

    def run(server: Server, connections: int, warm: bool) -> dict[str, float]:
        return load(True, server, connections, 1 if warm else args.seconds)

    rows: list[dict[str, Any]] = []
    try:
        with contextlib.ExitStack() as stack:
            servers = (on_fstack if args.what == "fstack" else nginx)(stack, args)
            connections = [int(n) for n in args.connections.split(",")]
            for row in round_robin(servers, connections, args.rounds, run):
                rows.append(row)
                figures = "".join(f"{row[key]:13.2f}" for key in keys)
                print(f"{row['connections']:11} {row['loop']:8}{figures}")
                if row["loop"] == "ffloop":
                    peer = rows[-2]
                    ratios = (row[k] / peer[k] if peer[k] else 0.0 for k in keys)
                    print(f"{'':11} {'ratio':8}" + "".join(f"{r:13.2f}" for r in ratios))
    except Failed as exc:
        print(f"{exc}", file=sys.stderr)
        return 1
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
