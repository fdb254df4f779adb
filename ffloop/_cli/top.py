"""`ffloop top`: shows instances live, with rates, until q, Ctrl-C or --count screens."""

import argparse
import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator

from rich.console import Group
from rich.live import Live

from . import collect, tables


def main(args: argparse.Namespace) -> int:
    """Shows the instances until the user ends it. Returns an exit status. Raises InstanceError
    where no instance can be read."""
    seen, began = collect.some(args.instance), time.monotonic()
    shown = 0
    screen = _screen(tables.tables(*seen, args.sockets))
    with contextlib.suppress(KeyboardInterrupt), _keys() as keys, screen as show:
        while not args.count or shown < args.count:
            if _quits(keys, args.interval):
                break
            before, seen = seen, collect.some(args.instance)
            now = time.monotonic()
            rates = tables.Rates(before[0], now - began)
            show(tables.tables(*seen, args.sockets, rates))
            began = now
            shown += 1
    return 0


@contextlib.contextmanager
def _screen(first: Group) -> Iterator[Callable[[Group], None]]:
    """A call that shows one screen after the other: in the terminal's place, begun with `first`; or
    below each other in a file or pipe."""
    console = tables.console()

    def append(one: Group) -> None:
        console.print(one)
        sys.stdout.flush()

    if not sys.stdout.isatty():
        yield append
        return
    with Live(first, auto_refresh=False, console=console, screen=True) as live:
        yield lambda one: live.update(one, refresh=True)


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
