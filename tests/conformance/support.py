"""Writes docs/asyncio-support.md: what of asyncio runs on the stack, from the code itself.

    python tests/conformance/support.py [--check] [--counts RESULTS.json ...]

Each method has the hooks that decide where its sockets live: it is on the stack when ffloop defines
one of them. --counts takes files that `run.py --json` wrote and keeps their counts (counts.json).
--check writes nothing and exits 1 when the document is not what would be written.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pathlib
import socket
import sys
from collections import Counter
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
COUNTS = HERE / "counts.json"
DOCUMENT = HERE.parents[1] / "docs" / "asyncio-support.md"

_TRANSPORT = ("_make_socket_transport", "_make_ssl_transport")

# Methods with sockets or descriptors: the hooks, and what to know.
SOCKETS: dict[str, tuple[tuple[str, ...], str]] = {
    "create_connection": (
        ("_connect_sock", *_TRANSPORT),
        "addresses that the router gives to the stack; `sock=` a stack socket or a kernel one",
    ),
    "create_server": (
        ("create_server", "_start_serving"),
        "addresses that the router gives to the stack; `sock=` as the option `kernel_sockets` says",
    ),
    "create_datagram_endpoint": (
        ("create_datagram_endpoint", "_make_datagram_transport"),
        "connected and unconnected, broadcast, error_received",
    ),
    "connect_accepted_socket": (_TRANSPORT, "a stack socket stays there, a kernel one too"),
    "start_tls": (_TRANSPORT, "asyncio's own TLS over the stack's transports"),
    "sendfile": (
        ("_sendfile_fallback", "_sock_sendfile_native", "_sendfile_native"),
        "reads a regular file at the call's own offset; anything else, and TLS, goes through"
        " asyncio's fallback. In direct mode one that waits goes on waiting after `abort()` or"
        " `close()`, as asyncio's, until it is cancelled",
    ),
    "sock_accept": (("sock_accept",), ""),
    "sock_connect": (
        ("sock_connect",),
        "a fresh kernel socket is promoted in place, and is a socket for all code",
    ),
    "sock_recv": (("sock_recv",), ""),
    "sock_recv_into": (("sock_recv_into",), ""),
    "sock_recvfrom": (("sock_recvfrom",), ""),
    "sock_recvfrom_into": (("sock_recvfrom_into",), ""),
    "sock_sendall": (("sock_sendall",), ""),
    "sock_sendfile": (
        ("sock_sendfile", "_sock_sendfile_native"),
        "as `sendfile`",
    ),
    "sock_sendto": (("sock_sendto",), ""),
    "add_reader": (
        ("_add_reader", "fileno"),
        "a stack socket's fileno() mirrors its readiness, a dup()'s too",
    ),
    "remove_reader": (("_remove_reader", "fileno"), ""),
    "add_writer": (("_add_writer",), "by the transmit credit of a stack socket"),
    "remove_writer": (("_remove_writer",), ""),
    "create_unix_connection": (("create_unix_connection",), ""),
    "create_unix_server": (("create_unix_server",), ""),
    "connect_read_pipe": (("connect_read_pipe",), ""),
    "connect_write_pipe": (("connect_write_pipe",), ""),
    "subprocess_exec": (("subprocess_exec",), ""),
    "subprocess_shell": (("subprocess_shell",), ""),
    "add_signal_handler": (("add_signal_handler",), ""),
    "remove_signal_handler": ((), ""),
    "getaddrinfo": (("getaddrinfo",), "the machine's resolver, in the executor"),
    "getnameinfo": (("getnameinfo",), "the machine's resolver, in the executor"),
}

# Methods without: asyncio's own code, or ffloop's faster one with the same tests.
SCHEDULING = [
    "call_at",
    "call_exception_handler",
    "call_later",
    "call_soon",
    "call_soon_threadsafe",
    "close",
    "create_future",
    "create_task",
    "default_exception_handler",
    "get_debug",
    "get_exception_handler",
    "get_task_factory",
    "is_closed",
    "is_running",
    "run_forever",
    "run_in_executor",
    "run_until_complete",
    "set_debug",
    "set_default_executor",
    "set_exception_handler",
    "set_task_factory",
    "shutdown_asyncgens",
    "shutdown_default_executor",
    "stop",
    "time",
]


def is_ours(cls: type, name: str) -> bool:
    """Whether what `cls` has under this name is ffloop's."""
    for base in cls.__mro__:
        if name in base.__dict__:
            return base.__module__.startswith("ffloop")
    raise AssertionError(f"{cls} has no {name}: asyncio has changed")


def public(cls: type) -> list[str]:
    return sorted(name for name in dir(cls) if not name.startswith("_"))


def where(hooks: tuple[str, ...]) -> str:
    import ffloop
    from ffloop._loop.session_loop import SessionLoop

    # fileno: the kernel polls what the stack socket keeps true.
    ours = [is_ours(ffloop.socket if hook == "fileno" else SessionLoop, hook) for hook in hooks]
    return "stack" if any(ours) else "kernel"


def loop_rows() -> list[tuple[str, str, str]]:
    return [(name, where(hooks), note) for name, (hooks, note) in SOCKETS.items()]


def transport_rows(kind: type, ours: type) -> list[tuple[str, str]]:
    """(method, whose code) of a transport class of asyncio's and the one that is ffloop's."""
    whose = {True: "ffloop's", False: "asyncio's, inherited"}
    return [(name, whose[is_ours(ours, name)]) for name in public(kind)]


