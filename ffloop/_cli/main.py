"""The command `ffloop`."""

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Sequence

from .._session.discovery import executable
from ..errors import InstanceError
from . import doctor, preload, run, stat
from .bench import command as _bench


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `ffloop` command. Returns an exit status."""
    parser = argparse.ArgumentParser(prog="ffloop", description="asyncio on a user-space TCP stack")
    parser.add_argument("--version", action="version", version=f"ffloop {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "instance",
        help="run an instance in the foreground (`ffloop instance --help`)",
        add_help=False,
    )
    run.add_command(commands)
    preload.add_command(commands)
    stat.add_commands(commands)
    doctor.add_command(commands)
    _bench.add_command(commands)
    args, rest = parser.parse_known_args(argv)
    if args.command == "instance":
        return _instance(rest)
    if rest:
        commands.choices[args.command].error(f"unrecognized arguments: {' '.join(rest)}")
    status: int
    if args.command == "run":  # what the program raises is the program's
        status = args.call(args)
        return status
    try:
        status = args.call(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `ffloop stat | head`: who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _version() -> str:
    return importlib.metadata.version("ffloop")


def _instance(rest: list[str]) -> int:
    # The instance takes this process's place: signals and the exit status are its own.
    try:
        path = executable()
        os.execv(path, [path, *rest])
    except InstanceError as exc:
        print(f"ffloop: {exc.strerror}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
