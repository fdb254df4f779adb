"""A worker's side of `ffloop run --workers`: it tells its parent when a loop serves, and stops
accepting when the parent says so. The parent's side is _cli/supervisor.py.

Between the two is a stream socket. One byte from the worker: it serves. Its end, from the parent:
retire. An end is seen by every loop that looks, now or later, and takes nothing of the
application's, neither a signal nor a handler.
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
    """A loop has begun to serve: in a worker, tells the parent. The loop's `_retire` is called
    when the worker is to be replaced."""
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
