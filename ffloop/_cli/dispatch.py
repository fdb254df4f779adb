"""Parses the command line, and calls the command's module."""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence

from ..errors import ConfigError, sentence
from . import parser
from .arguments import Refused

# The main(args) of each module returns an exit status.
_MODULES = {
    "run": ".run",
    "preload": ".preload",
    "stat": ".stat",
    "top": ".top",
    "doctor": ".doctor",
    "bench": ".bench.command",
}


def main(argv: Sequence[str] | None) -> int:
    """Calls the command that `argv` names, of the process by default. Returns an exit status."""
    name = "ffloop"
    _have_streams()
    try:
        known = parser.build()
        if "_ARGCOMPLETE" in os.environ:  # a shell asks for completions
            importlib.import_module("argcomplete").autocomplete(known)
        args, rest = known.parse_known_args(argv)
        name = f"ffloop {args.command}"
        if args.command == "instance":
            return _instance(rest)
        if rest:
            args.parser.error(f"unrecognized arguments: {' '.join(rest)}")
        call: Callable[[argparse.Namespace], int]
        call = importlib.import_module(_MODULES[args.command], __package__).main
        if args.command != "run":
            if isinstance(sys.stdout, io.TextIOWrapper):  # names and units, in any locale
                sys.stdout.reconfigure(errors="replace")
            status = call(args)
            sys.stdout.flush()
            return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `ffloop stat | head`: the reader has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Refused, ConfigError, ImportError, OSError) as exc:
        print(f"{name}: {sentence(exc)}", file=sys.stderr)
        return 1
    return call(args)  # no `except` here: what the program raises is its own


def _have_streams() -> None:
    """Where the caller has closed one (`>&-`), what is written goes nowhere."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:
            setattr(sys, stream, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))


def _instance(rest: list[str]) -> int:
    # The instance replaces this process, so that signals reach it and its exit status is seen.
    from .._session.discovery import executable

    path = executable()
    os.execv(path, [path, *rest])
