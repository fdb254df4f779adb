"""The command line: every command and its options.

This module imports nothing that a command needs to run: `main` imports the command's own module
when the command is called.
"""

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

from .. import __version__
from .._session.options import KERNEL_SOCKETS, STACKS
from . import arguments

LOOPS = ("asyncio", "uvloop", "rloop", "ffloop", "ffloop-ring")
APPS = ("raw", "aiohttp", "tls", "connect", "echo-protocol", "echo-streams", "echo-sockets", "ring")
LOADS = ("wrk", "own")
CHARTS = (".png", ".svg")


def build() -> argparse.ArgumentParser:
    """The parser of `ffloop`. It sets `command` to the command's name and, except for `instance`,
    `parser` to the command's own parser."""
    parser = argparse.ArgumentParser(prog="ffloop", description="asyncio on a user-space TCP stack")
    parser.add_argument("--version", action="version", version=f"ffloop {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, help: str, add: Callable[[argparse.ArgumentParser], None], **more: Any
    ) -> None:
        made = commands.add_parser(name, help=help, **more)
        made.set_defaults(parser=made)
        add(made)

    commands.add_parser(
        "instance",
        help="run an instance in the foreground (`ffloop instance --help`)",
        add_help=False,
    )
    command(
        "run",
        "run a script or an app on ffloop, unchanged",
        _run,
        usage="ffloop run [OPTIONS] SCRIPT.py [ARGS...] | -m MODULE [ARGS...] | MODULE:APP",
        description="Runs a Python script, an ASGI app (with uvicorn) or an aiohttp app "
        "(web.Application, or a factory) on ffloop, with nothing in it changed. Other options "
        "are FFLOOP_ variables.",
    )
    command(
        "preload",
        "run a C program's TCP on an instance, unchanged",
        _preload,
        usage="ffloop preload [OPTIONS] -- PROGRAM [ARGS...]",
        description="Finds the instance (or starts an embedded one that lasts as long as the "
        "program and its children), sets LD_PRELOAD and FFLOOP_INSTANCE, and becomes the program. "
        "libff_syscall(7) lists the variables that say more.",
    )
    command(
        "stat",
        "what runs: instances, sessions, sockets; once",
        _stat,
        description="Shows the instances, their sessions and sockets, and the loops in direct mode "
        "that this user may look at. It reads their memory: a stopped one is shown, too.",
    )
    command(
        "top",
        "the same, live, with rates",
        _top,
        description="Shows the instances, their sessions and sockets, and the loops in direct mode "
        "that this user may look at, live, with rates; `q` ends it.",
    )
    command(
        "doctor",
        "what this machine has and lacks for each stack, and how to mend it",
        _doctor,
        description="Says for each stack what is there, what is missing and how to mend it: "
        "`lacks` keeps a stack from running (exit status 1), `warn` will get in the way, `note` "
        "could be better.",
    )
    command(
        "bench",
        "compare asyncio, uvloop and ffloop on this machine",
        bench,
        description="Serves HTTP with each loop, a raw Protocol and aiohttp, each server a "
        "process of its own, under wrk: requests per second, CPU per request of the application "
        "and of the instance, latency; and measures the ring alone. Load, servers and instance "
        "share this machine's cores: figures of a busy machine mean nothing.",
    )
    return parser


def _run(parser: argparse.ArgumentParser) -> None:
    run_options(parser)
    parser.add_argument(
        "-m",
        nargs=argparse.REMAINDER,
        metavar="MODULE",
        help="a module as a script, and its arguments: as `python -m`",
    )
    parser.add_argument("target", metavar="SCRIPT.py | MODULE:APP", nargs="?")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="ARGS", help="of the script")


def run_options(parser: argparse.ArgumentParser) -> None:
    """The options of `ffloop run`, which may also follow an app's name."""
    _stack(parser)
    add = parser.add_argument
    add(
        "--workers",
        type=arguments.whole(1, 1024),
        metavar="N",
        help="processes; the i-th uses the i-th instance, where several run. One that ends is "
        "replaced; SIGHUP replaces all, and no connection is lost",
    )
    add(
        "--grace",
        type=arguments.seconds(zero=True),
        default=1.0,
        metavar="SECONDS",
        help="with --workers: how long they go on, without new connections, before SIGTERM: when "
        "they are replaced, and when SIGTERM ends all (1)",
    )
    _app(parser.add_argument_group("of an app, MODULE:APP"))


