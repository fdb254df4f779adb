"""The interpreters of this machine that ffloop supports: those of the PATH, and pyenv's.

As a program it prints their executables, one a line.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

_ASK = """
import json, platform, sys, sysconfig
json.dump({
    "version": sys.version_info[:3],
    "fit": sys.version_info >= (3, 11) and platform.python_implementation() == "CPython"
        and not sysconfig.get_config_var("Py_GIL_DISABLED"),
    "headers": sysconfig.get_path("include"),
}, sys.stdout)
"""


def _candidates() -> list[Path]:
    folders = [Path(one) for one in os.environ.get("PATH", "").split(os.pathsep) if one]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    folders += sorted(pyenv.glob("versions/*/bin"))
    named = [one for folder in folders for one in sorted(folder.glob("python3*"))]
    return [one for one in named if re.fullmatch(r"python3(\.\d+)?", one.name)]


def found() -> dict[tuple[int, int], str]:
    """(3, minor) -> an executable that has its headers; the running one for its own version."""
    mine: dict[tuple[int, int], str] = {}
    for path in [Path(sys.executable), *_candidates()]:
        done = subprocess.run(
            [path, "-I", "-c", _ASK], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if done.returncode != 0:  # pyenv's shims of versions that are not chosen
            continue
        told = json.loads(done.stdout)
        if told["fit"] and Path(told["headers"], "Python.h").exists():
            mine.setdefault(tuple(told["version"][:2]), str(path))
    return dict(sorted(mine.items()))


if __name__ == "__main__":
    print(*found().values(), sep="\n")
