"""The C tests: every TEST(...) of this folder is a pytest case, in a process of its own.

They are built by the run, in a folder outside the sources. ``FFL_SANITIZE=address,undefined`` (or
``thread``) builds and runs all of them with sanitizers; the rings' are built with ThreadSanitizer
in any case, since a plain run on x86 hides most ordering mistakes. The fuzz targets
(``tests/fuzz``) take their kept inputs and then random ones, a few seconds each.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from building import placed
from common.processes import completed

HERE = Path(__file__).resolve().parent
# Seconds per case, on a busy machine too; the executable's own alarm comes first and says where it
# was.
TIME_LIMIT = 160
STACKS = ("host", "sim")
TWO_THREADS = {"ring", "channel"}  # under ThreadSanitizer too
BY_STACK = {"seam"}  # run once for each stack, whose name is the argument
ALL_HUGE_PAGES = {"r7_punched_huge_pages"}  # take every huge page of the system for a moment
SANITIZE = os.environ.get("FFL_SANITIZE", "")
CORPUS = HERE.parent / "fuzz" / "corpus"
# Targets, and how many units of random input.
FUZZ = {"entries": 200_000, "hello": 10_000, "client": 200_000}


def cases() -> Iterator[object]:
    for source in sorted(HERE.glob("*.c")):
        name = source.stem
        for case in re.findall(r"^TEST\((\w+)\)", source.read_text(), re.MULTILINE):
            if name in BY_STACK:
                for stack in STACKS:
                    yield pytest.param(SANITIZE, name, [case, stack], id=f"{name}-{case}-{stack}")
                continue
            marks = pytest.mark.skipif(
                case in ALL_HUGE_PAGES and os.environ.get("FFLOOP_SCALE") != "full",
                reason="takes all huge pages: FFLOOP_SCALE=full, and 16 MiB of them",
            )
            yield pytest.param(SANITIZE, name, [case], id=f"{name}-{case}", marks=marks)
            if name in TWO_THREADS and SANITIZE != "thread":
                yield pytest.param("thread", name, [case], id=f"{name}-{case}-tsan")


Build = Callable[[str, str], Path]


@pytest.mark.timeout(TIME_LIMIT + 240)  # the first case of a build waits for the compiler
@pytest.mark.parametrize(("sanitize", "name", "arguments"), list(cases()))
def test_native(
    build: Build, tmp_path: Path, sanitize: str, name: str, arguments: list[str]
) -> None:
    folder = build(sanitize, f"test-{name}")
    command = [str(folder / "tests" / f"test-{name}"), *arguments]
    if sanitize == "thread":
        command = placed(command)
    execute(command, tmp_path)


@pytest.mark.timeout(2 * TIME_LIMIT + 240)
@pytest.mark.parametrize("name", FUZZ)
def test_fuzz(build: Build, tmp_path: Path, name: str) -> None:
    program = str(build("address,undefined", f"fuzz-{name}") / "fuzz" / f"fuzz-{name}")
    assert "nothing left" in execute([program, str(CORPUS / name)], tmp_path)
    assert "nothing left" in execute([program, "--random", "1", str(FUZZ[name])], tmp_path)


def execute(command: list[str], folder: Path) -> str:
    """What it says; a failure of the test when it fails."""
    environment = {
        **os.environ,
        "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0",
        "TSAN_OPTIONS": "halt_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    try:
        done = completed(
            *command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, timeout=TIME_LIMIT
        )
    except subprocess.TimeoutExpired as e:
        pytest.fail(
            f"{' '.join(command)}: no end after {TIME_LIMIT} s\n{e.stderr!r}", pytrace=False
        )
    if done.returncode != 0:
        told = f"{done.stdout}\n{done.stderr}"
        pytest.fail(f"{' '.join(command)}: status {done.returncode}\n{told}", pytrace=False)
    return done.stdout
