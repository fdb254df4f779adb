"""kqueue.c, built as programs are, linked with the library and preloaded."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from common.processes import completed
from programs import need
from shim import Instance

HERE = Path(__file__).parent
CASES = re.findall(r"^CASE\((\w+)\)", (HERE / "kqueue.c").read_text(), re.MULTILINE)


def flags(*which: str) -> list[str]:
    """What `ffloop preload` says of compiling and linking."""
    ffloop = str(Path(sys.executable).with_name("ffloop"))
    done = completed(ffloop, "preload", *which, check=True)
    return shlex.split(done.stdout)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = need("cc")
    out = tmp_path_factory.mktemp("kqueue") / "kqueue"
    subprocess.run(
        [compiler, "-Wall", "-Wextra", "-Werror", "-pthread", *flags("--cflags"),
         HERE / "kqueue.c", "-o", out, *flags("--libs")],
        check=True,
    )  # fmt: skip
    return out


@pytest.mark.parametrize("case", CASES)
def test_kqueue(program: Path, shared_instance: Instance, case: str) -> None:
    environment = shared_instance.environment()
    del environment["LD_PRELOAD"]  # it is linked
    done = completed(program, case, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


def test_preloaded_too(program: Path, shared_instance: Instance) -> None:
    done = subprocess.run([program, "server"], env=shared_instance.environment())
    assert done.returncode == 0


def test_flags() -> None:
    include, folder, rpath, name = flags("--cflags", "--libs")
    assert os.path.exists(include.removeprefix("-I") + "/ff_syscall.h")
    assert folder.startswith("-L") and rpath.startswith("-Wl,-rpath,") and name == "-lff_syscall"