def _stack(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--stack", choices=STACKS, help="insist on this stack (FFLOOP_STACK)")
    instance = parser.add_mutually_exclusive_group()
    instance.add_argument(
        "--instance", metavar="PATH", help="the instance's socket (FFLOOP_INSTANCE)"
    )
    instance.add_argument(
        "--direct",
        action="store_true",
        help="no instance: the stack is in each process itself (FFLOOP_INSTANCE=direct); with "
        "--stack fstack that needs root (docs/fstack.md)",
    )
    add(
        "--fstack",
        metavar="OPTIONS",
        help="with --stack fstack --direct: F-Stack's options in one word, with their dashes, as "
        "`ffloop instance` has them (FFLOOP_FSTACK)",
    )
    add(
        "--kernel-sockets",
        choices=KERNEL_SOCKETS,
        help="what becomes of sockets that the kernel made (FFLOOP_KERNEL_SOCKETS)",
    )


def _app(app: argparse._ArgumentGroup) -> None:
    add = app.add_argument
    add("--host", help="127.0.0.1 with the host stack, else 0.0.0.0")
    add("--port", type=arguments.port, default=8000, help="8000")
    handed = app.add_mutually_exclusive_group()
    handed.add_argument("--uds", metavar="PATH", help="a unix socket in place of a port")
    handed.add_argument(
        "--fd",
        type=arguments.whole(0, 2**31 - 1),
        metavar="N",
        help="a listening socket that was inherited, in place of a port",
    )
    add("--ssl-certfile", metavar="FILE", help="serves TLS with this certificate chain")
    add("--ssl-keyfile", metavar="FILE", help="its key, where it is not in the same file")
    add(
        "--log-config",
        metavar="FILE",
        help="what logging.config takes: .json, .yaml (takes PyYAML), else an .ini",
    )
    add(
        "--reload",
        action="store_true",
        help="for development: new workers when a file changes; the old ones stay where "
        "the new do not start, until the next change (takes watchfiles)",
    )
    add(
        "--reload-dir",
        action="append",
        metavar="DIR",
        help="what is watched (the current directory); repeatable",
    )


def _preload(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--stack", choices=STACKS, help="insist on this stack")
    add("--instance", metavar="PATH", help="the instance's socket")
    add(
        "--force",
        action="store_true",
        help="start a program too whose own sockets cannot be on the stack (static, Go)",
    )
    add("--cflags", action="store_true", help="print how to compile with ff_syscall.h (kqueue)")
    add(
        "--libs",
        action="store_true",
        help="print how to link the library instead of preloading it",
    )
    add("program", metavar="PROGRAM", nargs="?")
    add("rest", nargs=argparse.REMAINDER, metavar="ARGS")


def _shown(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--instance",
        type=arguments.target,
        metavar="PATH|PID",
        help="one instance (default: all that may be looked at)",
    )
    parser.add_argument(
        "--sockets",
        type=arguments.whole(0),
        default=20,
        metavar="N",
        help="sockets in the table (default 20)",
    )


def _stat(parser: argparse.ArgumentParser) -> None:
    _shown(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything, as JSON")
    form.add_argument("--prometheus", action="store_true", help="Prometheus's text format")
    form.add_argument("--openmetrics", action="store_true", help="OpenMetrics, its successor")
    form.add_argument(
        "--metrics",
        type=arguments.endpoint,
        metavar="[ADDRESS:]PORT",
        help="serve that at http://ADDRESS:PORT/metrics (127.0.0.1; port 0: any)",
    )


def _top(parser: argparse.ArgumentParser) -> None:
    _shown(parser)
    parser.add_argument(
        "--interval",
        type=arguments.seconds(),
        default=1.0,
        metavar="SECONDS",
        help="between two looks (1)",
    )
    parser.add_argument("--count", type=arguments.whole(1), metavar="N", help="end after N screens")


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the findings, as JSON")
    parser.add_argument(
        "--stack", choices=("host", "fstack"), default="host", help="whose failures count"
    )


def bench(parser: argparse.ArgumentParser) -> None:
    """The options of `ffloop bench` and of benchmarks/run.py."""
    add = parser.add_argument
    for option, words, usual in (
        ("--loops", LOOPS, ["asyncio", "uvloop", "ffloop", "ffloop-ring"]),
        ("--apps", APPS, ["raw", "aiohttp", "echo-streams", "ring"]),
    ):
        add(
            option,
            type=arguments.words(words),
            default=usual,
            metavar=f"{option[2:-1].upper()},...",
            help=f"of {', '.join(words)} ({','.join(usual)})",
        )
    add(
        "--bytes",
        type=arguments.numbers(0, 2**30),
        metavar="N,...",
        help="of a body or message; 0: a small one (0,65536,1048576; echo: 1024,10240,102400)",
    )
    add(
        "--connections",
        type=arguments.numbers(1),
        default=[1, 64],
        metavar="N,...",
        help="at a time (1,64)",
    )
    add(
        "--seconds",
        type=arguments.seconds(),
        default=2.0,
        metavar="SECONDS",
        help="of one run of load, or of idling (2)",
    )
    add(
        "--rounds",
        type=arguments.whole(1),
        default=3,
        metavar="N",
        help="runs of which the median is shown (3)",
    )
    add(
        "--idle",
        type=arguments.whole(1),
        metavar="N",
        help="measure the cost of N idle connections instead",
    )
    add(
        "--load",
        choices=LOADS,
        help="what makes HTTP's requests: wrk where it is installed, else ffloop's own client",
    )
    add("--json", type=pathlib.Path, metavar="FILE", help="write everything, all rounds too")
    add(
        "--chart",
        type=arguments.file_named(CHARTS),
        metavar="FILE",
        help="draw it: .png or .svg (takes matplotlib)",
    )
