"""Programs whose calls a preloaded library does not see are known before they start."""

import os
import sysconfig
from pathlib import Path

import pytest
from common.processes import completed
from programs import need

FFLOOP = str(Path(sysconfig.get_path("scripts"), "ffloop"))
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("FFLOOP", "FF_"))}
PROGRAM = '#include <stdio.h>\nint main(void) { return puts("ran") < 0; }\n'
GO = """
__attribute__((section(".note.go.buildid"), used)) static const struct {
    unsigned owner, size, kind;
    char name[4], id[4];
} note = {4, 4, 4, "Go", "abc"};
"""


@pytest.fixture
def build(tmp_path: Path):
    compiler = need("cc")

    def build(source: str, *flags: str) -> str:
        out, text = tmp_path / "program", tmp_path / "program.c"
        text.write_text(source)
        done = completed(compiler, text, "-o", out, *flags)
        if done.returncode:
            pytest.skip(f"this compiler cannot: {done.stderr[-200:]}")
        return str(out)

    return build


def preload(*arguments: str) -> tuple[int, str, str]:
    done = completed(FFLOOP, "preload", *arguments, env=ENVIRONMENT)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("source", "flags", "why"),
    [
        (PROGRAM, ["-static"], "is linked statically"),
        (PROGRAM + GO, [], "is a Go program"),
        (PROGRAM, ["-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1"], "ld-musl-x86_64.so.1"),
    ],
    ids=["static", "go", "musl"],
)
def test_is_refused(build, source: str, flags: list[str], why: str) -> None:
    status, output, errors = preload("--", build(source, *flags))
    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert why in errors and "--force" in errors


@pytest.mark.parametrize(("source", "flags"), [(PROGRAM, ["-static"]), (PROGRAM + GO, [])])
def test_is_started_by_force(build, source: str, flags: list[str]) -> None:
    program = build(source, *flags)
    status, output, errors = preload("--force", "--", program)
    assert (status, output) == (0, "ran\n")
    assert errors.count("\n") == 1 and program in errors


def test_nothing_against_programs_in_c(build) -> None:
    assert preload("--", build(PROGRAM)) == (0, "ran\n", "")


def test_few_descriptors() -> None:
    """The one that keeps an embedded instance up is among those that the limit leaves."""
    start = 'ulimit -n 64 && exec "$0" "$@"'
    done = completed("sh", "-c", start, FFLOOP, "preload", "--", "echo", "ran", env=ENVIRONMENT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")


def test_a_program_that_would_change_its_user(build) -> None:
    """Of one that is its user's already (exim, started by root) the linker preloads."""
    program = build(PROGRAM)
    os.chmod(program, 0o6755)
    assert preload("--", program) == (0, "ran\n", "")
    if os.geteuid() == 0:
        os.chown(program, 54321, 54321)
        os.chmod(program, 0o4755)
        status, output, errors = preload("--", program)
        assert (status, output) == (1, "") and "changes its user" in errors
