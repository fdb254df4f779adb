"""`ffloop top`: shows instances live, with rates, until q, Ctrl-C or --count screens."""

import argparse
import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator

from rich.live import Live

from . import collect, tables


def main(args: argparse.Namespace) -> int:
    """Shows the instances until the user ends it. Returns an exit status. Raises InstanceError
    where no instance can be read."""
    seen, began = collect.some(args.instance), time.monotonic()
    shown = 0
    screen = Live(
        tables.tables(*seen, args.sockets),
        auto_refresh=False,
        console=tables.console(),
        screen=sys.stdout.isatty(),
    )
    with contextlib.suppress(KeyboardInterrupt), _keys() as keys, screen:
        while not args.count or shown < args.count:
            if _quits(keys, args.interval):
                break
            before, seen = seen, collect.some(args.instance)
            now = time.monotonic()
            rates = tables.Rates(before[0], now - began)
            screen.update(tables.tables(*seen, args.sockets, rates), refresh=True)
            began = now
            shown += 1
    return 0


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    """The descriptor of the terminal on standard input, set to deliver each key at once; None where
    there is no terminal, or another job has it."""
    try:
        fd = sys.stdin.fileno()
        if os.tcgetpgrp(fd) != os.getpgrp():
            fd = None
        else:
            before = termios.tcgetattr(fd)
    except (OSError, ValueError, termios.error, AttributeError):
        fd = None
    if fd is None:
        yield None
        return
    tty.setcbreak(fd)
    try:
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _quits(keys: int | None, seconds: float) -> bool:
    """Waits `seconds`, or until q is pressed: then True."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if not select.select([keys] if keys is not None else [], [], [], left)[0]:
            continue
        pressed = os.read(keys, 64) if keys is not None else b""
        if b"q" in pressed or b"Q" in pressed:
            return True
        if not pressed:
            keys = None  # the terminal is gone
    return False
