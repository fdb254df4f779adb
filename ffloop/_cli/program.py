"""Runs a script in a process whose every loop is ffloop's.

Every way to a loop leads to ffloop: the policy, asyncio's own selector loop, and uvloop where it is
installed. Processes that multiprocessing spawns (uvicorn's and hypercorn's workers) are prepared in
the same way.
"""

import asyncio
import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import multiprocessing.spawn
import os
import runpy
import sys
import types
from typing import Any

from .._loop import policy
from .._loop.loop import Loop, new_event_loop
from .._session.log import log
from .arguments import Refused

# Servers whose sockets are not the loop's, by the module that serves.
_ON_THE_KERNEL = {
    "granian.server": "granian serves from a runtime of its own, in Rust",
    "tornado.netutil": "Tornado makes its own sockets",
    "twisted.internet.asyncioreactor": "Twisted (daphne) makes its own sockets",
}


class _Watch(importlib.abc.MetaPathFinder):
    """Warns when a server is imported that stays on the kernel. Finds no module."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if why := _ON_THE_KERNEL.get(name):
            log.warning("%s: what it serves stays on the kernel's network, not the stack's", why)


class _Stderr(logging.StreamHandler[Any]):
    """Shows ffloop's log lines unless the program has set up logging itself."""

    def filter(self, record: logging.LogRecord) -> Any:
        return not logging.root.handlers


def log_to_stderr() -> None:
    """Shows ffloop's log, from INFO, on stderr where the program has set up no logging."""
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("ffloop: %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)


def script(path: str, args: list[str]) -> int:
    """Runs a script as `python path args...` does, on ffloop."""
    take_over()
    sys.argv = [path, *args]
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.abspath(path))
    runpy.run_path(path, run_name="__main__")
    return 0


def module(name: str, args: list[str]) -> int:
    """Runs a module as `python -m name args...` does, on ffloop. Raises Refused."""
    take_over()
    sys.argv = [name, *args]
    search_here()
    if not (found := spec(name)):
        raise Refused(f"there is no module {name!r} here or in sys.path")
    if found.submodule_search_locations is not None and not spec(f"{name}.__main__"):
        raise Refused(f"{name!r} is a package without a module __main__")
    runpy.run_module(name, run_name="__main__", alter_sys=True)
    return 0


def search_here() -> None:
    """Modules are looked for in the current directory first, as by `python -m`."""
    if not sys.flags.safe_path:
        with contextlib.suppress(FileNotFoundError):  # it was removed
            sys.path[0] = os.getcwd()


def spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """Of the module `name`; None where it, or a package that it is in, is not there."""
    try:
        return importlib.util.find_spec(name)
    except ValueError:  # a name that no module has: empty, or "__main__"
        return None
    except ModuleNotFoundError as exc:
        if not is_part(exc.name, name):
            raise  # by its package
        return None


def is_part(missing: str | None, name: str) -> bool:
    """Whether the module that was not found is `name` or a package that it is in."""
    return missing is not None and f"{name}.".startswith(f"{missing}.")


def take_over() -> None:
    """Makes every loop of this process, and of processes it spawns, an ffloop.Loop."""
    log_to_stderr()
    standard: Any = asyncio
    if policy.available():
        policy.install()
    else:
        standard.new_event_loop = standard.events.new_event_loop = new_event_loop
    for name in ("SelectorEventLoop", "EventLoop"):  # EventLoop: Python 3.13
        if hasattr(standard, name):
            setattr(standard, name, _SelectorEventLoop)
    if importlib.util.find_spec("uvloop") is not None:
        sys.modules["uvloop"] = _uvloop()
    sys.meta_path.insert(0, _Watch())
    spawn: Any = multiprocessing.spawn
    spawn.get_command_line = _spawn_command


class _SelectorEventLoop(Loop):
    """An ffloop.Loop with the constructor of asyncio.SelectorEventLoop."""

    def __init__(self, selector: Any = None) -> None:
        if selector is not None:
            log.warning("%r is not used: ffloop has a selector of its own", selector)
        super().__init__()


def _uvloop() -> types.ModuleType:
    """A module in uvloop's place: `ffloop run` overrides the program's choice of loop."""

    def run(main: Any, *, loop_factory: Any = new_event_loop, debug: Any = None, **_: Any) -> Any:
        with asyncio.Runner(loop_factory=loop_factory, debug=debug) as runner:
            return runner.run(main)

    made: Any = types.ModuleType("uvloop", "ffloop, in uvloop's place under `ffloop run`.")
    made.__spec__ = importlib.util.find_spec("uvloop")
    made.__version__ = "0.0"
    made.Loop = Loop
    made.EventLoopPolicy = policy.FFLoopPolicy
    made.new_event_loop = new_event_loop
    made.install = policy.install
    made.run = run
    return made  # type: ignore[no-any-return]


_plain_spawn_command = multiprocessing.spawn.get_command_line


def _spawn_command(**kwargs: Any) -> list[str]:
    command: list[str] = _plain_spawn_command(**kwargs)
    if "-c" in command:
        program = command.index("-c") + 1
        command[program] = f"from {__name__} import take_over; take_over(); {command[program]}"
    return command
