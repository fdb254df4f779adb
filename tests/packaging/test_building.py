"""What is said where it cannot be built."""

from __future__ import annotations

import os
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from building import NATIVE, tool
from common.processes import completed


def refused(tmp_path: Path, *definitions: str) -> str:
    """What CMake says, in words on one line."""
    cmake = tool("cmake")
    assert cmake
    command = [cmake, "-S", str(NATIVE), "-B", str(tmp_path / "build"), *definitions]
    if ninja := tool("ninja"):
        command += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    done = completed(*command)
    assert done.returncode != 0
    return " ".join(done.stderr.split())


def test_versions() -> None:
    """ffloop-fstack is for this very ffloop."""
    both = tomllib.loads((NATIVE / "pyproject.toml").read_text())["project"]
    assert both["version"] == metadata.version("ffloop")
    assert both["dependencies"] == [f"ffloop=={both['version']}"]


def test_another_c_library_is_named(tmp_path: Path) -> None:
    """musl has a features.h that says nothing of a version."""
    (tmp_path / "features.h").touch()
    said = refused(tmp_path, f"-DCMAKE_C_FLAGS=-I{tmp_path}")
    assert "needs Linux with the GNU C library" in said
    assert "musl" in said


def test_an_interpreter_without_the_limited_api_is_named(tmp_path: Path) -> None:
    """scikit-build-core names no component of a free-threaded Python."""
    said = refused(
        tmp_path, "-DSKBUILD=2", "-DSKBUILD_PROJECT_VERSION_FULL=0", "-DSKBUILD_SABI_COMPONENT="
    )
    assert "needs a CPython with the GIL" in said
    assert "free-threaded" in said


def test_no_fstack_is_named(tmp_path: Path) -> None:
    said = refused(tmp_path, "-DFFL_FSTACK=ON", f"-DFF_PATH={tmp_path}")
    assert f"FF_PATH='{tmp_path}' has no lib/libfstack.a" in said


@pytest.mark.skipif(not os.environ.get("FF_PATH"), reason="FF_PATH does not name a built F-Stack")
def test_a_driver_that_dpdk_does_not_have(tmp_path: Path) -> None:
    drivers = "-DFF_DPDK_DRIVERS=net_af_packet, net_none"
    said = refused(tmp_path, "-DFFL_FSTACK=ON", f"-DFF_PATH={os.environ['FF_PATH']}", drivers)
    assert "this DPDK has no librte_net_none.a" in said
