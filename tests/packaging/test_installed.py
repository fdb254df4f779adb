"""The installed distribution: what is in it, what is not, and that its commands run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import pytest
from common.processes import completed

import ffloop

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = pathlib.Path(ffloop.__file__).parent
INSTANCE = PACKAGE / "_native" / "ffloop-instance"
COMMAND = pathlib.Path(sysconfig.get_path("scripts"), "ffloop")


def distribution() -> importlib.metadata.Distribution:
    return importlib.metadata.distribution("ffloop")


def files() -> list[str]:
    return [str(f) for f in distribution().files or () if "__pycache__" not in f.parts]


@pytest.fixture(autouse=True)
def _wheel() -> None:
    source = json.loads(distribution().read_text("direct_url.json") or "{}")
    if source.get("dir_info", {}).get("editable"):
        pytest.skip("an editable install: there is no wheel to look at")


def run(*argv: str | os.PathLike[str], **options: object) -> subprocess.CompletedProcess[str]:
    return completed(*argv, stdin=subprocess.DEVNULL, **options)


def test_the_tests_import_the_installed_package() -> None:
    """Not the source tree: `pytest`, never `python -m pytest`, which puts . on sys.path."""
    assert not PACKAGE.is_relative_to(ROOT / "ffloop")


def test_wheel_tag_is_abi3() -> None:
    text = distribution().read_text("WHEEL") or ""
    tags = [line.split()[1] for line in text.splitlines() if line.startswith("Tag:")]
    assert tags
    assert all(tag.startswith("cp311-abi3-") for tag in tags)
    assert "Root-Is-Purelib: false" in text


def test_contents() -> None:
    names = files()
    for wanted in (
        "py.typed",
        "__init__.py",
        "_native/_core.abi3.so",
        "_native/ffloop-instance",
        "_native/ffloop-ring-bench",
        "_native/include/ff_syscall.h",
    ):
        assert f"ffloop/{wanted}" in names
    # The package, its metadata, its one command and the manual (test_manual.py): nothing else.
    strays = [
        name
        for name in names
        if not name.startswith(("ffloop/", f"ffloop-{distribution().version}.dist-info/"))
        and not name.endswith("bin/ffloop")
        and "/share/man/man" not in name
    ]
    assert not strays
    sources = (".c", ".h", ".txt", ".o", ".a", ".cmake")
    mine = {n for n in names if n.startswith("ffloop/") and n.endswith(sources)}
    assert mine == {"ffloop/_native/include/ff_syscall.h"}


def test_license_is_in_the_metadata() -> None:
    metadata = distribution().metadata
    assert metadata["License-Expression"] == "BSD-2-Clause"
    assert "Redistribution and use" in (distribution().read_text("licenses/LICENSE") or "")


def test_runtime_dependencies() -> None:
    """cffi for applications; rich for the command's tables, which must work where something is
    wrong and nothing can be installed. tests/unit/test_doctor.py: applications never import it."""
    requires = [r for r in distribution().requires or () if "extra ==" not in r]
    assert [r.split(">")[0] for r in requires] == ["cffi", "rich"]


def test_version() -> None:
    assert ffloop.__version__ == distribution().version


def test_pip_check() -> None:
    done = run(sys.executable, "-m", "pip", "check")
    broken = [line for line in done.stdout.splitlines() if line.startswith("ffloop ")]
    assert not broken


def test_module_exports_its_init_functions_only() -> None:
    """The static libraries are private: two copies of the core in one process must not meet."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm is not installed")
    done = run(nm, "-D", "--defined-only", PACKAGE / "_native" / "_core.abi3.so")
    names = {line.split()[-1] for line in done.stdout.splitlines()}
    # cffi 2 generates an entry for PyPy beside the init function.
    assert names <= {"PyInit__core", "PyInit__hot", "_cffi_pypyinit__core"}


def test_module_needs_no_library_but_libc() -> None:
    done = run("ldd", PACKAGE / "_native" / "_core.abi3.so")
    assert "python" not in done.stdout
    assert "not found" not in done.stdout


def test_instance_executable_runs() -> None:
    assert os.access(INSTANCE, os.X_OK)
    done = run(INSTANCE, "--help")
    assert done.returncode == 0, done.stderr
    assert "--socket" in done.stdout


def test_console_command_runs_the_instance() -> None:
    done = run(COMMAND, "instance", "--help")
    assert done.returncode == 0, done.stderr
    assert "--stack" in done.stdout


def test_console_command_says_what_is_wrong() -> None:
    done = run(COMMAND, "no-such-command")
    assert done.returncode == 2
    assert "no-such-command" in done.stderr
    assert "Traceback" not in done.stderr


def test_import_is_quiet_and_attaches_nothing() -> None:
    """Servers fork and spawn after the import: it starts no process, thread or session."""
    program = (
        "import os, sys, threading, ffloop; "
        "print(len(os.listdir('/proc/self/task')), threading.active_count(), "
        "[f for f in os.listdir('/proc/self/fd') if int(f) > 3], 'rich' in sys.modules)"
    )
    done = run(sys.executable, "-W", "error", "-P", "-c", program)
    assert done.stderr == ""
    assert done.stdout.split() == ["1", "1", "[]", "False"]


def test_user_program() -> None:
    """The program that .ci/run gives to mypy --strict also runs."""
    done = run(sys.executable, ROOT / "tests" / "packaging" / "user_program.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "hello over host; hello over host; InstanceNotFound"
