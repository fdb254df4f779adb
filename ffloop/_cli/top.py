"""`ffloop top`: shows instances live, with rates, until q, Ctrl-C or --count screens."""

import argparse
import contextlib
import os
import select
import signal
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
    quiet = contextlib.suppress(KeyboardInterrupt)
    with quiet, _ctrl_c() as interrupted, _keys() as keys, screen as show:
        while not args.count or shown < args.count:
            if _quits(interrupted, keys, args.interval):
                break
            before, seen = seen, collect.some(args.instance)
            now = time.monotonic()
            rates = tables.Rates(before[0], now - began)
            show(tables.tables(*seen, args.sockets, rates))
            began = now
            shown += 1
    return 0


@contextlib.contextmanager
def _ctrl_c() -> Iterator[int]:
    """A descriptor that is readable once Ctrl-C was pressed, be it just before a wait. To a
    terminal nothing is raised besides: interrupted while it begins, Live would leave its screen."""
    reads, writes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writes)
    before = signal.getsignal(signal.SIGINT)
    quiet = sys.stdout.isatty() and before is signal.default_int_handler
    if quiet:
        signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield reads
    finally:
        signal.set_wakeup_fd(-1)
        if quiet:
            signal.signal(signal.SIGINT, before)
        os.close(reads)
        os.close(writes)


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


def _quits(interrupted: int, keys: int | None, seconds: float) -> bool:
    """Waits `seconds`, or until q or Ctrl-C is pressed: then True."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        watched = [interrupted, *([] if keys is None else [keys])]
        ready = select.select(watched, [], [], left)[0]
        if interrupted in ready:
            return True
        if keys not in ready:
            continue
        pressed = os.read(keys, 64)
        if b"q" in pressed or b"Q" in pressed:
            return True
        if not pressed:
            keys = None  # the terminal is gone
    return False
