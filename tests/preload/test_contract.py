"""What a program may count on, from C, natively and under the shim: the same.

Each program here is one kind of promise; cases.h says how they are built up.
"""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from building import Build
from programs import either_stack, need
from shim import Instance

HERE = Path(__file__).parent
PROGRAMS = (
    "streams",
    "numbers",
    "children",
    "shared",
    "passing",
    "states",
    "settings",
    "async",
    "storm",
    "small",
    "pointers",
    "prefork",
    "idle",
    "leaving",
    "confined",
)
FLAGS = ["-Wall", "-Wextra", "-Werror", "-O2", "-D_FORTIFY_SOURCE=2", "-pthread"]


def cases(program: str) -> list[str]:
    text = (HERE / f"{program}.c").read_text()
    sides = re.findall(r"^ASKED\((\w+)", text, re.MULTILINE)  # each of both ends
    single = re.findall(r"^(?:CASE|MADE)\((\w+)", text, re.MULTILINE)
    return single + [f"{side}_{name}" for name in sides for side in ("connected", "accepted")]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Builds a program of this folder, once."""
    compiler = need("cc")
    folder = tmp_path_factory.mktemp("contract")

    def build(program: str) -> Path:
        out = folder / program
        if not out.exists():
            subprocess.run([compiler, *FLAGS, HERE / f"{program}.c", "-o", out], check=True)
        return out

    return build


@pytest.mark.parametrize(
    "case",
    [
        "some_after_a_childs_exec",
        "a_grandchild_has_it",
        "takes_its_descriptors_away",
        "two_threads_without_descriptors",
        "a_thread_of_a_child_reads_a_part",
        "the_limit_beside_a_closefrom",
    ],
)
def test_children_of_one_thread(built, instance: Instance, case: str) -> None:
    instance.same(built("children"), case, FF_THREAD_SOCKET="1")


def test_splice_with_a_small_pool(built, instance: Instance) -> None:
    instance.same(built("states"), "spliced_without_room", FFLOOP_POOL_KIB="64")


@either_stack
@pytest.mark.parametrize(("program", "case"), [(p, c) for p in PROGRAMS for c in cases(p)])
def test_same(built, at_loopback: Instance, program: str, case: str) -> None:
    at_loopback.same(built(program), case)


def run_time(compiler: str, name: str) -> str:
    """A sanitizer's library of this compiler; skips where there is none."""
    command = [compiler, f"-print-file-name={name}"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(found):
        pytest.skip(f"{compiler} has no {name}")
    return found


@pytest.mark.parametrize(
    ("program", "case"), [(p, c) for p in ("storm", "leaving") for c in cases(p)]
)
def test_address_sanitizer(
    built, instance: Instance, build: Build, program: str, case: str
) -> None:
    """Handlers that interrupt the program's malloc, and calls that are left, with the shim's own
    memory under AddressSanitizer."""
    shim = build("address", "ff_syscall") / "libff_syscall.so"
    environment = instance.environment(ASAN_OPTIONS="detect_leaks=0:use_sigaltstack=0")
    environment["LD_PRELOAD"] = f"{run_time(need('cc'), 'libasan.so')}:{shim}"
    done = subprocess.run([built(program), case], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_confined_process_hears_of_the_end_of_its_instance(built, instance: Instance) -> None:
    with subprocess.Popen(
        built("confined"), env=instance.environment(), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        instance.process.kill()
        instance.process.wait()
        assert process.wait() == 0
