"""Draws the comparison with matplotlib, as PNG or SVG by the file's suffix."""

from __future__ import annotations

import pathlib
from typing import Any

_COLORS = {
    "asyncio": "#9aa5b1",
    "uvloop": "#4c78a8",
    "rloop": "#72b7b2",
    "ffloop": "#e4572e",
    "ffloop-ring": "#f2a541",
}
_METRICS = (("rps", "requests per second"), ("cpu_us", "CPU µs per request (light: instance)"))


def draw(results: list[dict[str, Any]], path: pathlib.Path, title: str) -> None:
    """Draws rows of measure.compare to `path`. The lighter part of a CPU bar is the instance's."""
    from matplotlib.figure import Figure

    apps = list(dict.fromkeys(str(r["app"]) for r in results))
    loops = list(dict.fromkeys(str(r["loop"]) for r in results))
    figure = Figure(figsize=(11, 1.2 + 3.2 * len(apps)), layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(len(apps), len(_METRICS), squeeze=False)
    for row, app in enumerate(apps):
        mine = [r for r in results if r["app"] == app]
        cases = list(dict.fromkeys((r["bytes"], r["connections"]) for r in mine))
        for column, (metric, label) in enumerate(_METRICS):
            _bars(axes[row][column], mine, cases, loops, metric)
            axes[row][column].set_title(f"{app}: {label}", fontsize=9)
    axes[0][0].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)


def _bars(
    axis: Any, rows: list[dict[str, Any]], cases: list[Any], loops: list[str], metric: str
) -> None:
    width = 0.8 / len(loops)
    found = {(r["bytes"], r["connections"], r["loop"]): r for r in rows}
    for number, loop in enumerate(loops):
        at = [i + (number - (len(loops) - 1) / 2) * width for i in range(len(cases))]
        mine = [found[(*case, loop)] for case in cases]
        color = _COLORS.get(loop.partition(",")[0])
        instance = [r["instance_us"] if metric == "cpu_us" else 0 for r in mine]
        heights = [r[metric] - above for r, above in zip(mine, instance, strict=True)]
        axis.bar(at, heights, width, label=loop, color=color)
        axis.bar(at, instance, width, bottom=heights, color=color, alpha=0.4)
    axis.set_xticks(range(len(cases)), [_case(*case) for case in cases], fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _case(size: int, connections: int) -> str:
    body = "small" if not size else f"{size // 1024} KiB" if size < 2**20 else f"{size >> 20} MiB"
    return f"{body}\n{connections} conn."
