"""`ffloop stat` and `ffloop top`: what runs, as tables, JSON or Prometheus text.

rich is imported by these commands only, never by the library.
"""

import argparse
import http.server
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .._session import stats_page
from .._session.stats_page import Instance, Session, Socket
from ..errors import InstanceDenied, InstanceError
from . import arguments

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group, RenderResult
    from rich.table import Table


def add_commands(commands: Any) -> None:
    """Adds the two to the parser's commands."""
    stat = commands.add_parser("stat", help="what runs: instances, sessions, sockets; once")
    _common(stat)
    form = stat.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything, as JSON")
    form.add_argument("--prometheus", action="store_true", help="Prometheus's text format")
    form.add_argument(
        "--metrics",
        type=arguments.port,
        metavar="PORT",
        help="serve that on 127.0.0.1:PORT/metrics (0: any)",
    )
    stat.set_defaults(call=_stat)
    top = commands.add_parser("top", help="the same, live, with rates")
    _common(top)
    top.add_argument(
        "--interval", type=arguments.seconds(), default=1.0, metavar="SECONDS", help="(1)"
    )
    top.add_argument("--count", type=arguments.whole(1), metavar="N", help="end after N screens")
    top.set_defaults(call=_top)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--instance",
        type=_target,
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


def _target(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("a socket's path or a pid")
    return text


def collect(target: str | None = None) -> tuple[list[Instance], list[str]]:
    """Every instance that may be looked at, and a sentence for each that may not. With a target
    (path or pid) that one; raises an InstanceError when it cannot be read."""
    if target is not None:
        return [stats_page.read(stats_page.find(target))], []
    found, refused = [], []
    for pid in stats_page.pids():
        try:
            found.append(stats_page.read(pid))
        except InstanceDenied as exc:
            refused.append(str(exc.strerror))
        except InstanceError as exc:
            if stats_page.alive(pid):
                refused.append(str(exc.strerror))
    return found, refused


def _collect(args: argparse.Namespace) -> tuple[list[Instance], list[str]] | None:
    # For a command: None after the reason was printed.
    try:
        instances, refused = collect(args.instance)
    except InstanceError as exc:
        print(f"ffloop: {exc.strerror}", file=sys.stderr)
        return None
    if not instances:
        for line in refused or ["no ffloop instance runs on this machine"]:
            print(f"ffloop: {line}", file=sys.stderr)
        return None
    return instances, refused


# ---- stat ------------------------------------------------------------------------------------


def _stat(args: argparse.Namespace) -> int:
    if args.metrics is not None:
        return _serve_metrics(args)
    collected = _collect(args)
    if collected is None:
        return 1
    instances, refused = collected
    if args.json:
        print(as_json(instances, refused))
    elif args.prometheus:
        print(as_prometheus(instances), end="")
    else:
        _console().print(tables(instances, refused, args.sockets))
    return 0


def _console() -> "Console":
    from rich.console import Console

    # What is not read on a terminal is not cut to its width.
    return Console() if sys.stdout.isatty() or "COLUMNS" in os.environ else Console(width=200)


def as_json(instances: list[Instance], refused: Iterable[str] = ()) -> str:
    """{"instances": [...], "refused": [...]}; fields as in stats_page."""
    return json.dumps(
        {"instances": [asdict(instance) for instance in instances], "refused": list(refused)},
        indent=1,
    )


# ---- Prometheus ------------------------------------------------------------------------------


def as_prometheus(instances: list[Instance]) -> str:
    """The text format. Counters end in _total, bytes say so; a family's samples are together."""
    families: dict[str, tuple[str, str, list[str]]] = {}

    def add(name: str, kind: str, what: str, value: float, **labels: Any) -> None:
        lines = families.setdefault(name, (kind, what, []))[2]
        text = ",".join(f'{key}="{_escaped(str(label))}"' for key, label in labels.items())
        lines.append(f"{name}{{{text}}} {value}")

    for one in instances:
        where = {"pid": one.pid, "instance_path": one.path}
        more = {"stack": one.stack, "state": one.state, "user": one.user}
        add("ffloop_instance_info", "gauge", "A running instance.", 1, **where, **more)
        add("ffloop_instance_sessions", "gauge", "Sessions.", len(one.sessions), **where)
        what = "When it started, seconds since the epoch."
        add("ffloop_instance_start_time_seconds", "gauge", what, one.started, **where)
        for name, value in one.totals.items():
            if name == "pending":
                add("ffloop_instance_pending", "gauge", "Handshakes.", value, **where)
                continue
            name = name.removesuffix("_total")
            add(f"ffloop_instance_{name}_total", "counter", f"Instance: {name}.", value, **where)
        states = Counter((s.type, s.state) for s in one.sockets)
        for (kind, state), count in sorted(states.items()):
            labels = {**where, "type": kind, "state": state}
            add("ffloop_sockets", "gauge", "Stack sockets.", count, **labels)
        for session in one.sessions:
            labels = {**where, "session": session.id, "app": session.pid}
            _session_metrics(add, session, labels)
            what = "Bytes sent that the stack has not taken."
            add("ffloop_session_queued_bytes", "gauge", what, _queued(one, session), **labels)
    out = []
    for name, (kind, what, lines) in families.items():
        out += [f"# HELP {name} {what}", f"# TYPE {name} {kind}", *lines]
    return "\n".join(out) + "\n"


def _session_metrics(add: Any, session: Session, labels: dict[str, Any]) -> None:
    info = {**labels, "user": session.user, "program": session.program[:100]}
    add("ffloop_session_info", "gauge", "A session.", 1, **info)
    add("ffloop_session_sockets", "gauge", "Its sockets.", session.sockets, **labels)
    what = "Receive buffers not in use."
    add("ffloop_session_receive_free_bytes", "gauge", what, session.rx_free, **labels)
    for ring, now in session.rings.items():
        add("ffloop_ring_depth", "gauge", "Entries that wait.", now["depth"], **labels, ring=ring)
    for side, counters in (("app", session.app), ("instance", session.inst)):
        for name, value in counters.items():
            name = f"ffloop_session_{side}_{name}_total"
            add(name, "counter", f"A session's counter, the {side}'s.", value, **labels)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _serve_metrics(args: argparse.Namespace) -> int:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(404, "only /metrics is here")
                return
            try:
                body = as_prometheus(collect(args.instance)[0]).encode()
            except InstanceError as exc:
                self.send_error(503, explain=str(exc.strerror))
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", args.metrics), Handler)
    except OSError as exc:
        print(f"ffloop: cannot serve on 127.0.0.1:{args.metrics}: {exc.strerror}", file=sys.stderr)
        return 1
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # waited for: background jobs ignore SIGINT
    with server:
        threading.Thread(target=server.serve_forever).start()
        print(f"metrics at http://127.0.0.1:{server.server_port}/metrics", flush=True)
        signal.sigwait(ends)
        server.shutdown()
    return 0


# ---- tables ----------------------------------------------------------------------------------


def tables(
    instances: list[Instance], refused: list[str], limit: int, before: "Rates | None" = None
) -> "Group":
    """Everything for the terminal. `before`: rates instead of totals."""
    from rich.console import Group
    from rich.text import Text

    rates = before or Rates([])
    parts: list[Any] = [_instances_table(instances, rates)]
    if any(one.sessions for one in instances):
        parts += [_sessions_table(instances, rates), _rings_table(instances, rates)]
    if limit > 0 and any(one.sockets for one in instances):
        parts.append(_sockets_table(instances, limit, rates))
    parts += [Text(line, style="yellow") for line in refused]
    return Group(*parts)


# Where a terminal is narrow these columns are left out, in this order.
_LEFT_OUT = [
    *("killed", "refused", "spins", "woken", "turns", "type", "held", "user", "empty", "up"),
    *("posted", "sleeps", "queued", "stack", "sockets", "instance", "session", "id"),
]
_FOLDS, _FOLDED = ("socket", "program"), 16  # these take several lines; figures stay whole


class _Table:
    """A table of as many columns as fit; those named ">so" are figures."""

    def __init__(self, title: str, *columns: str) -> None:
        self._title, self._columns = title, columns
        self._rows: list[tuple[str, ...]] = []

    def add_row(self, *cells: str) -> None:
        self._rows.append(cells)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        gone: list[str] = []
        for name in _LEFT_OUT:
            if self._width(gone) <= options.max_width:
                break
            if name in self._names():
                gone.append(name)
        yield self._without(gone)

    def _width(self, gone: list[str]) -> int:
        from rich.text import Text

        kept = [
            column
            for column in zip(self._names(), *self._rows, strict=True)
            if column[0] not in gone
        ]
        least = 1
        for name, *cells in kept:
            most = max(Text.from_markup(cell).cell_len for cell in [name, *cells])
            least += 3 + (min(most, _FOLDED) if name in _FOLDS else most)
        return least

    def _names(self) -> list[str]:
        return [column.lstrip(">") for column in self._columns]

    def _without(self, gone: list[str]) -> "Table":
        from rich import box
        from rich.table import Table

        title = f"{self._title} (columns left out: {', '.join(gone)})" if gone else self._title
        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
        kept = [i for i, name in enumerate(self._names()) if name not in gone]
        for i in kept:
            name = self._names()[i]
            folds = name in _FOLDS
            table.add_column(
                name,
                justify="right" if self._columns[i].startswith(">") else "left",
                no_wrap=not folds,
                overflow="fold",
                min_width=_FOLDED if folds else None,
            )
        for row in self._rows:
            table.add_row(*(row[i] for i in kept))
        return table


def _instances_table(instances: list[Instance], rates: "Rates") -> _Table:
    from rich.markup import escape

    table = _Table(
        "Instances",
        *("pid", "user", "stack", "state", "socket", ">sessions", ">sockets"),
        *(">accepts", ">turns", ">sleeps", ">refused", ">killed", ">up"),
    )
    for one in instances:
        key, totals = (one.pid,), one.totals
        table.add_row(
            *(str(one.pid), one.user, one.stack, _state(one.state), escape(one.path) or "-"),
            *(str(len(one.sessions)), str(len(one.sockets))),
            *(rates.of(key, name, totals[name]) for name in ("accepts", "turns", "sleeps")),
            *(str(totals[f"sessions_{name}"]) for name in ("refused", "killed")),
            _age(time.time() - one.started),
        )
    return table


def _state(state: str) -> str:
    return f"[red]{state}[/red]" if state in ("stopped", "stuck", "blocked", "traced") else state


def _sessions_table(instances: list[Instance], rates: "Rates") -> _Table:
    from rich.markup import escape

    table = _Table(
        "Sessions",
        *("instance", "id", "pid", "user", "program", ">sockets", ">in", ">out"),
        *(">queued", ">pool free", ">empty"),
    )
    for one in instances:
        for session in one.sessions:
            key, app, inst = (one.pid, session.id), session.app, session.inst
            table.add_row(
                *(str(one.pid), str(session.id), str(session.pid), session.user),
                escape(_short(session.program)) + (" [red](ending)[/red]" if session.dying else ""),
                str(session.sockets),
                *(
                    rates.of(key, name, inst.get(name, 0), _size)
                    for name in ("bytes_in", "bytes_out")
                ),
                _size(_queued(one, session)),
                f"{100 * session.rx_free // max(session.rx_total, 1)}%",
                rates.of(key, "empty", app.get("pool_empty", 0) + inst.get("pool_empty", 0)),
            )
    return table


def _short(program: str) -> str:
    """A command line's beginning, without the folders of the program and its script."""
    words = program.split(" ")
    return " ".join([word.rpartition("/")[2] or word for word in words[:2]] + words[2:])[:40]


def _queued(one: Instance, session: Session) -> int:
    return sum(sock.tx_queued for sock in one.sockets if sock.session == session.id)


def _rings_table(instances: list[Instance], rates: "Rates") -> _Table:
    table = _Table(
        "Rings",
        *("instance", "id", ">submitted", ">posted", ">sq depth", ">cq depth", ">full"),
        *(">spins", ">sleeps", ">wakes", ">woken"),
    )
    for one in instances:
        for session in one.sessions:
            key, app, inst = (one.pid, session.id), session.app, session.inst
            table.add_row(
                *(str(one.pid), str(session.id)),
                rates.of(key, "submitted", app.get("submitted", 0)),
                rates.of(key, "posted", inst.get("posted", 0)),
                *(str(session.rings[ring]["depth"]) if app else "-" for ring in ("sq", "cq")),
                rates.of(key, "full", app.get("sq_full", 0) + inst.get("cq_full", 0)),
                *(rates.of(key, name, app.get(name, 0)) for name in ("spins", "sleeps", "wakes")),
                rates.of(key, "woken", inst.get("wakes", 0)),
            )
    return table


def _sockets_table(instances: list[Instance], limit: int, rates: "Rates") -> _Table:
    rows = [(one, sock) for one in instances for sock in one.sockets]
    rows.sort(key=lambda row: (row[1].state != "listening", -rates.weight(row[0], row[1])))
    title = f"Sockets ({limit} of {len(rows)}: --sockets N)" if len(rows) > limit else "Sockets"
    table = _Table(
        title,
        *("instance", "session", "type", "state", "local", "peer"),
        *(">in", ">out", ">held", ">queued"),
    )
    for one, sock in rows[:limit]:
        key = (one.pid, sock.session, sock.handle, str(sock.peer))
        table.add_row(
            *(str(one.pid), str(sock.session), sock.type, sock.state),
            *(_address(sock.local), _address(sock.peer)),
            rates.of(key, "in", sock.bytes_in, _size),
            rates.of(key, "out", sock.bytes_out, _size),
            *(_size(sock.rx_held), _size(sock.tx_queued)),
        )
    return table


def _address(address: Any) -> str:
    if address is None:
        return "-"
    host, port = address[:2]
    return f"\\[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _size(value: float) -> str:
    for unit in ("", "K", "M", "G"):
        if value < 10_000:
            return f"{value:.0f}{unit}"
        value /= 1024
    return f"{value:.0f}T"


def _count(value: float) -> str:
    for unit in ("", "k", "M"):
        if value < 10_000:
            return f"{value:.0f}{unit}"
        value /= 1000
    return f"{value:.0f}G"


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


# ---- top -------------------------------------------------------------------------------------


class Rates:
    """What changed since the sample before, a second. Without one: totals."""

    def __init__(self, before: list[Instance], seconds: float = 0.0) -> None:
        self._seconds = seconds
        self._before = _samples(before)

    def of(self, key: tuple[Any, ...], name: str, value: int, text: Any = None) -> str:
        """A counter's cell."""
        shown: float = value
        if self._seconds:
            shown = max(value - self._before.get((*key, name), value), 0) / self._seconds
        return str((text or _count)(shown)) + ("/s" if self._seconds else "")

    def weight(self, one: Instance, sock: Socket) -> float:
        """Busy sockets come first."""
        key = (one.pid, sock.session, sock.handle, str(sock.peer))
        total = sock.bytes_in + sock.bytes_out
        if not self._seconds:
            return total
        return total - sum(self._before.get((*key, name), 0) for name in ("in", "out"))


def _samples(instances: list[Instance]) -> dict[tuple[Any, ...], int]:
    found: dict[tuple[Any, ...], int] = {}
    for one in instances:
        found.update({(one.pid, name): value for name, value in one.totals.items()})
        for session in one.sessions:
            key = (one.pid, session.id)
            found.update({(*key, name): value for name, value in session.app.items()})
            for name in ("bytes_in", "bytes_out", "posted"):
                found[(*key, name)] = session.inst.get(name, 0)
            app, inst = session.app, session.inst
            found[(*key, "full")] = app.get("sq_full", 0) + inst.get("cq_full", 0)
            found[(*key, "empty")] = app.get("pool_empty", 0) + inst.get("pool_empty", 0)
            found[(*key, "woken")] = inst.get("wakes", 0)
        for sock in one.sockets:
            where = (one.pid, sock.session, sock.handle, str(sock.peer))
            found[(*where, "in")], found[(*where, "out")] = sock.bytes_in, sock.bytes_out
    return found


def _top(args: argparse.Namespace) -> int:
    from rich.live import Live

    collected = _collect(args)
    if collected is None:
        return 1
    before, began = collected[0], time.monotonic()
    shown = 0
    try:
        with Live(tables(*collected, args.sockets), auto_refresh=False, **_screen()) as live:
            while not args.count or shown < args.count:
                time.sleep(args.interval)
                collected = _collect(args)
                if collected is None:
                    return 1
                now = time.monotonic()
                rates = Rates(before, now - began)
                live.update(tables(*collected, args.sockets, rates), refresh=True)
                before, began = collected[0], now
                shown += 1
    except KeyboardInterrupt:
        pass
    return 0


def _screen() -> dict[str, Any]:
    return {"console": _console(), "screen": sys.stdout.isatty()}
