"""Instances, sessions, rings and sockets as tables for the terminal.

Every cell is a rich Text, so that names of instances and programs are never read as markup.
"""

import os
import sys
import time
from math import isinf
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from .._session.address import text as text_of
from .._session.stats_page import Instance, Lag, Session, Socket


def console() -> Console:
    """Standard output: as wide as the terminal; 200 columns where it is none."""
    return Console() if sys.stdout.isatty() or "COLUMNS" in os.environ else Console(width=200)


def tables(
    instances: list[Instance], refused: list[str], limit: int, before: "Rates | None" = None
) -> Group:
    """The tables, then the lines of `refused`. `limit`: sockets shown; `before`: rates in place of
    totals."""
    rates = before or Rates([])
    parts: list[Any] = [_instances_table(instances, rates)]
    if any(one.sessions for one in instances):
        parts += [_sessions_table(instances, rates), _rings_table(instances, rates)]
    if limit > 0 and any(one.sockets for one in instances):
        parts.append(_sockets_table(instances, limit, rates))
    parts += [Text(line, style="yellow") for line in refused]
    return Group(*parts)


# Columns that a narrow terminal leaves out, in this order.
_LEFT_OUT = [
    *("killed", "refused", "longest", "spins", "woken", "iterations", "type", "outstanding"),
    *("user", "empty", "up", "posted", "sleeps", "queued", "stack", "sockets", "instance"),
    *("session", "id"),
]
_FOLDS, _FOLDED = ("socket", "program"), 16  # columns that may wrap, and their width


class _Table:
    """A table of as many columns as fit. A name that begins with ">" is a column of figures."""

    def __init__(self, title: str, *columns: str) -> None:
        self._title, self._columns = title, columns
        self._rows: list[tuple[Text, ...]] = []

    def add_row(self, *cells: str | Text) -> None:
        self._rows.append(tuple(Text(c) if isinstance(c, str) else c for c in cells))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        gone: list[str] = []
        for name in _LEFT_OUT:
            if self._width(gone) <= options.max_width:
                break
            if name in self._names():
                gone.append(name)
        yield self._without(gone)

    def _width(self, gone: list[str]) -> int:
        least = 1
        for i, name in enumerate(self._names()):
            if name not in gone:
                most = max([len(name), *(row[i].cell_len for row in self._rows)])
                least += 3 + (min(most, _FOLDED) if name in _FOLDS else most)
        return least

    def _names(self) -> list[str]:
        return [column.lstrip(">") for column in self._columns]

    def _without(self, gone: list[str]) -> Table:
        title = f"{self._title} (columns left out: {', '.join(gone)})" if gone else self._title
        table = Table(
            title=Text(title), box=box.SIMPLE_HEAD, title_justify="left", title_style="bold"
        )
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
    table = _Table(
        "Instances",
        *("pid", "user", "stack", "state", "socket", ">sessions", ">sockets"),
        *(">accepts", ">iterations", ">sleeps", ">lag p99", ">longest"),
        *(">refused", ">killed", ">up"),
    )
    for one in instances:
        key, totals = (one.pid,), one.totals
        table.add_row(
            *(str(one.pid), one.user, one.stack, _state(one.state), one.path or "-"),
            *(str(len(one.sessions)), str(one.open_sockets)),
            *(rates.of(key, name, totals[name]) for name in ("accepts", "turns", "sleeps")),
            *rates.lag(key, one.lag),
            *(str(totals[f"sessions_{name}"]) for name in ("refused", "killed")),
            _age(time.time() - one.started),
        )
    return table


def _state(state: str) -> Text:
    return Text(state, "red" if state in ("stopped", "stuck", "uninterruptible", "traced") else "")


def _sessions_table(instances: list[Instance], rates: "Rates") -> _Table:
    table = _Table(
        "Sessions",
        *("instance", "id", "pid", "user", "program", ">sockets", ">in", ">out"),
        *(">queued", ">pool free", ">empty", ">lag p99", ">longest"),
    )
    for one in instances:
        queued = one.queued()
        for session in one.sessions:
            key, of = (one.pid, session.id), _figures(session)
            table.add_row(
                *(str(one.pid), str(session.id), str(session.pid), session.user),
                Text.assemble(_short(session.program), (" (ending)" * session.dying, "red")),
                str(session.sockets),
                *(
                    rates.of(key, name, of.get(name, 0), _size)
                    for name in ("bytes_in", "bytes_out")
                ),
                _size(queued[session.id]),
                f"{100 * session.rx_free // max(session.rx_total, 1)}%",
                rates.of(key, "empty", of.get("empty", 0)),
                *rates.lag(key, session.lag),
            )
    return table


def _short(program: str) -> str:
    """A command line's first 40 characters, without the folders of its program and script."""
    words = program.split(" ")
    return " ".join([word.rpartition("/")[2] or word for word in words[:2]] + words[2:])[:40]


