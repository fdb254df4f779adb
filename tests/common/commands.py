"""Command lines of ffloop in documents and examples."""

import functools
import subprocess
from collections.abc import Sequence

from ffloop._cli import parser
from ffloop._session import discovery


@functools.cache
def _help() -> str:
    command = [discovery.executable(), "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def check(argv: Sequence[str]) -> None:
    """AssertionError or SystemExit where this ffloop has not such a command or option."""
    if argv[0] == "instance":
        options = [word.partition("=")[0] for word in argv if word.startswith("--")]
        assert all(f"{option} " in _help() for option in options), argv
    else:
        args, rest = parser.build().parse_known_args(argv)
        assert not rest, argv
        assert args.command == argv[0]
