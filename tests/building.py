"""Builds the native code with its tests, in a folder outside the sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parents[1] / "ffloop" / "_native"


def tool(name: str) -> str | None:
    """A program of this Python's environment, activated or not, else of the PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def run(command: list[str]) -> None:
    env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}  # a sanitizer's run time
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}", pytrace=False)


def placed(command: list[str]) -> list[str]:
    """For ThreadSanitizer: older ones cannot map a random layout."""
    setarch = shutil.which("setarch")
    return [setarch, "-R", *command] if setarch else command


Build = Callable[[str, str], Path]


def builder(new_folder: Callable[[str], Path]) -> Build:
    """build(sanitize, target): the folder that holds the built target."""
    folders: dict[str, Path] = {}
    done: set[tuple[str, str]] = set()

    def make(sanitize: str, target: str) -> Path:
        cmake = tool("cmake")
        assert cmake, "the C tests need cmake: pip install cmake"
        if sanitize not in folders:
            folder = new_folder("native-" + (sanitize or "plain").replace(",", "-"))
            command = [cmake, "-S", str(NATIVE), "-B", str(folder), "-DFFL_TESTS=ON"]
            flags = "-Werror -g"
            if os.environ.get("FFL_COVERAGE"):  # threads count with atomics, or counts are lost
                flags += " --coverage -fprofile-update=atomic"
            command += [f"-DFFL_SANITIZE={sanitize}", f"-DCMAKE_C_FLAGS={flags}"]
            if ninja := tool("ninja"):
                command += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
            run(command)
            folders[sanitize] = folder
        if (sanitize, target) not in done:
            jobs = str(os.cpu_count() or 1)
            run([cmake, "--build", str(folders[sanitize]), "-j", jobs, "--target", target])
            done.add((sanitize, target))
        return folders[sanitize]

    return make