def socket_missing() -> list[str]:
    """What socket.socket has and a stack socket has not."""
    import ffloop

    return [name for name in public(socket.socket) if not hasattr(ffloop.socket, name)]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _counts_table(counts: dict[str, Any]) -> list[str]:
    rows = []
    for version in sorted(counts, key=lambda v: [int(part) for part in v.split(".")]):
        loops = counts[version]
        total = max(sum(modules[m]["tests"] for m in modules) for modules in loops.values())
        passed = [
            str(sum(m["passed"] for m in loops[loop].values())) if loop in loops else "-"
            for loop in ("asyncio", "uvloop", "ffloop")
        ]
        rows.append((version, str(total), *passed))
    return _table(("CPython", "tests", "asyncio", "uvloop", "ffloop"), rows)


def _modules_table(counts: dict[str, Any], version: str) -> list[str]:
    loops = counts[version]
    rows = []
    for module in loops["ffloop"]:
        cells = [str(loops[loop][module]["passed"]) for loop in ("asyncio", "uvloop", "ffloop")]
        rows.append((f"`{module}`", str(loops["ffloop"][module]["tests"]), *cells))
    return _table(("module", "tests", "asyncio", "uvloop", "ffloop"), rows)


def exceptions() -> list[tuple[str, str, str]]:
    """(test, versions, reason) of what ffloop is known to fail."""
    lines = (HERE / "exceptions.txt").read_text().splitlines()
    rows = [line.split(None, 3) for line in lines if line.startswith("ffloop ")]
    return [(f"`{test}`", "all" if of == "*" else of, reason) for _, of, test, reason in rows]


def document() -> str:
    counts = json.loads(COUNTS.read_text())
    newest = [version for version in counts if version.startswith("3.12.")][-1]
    from ffloop._loop.datagram import DatagramTransport
    from ffloop._loop.stream import StreamTransport

    lines = [
        "# What of asyncio runs where",
        "",
        "<!-- Written by tests/conformance/support.py from the code; a test holds it to it. -->",
        "",
        "*stack*: AF_INET and AF_INET6 sockets whose addresses the router gives to the stack are",
        "the instance's; kernel sockets given to the same method work on the kernel. *kernel*:",
        "always this machine's kernel, in the same loop. Nothing is left out; what cannot be",
        "raises an error that says so.",
        "",
        "## Loop methods with sockets or descriptors",
        "",
        *_table(("method", "where", "to know"), [(f"`{n}`", w, t) for n, w, t in loop_rows()]),
        "",
        "## Loop methods without",
        "",
        "asyncio's own, or ffloop's compiled `call_soon` with the same behaviour: "
        + ", ".join(f"`{name}`" for name in SCHEDULING)
        + ".",
        "",
        "`read(n)` of a connection's `StreamReader`, and `drain()` of a server's "
        "`StreamWriter`, give compiled coroutines: `asyncio.iscoroutine()` of one is true, "
        "`inspect.iscoroutine()` false.",
        "",
        "## Transports of stack sockets",
        "",
        *_table(
            ("stream transport", "code"),
            [(f"`{n}`", t) for n, t in transport_rows(asyncio.Transport, StreamTransport)],
        ),
        "",
        *_table(
            ("datagram transport", "code"),
            [
                (f"`{n}`", t)
                for n, t in transport_rows(asyncio.DatagramTransport, DatagramTransport)
            ],
        ),
        "",
        "Of several writes in one callback all but the first may leave when the callback ends. "
        "While many callbacks of an iteration write (direct mode), all of them leave when it ends, "
        "as with uvloop, or a millisecond later when the callback ends that runs then. A callback "
        "that ends the process by `os._exit` ends what has not left.",
        "",
        "Servers are `asyncio.Server` itself, over the stack's listeners; TLS is asyncio's own.",
        "",
        "## ffloop.socket",
        "",
        "The constructor and the methods of `socket.socket`, always non-blocking. Not there "
        "(AttributeError): "
        + (", ".join(f"`{name}`" for name in socket_missing()) or "none")
        + ".",
        "Without an event loop `ffloop.FFSelector` and `ffloop.Kqueue` wait, or a call is tried "
        "until it succeeds. With an instance the kernel's own `select` of `fileno()` would wait "
        "for ever: only calls look at the instance's answers.",
        "",
        "## CPython's own tests",
        "",
        "The functional tests of asyncio that each interpreter ships, passed, on the host stack",
        "(`python tests/conformance/run.py --loop asyncio --loop uvloop --loop ffloop`):",
        "",
        *_counts_table(counts),
        "",
        f"By module, CPython {newest}:",
        "",
        *_modules_table(counts, newest),
        "",
        "What ffloop fails, and why (`tests/conformance/exceptions.txt`):",
        "",
        *_table(("test", "CPython", "why"), exceptions()),
    ]
    return "\n".join(lines) + "\n"


def keep_counts(files: list[pathlib.Path]) -> None:
    counts = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    for file in files:
        report = json.loads(file.read_text())
        for loop, results in report["loops"].items():
            tests: Counter[str] = Counter()
            passed: Counter[str] = Counter()
            for result in results["results"]:
                module = result["test"].split(".")[0]
                tests[module] += 1
                passed[module] += result["outcome"] == "passed"
            counts.setdefault(report["python"], {})[loop] = {
                module: {"tests": tests[module], "passed": passed[module]} for module in tests
            }
    COUNTS.write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    parser.add_argument("--counts", type=pathlib.Path, nargs="*", default=[], metavar="FILE")
    args = parser.parse_args()
    if args.check:
        return int(DOCUMENT.read_text() != document())
    if args.counts:
        keep_counts(args.counts)
    DOCUMENT.write_text(document())
    return 0


if __name__ == "__main__":
    sys.exit(main())
