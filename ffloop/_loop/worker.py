"""A worker's side of `ffloop run --workers`: it tells the supervisor (_cli/supervisor.py) when a
loop serves, and stops accepting when the supervisor says so.

Between the two is a stream socket. A byte from the worker: it serves. The end of the stream, from
the supervisor: retire. Every loop of the worker sees that end, now or later, and it takes neither a
signal nor a handler from the application.
"""

import contextlib
import os
from typing import Any

_supervisor = -1  # in a worker: the descriptor of the stream to the parent
_pid = 0  # of that worker: a child that it forks is nobody's worker
_told = False


def begin(supervisor: int) -> None:
    """This process is a worker, from now on; it keeps the descriptor `supervisor` to its end."""
    global _supervisor, _pid, _told
    _supervisor, _pid, _told = supervisor, os.getpid(), False


def serving(loop: Any) -> None:
    """Called when a loop has begun to serve: in a worker, tells the supervisor, and lets the loop
    `_retire` when that says so."""
    global _told
    if os.getpid() != _pid:
        return
    loop._add_reader(_supervisor, _retire, loop)
    if not _told:
        _told = True
        with contextlib.suppress(OSError):  # the parent is gone
            os.write(_supervisor, b"s")


def _retire(loop: Any) -> None:
    loop._remove_reader(_supervisor)
    loop._retire()
