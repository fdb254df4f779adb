"""An instance that is asked for F-Stack loads it from the distribution beside the package.

Here the sim is in F-Stack's place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from common import instances
from common.processes import completed

import ffloop
from ffloop._session import direct

INSTALL = "FF_PATH=/path/to/f-stack pip install ffloop-fstack"


@pytest.fixture
def executable(build: Callable[[str, str], Path], tmp_path: Path) -> Path:
    """An instance's, installed in a folder of its own."""
    folder = tmp_path / "ffloop" / "_native"
    folder.mkdir(parents=True)
    return Path(shutil.copy(build("", "ffloop-instance") / "ffloop-instance", folder))


@pytest.fixture
def module(executable: Path) -> Path:
    """Where F-Stack would be."""
    path = executable.parents[2] / "ffloop_fstack" / "libffloop_fstack.so"
    path.parent.mkdir()
    return path


def says(executable: Path, *options: str) -> tuple[int, str]:
    done = completed(executable, *options)
    return done.returncode, done.stdout + done.stderr


def test_it_is_loaded(executable: Path, module: Path, build: Callable[[str, str], Path]) -> None:
    shutil.copy(build("", "ffloop_fstack") / "sim" / module.name, module)
    status, said = says(executable, "--version")
    assert (status, said.splitlines()[1]) == (0, "stacks: host, fstack (the sim)")
    path = executable.parents[2] / "i.sock"
    with instances.running(path, "--stack", "fstack", executable=str(executable)):
        loop = ffloop.new_event_loop(instance=str(path))
        assert loop.instance.stack == "sim"
        loop.close()


def other_version(module: Path) -> None:
    command = [os.environ.get("CC", "cc"), "-shared", "-o", str(module), "-xc", "-"]
    subprocess.run(command, input=b'const char *ffl_module[] = {"0.0.1"};', check=True, timeout=60)


@pytest.mark.parametrize(
    ("install", "found", "mend"),
    [
        (lambda module: None, "F-Stack is not installed", INSTALL),
        (lambda module: module.write_text("no object"), "F-Stack cannot be loaded (", "again"),
        (other_version, "ffloop-fstack 0.0.1 does not go with ffloop", f"{INSTALL}=="),
    ],
    ids=["missing", "broken", "other"],
)
def test_it_is_not_loaded(
    executable: Path,
    module: Path,
    install: Callable[[Path], None],
    found: str,
    mend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is told what to do: who asks for it, and who asks what there is."""
    install(module)
    status, said = says(executable, "--version")
    assert (status, said.splitlines()[1]) == (0, "stacks: host")
    assert said.splitlines()[2].startswith(f"no fstack: {found}")
    status, said = says(executable, "--stack", "fstack")
    assert status == 2
    assert f"ffloop-instance: {found}" in said
    assert mend in said
    monkeypatch.setattr(direct, "NATIVE", executable.parent)
    with pytest.raises(ffloop.StackUnavailable) as caught:
        ffloop.new_event_loop(stack="fstack", instance="direct")
    assert found in str(caught.value)
    assert mend in str(caught.value)
