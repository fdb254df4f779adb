"""Command lines of ffloop in documents and examples."""

import functools
import re
import subprocess
from collections.abc import Sequence

from ffloop._cli import parser
from ffloop._session import discovery


@functools.cache
def _help() -> str:
    command = [discovery.executable(), "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def options(command: str) -> set[str]:
    """Of a command; of what is none, none."""
    if command == "instance":
        return set(re.findall("--[a-z0-9-]+", _help()))
    [commands] = [each for each in parser.build()._actions if each.dest == "command"]
    assert commands.choices
    made = dict(commands.choices).get(command)  # type: ignore[call-overload]
    return set(made._option_string_actions) if made else set()


def check(argv: Sequence[str]) -> None:
    """AssertionError or SystemExit where this ffloop has not such a command or option."""
    if argv[0] == "instance":
        given = {word.partition("=")[0] for word in argv if word.startswith("--")}
        assert given <= options("instance"), argv
    else:
        args, rest = parser.build().parse_known_args(argv)
        assert not rest, argv
        assert args.command == argv[0]
