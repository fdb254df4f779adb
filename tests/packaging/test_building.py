"""What is said where it cannot be built."""

from __future__ import annotations

import subprocess
from pathlib import Path

from building import NATIVE, tool


def test_another_c_library_is_named(tmp_path: Path) -> None:
    """musl has a features.h that says nothing of a version."""
    cmake = tool("cmake")
    assert cmake
    (tmp_path / "features.h").touch()
    command = [cmake, "-S", str(NATIVE), "-B", str(tmp_path / "build")]
    if ninja := tool("ninja"):
        command += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    done = subprocess.run(
        [*command, f"-DCMAKE_C_FLAGS=-I{tmp_path}"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert "needs Linux with the GNU C library" in done.stderr
    assert "musl" in done.stderr