_RING_FIGURES = ("submitted", "posted", "full", "spins", "sleeps", "wakes", "woken")


def _rings_table(instances: list[Instance], rates: "Rates") -> _Table:
    table = _Table(
        "Rings",
        *("instance", "id", ">submitted", ">posted", ">sq depth", ">cq depth", ">full"),
        *(">spins", ">sleeps", ">wakes", ">woken"),
    )
    for one in instances:
        for session in one.sessions:
            key, of = (one.pid, session.id), _figures(session)
            cells = {name: rates.of(key, name, of.get(name, 0)) for name in _RING_FIGURES}
            depths = (str(session.rings[ring]["depth"]) if of else "-" for ring in ("sq", "cq"))
            first = (cells.pop("submitted"), cells.pop("posted"))
            table.add_row(str(one.pid), str(session.id), *first, *depths, *cells.values())
    return table


def _sockets_table(instances: list[Instance], limit: int, rates: "Rates") -> _Table:
    rows = [(one, sock) for one in instances for sock in one.sockets]
    rows.sort(key=lambda row: (row[1].state != "listening", -rates.weight(row[0], row[1])))
    title = f"Sockets ({limit} of {len(rows)}: --sockets N)" if len(rows) > limit else "Sockets"
    table = _Table(
        title,
        *("instance", "session", "type", "state", "local", "peer"),
        *(">in", ">out", ">outstanding", ">queued"),
    )
    for one, sock in rows[:limit]:
        key = _key(one, sock)
        table.add_row(
            *(str(one.pid), str(sock.session or "-"), sock.type, sock.state),
            *(_address(sock.local), _address(sock.peer)),
            rates.of(key, "in", sock.bytes_in, _size),
            rates.of(key, "out", sock.bytes_out, _size),
            *(_size(sock.rx_held), _size(sock.tx_queued)),
        )
    return table


def _address(address: Any) -> str:
    return "-" if address is None else text_of(*address[:2])


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


def _within(seconds: float | None) -> str:
    """A bound of the lag histogram as a cell: the iterations worked for less."""
    if seconds is None:
        return "-"
    if isinf(seconds):
        return "more"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"<{seconds / size:.0f} {unit}"
    return f"<{seconds * 1e6:.0f} µs"


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


class Rates:
    """Changes per second since the sample `before`, which is `seconds` old; with 0 s, totals."""

    def __init__(self, before: list[Instance], seconds: float = 0.0) -> None:
        self._seconds = seconds
        self._before = _samples(before)
        self._lags = {(one.pid,): one.lag for one in before} | {
            (one.pid, session.id): session.lag for one in before for session in one.sessions
        }

    def of(self, key: tuple[Any, ...], name: str, value: int | None, text: Any = None) -> str:
        """A counter's cell. `value` None: the counter does not exist."""
        if value is None:
            return "-"
        shown: float = value
        if self._seconds:
            shown = max(value - self._before.get((*key, name), value), 0) / self._seconds
        return str((text or _count)(shown)) + ("/s" if self._seconds else "")

    def lag(self, key: tuple[Any, ...], lag: Lag | None) -> tuple[str, str]:
        """Two cells: the time that 99 of 100 iterations of a loop stayed below, and the longest."""
        if lag is None:
            return "-", "-"
        new = lag.since(self._lags.get(key))
        return _within(new.below(0.99)), _within(new.below(1))

    def weight(self, one: Instance, sock: Socket) -> float:
        """The socket's bytes in this sample, or in all without one: busy sockets sort first."""
        key = _key(one, sock)
        total = (sock.bytes_in or 0) + (sock.bytes_out or 0)
        if not self._seconds:
            return total
        return total - sum(self._before.get((*key, name), 0) for name in ("in", "out"))


def _figures(session: Session) -> dict[str, int]:
    """The counters that tables show; nothing where the segment could not be read."""
    app, inst = session.app, session.inst
    if not (app and inst):
        return {}
    return {
        **app,
        **{name: inst[name] for name in ("bytes_in", "bytes_out", "posted")},
        "woken": inst["wakes"],
        "full": app["sq_full"] + inst["cq_full"],
        "empty": app["pool_empty"] + inst["pool_empty"],
    }


def _key(one: Instance, sock: Socket) -> tuple[Any, ...]:
    return one.pid, sock.session, sock.handle, str(sock.peer)


def _samples(instances: list[Instance]) -> dict[tuple[Any, ...], int]:
    found: dict[tuple[Any, ...], int] = {}
    for one in instances:
        found |= {(one.pid, name): value for name, value in one.totals.items()}
        for session in one.sessions:
            of = _figures(session)
            found |= {(one.pid, session.id, name): value for name, value in of.items()}
        for sock in one.sockets:
            key = _key(one, sock)
            found |= {(*key, "in"): sock.bytes_in or 0, (*key, "out"): sock.bytes_out or 0}
    return found
