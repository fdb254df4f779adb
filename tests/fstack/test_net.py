"""The network of these tests, and that what is skipped says why."""

import os
import socket
import subprocess
import sys

import pytest

from fstack import net


def test_skips_say_what_is_missing(monkeypatch):
    monkeypatch.delenv("FF_PATH", raising=False)
    assert net.missing() == "FF_PATH does not name a built F-Stack"


def excepted(folder):
    """What the lines of exceptions.txt name of a folder of tests: (module, test or "", reason)."""
    for row in (folder.parent / "fstack/exceptions.txt").read_text().splitlines():
        line = row.removeprefix("direct: ")
        if line.startswith(f"{folder.name}/"):
            name, _, reason = line.partition(": ")
            module, _, test = name.removesuffix(" (not run)").partition("::")
            yield module.partition("/")[2], test, reason


@pytest.mark.parametrize("folder", ["loop", "frameworks", "preload"])
def test_exceptions_name_tests(request, folder):
    """Each line of exceptions.txt is about a test that there is."""
    folder = request.path.parent.parent / folder
    for module, test, reason in excepted(folder):
        function, _, case = test.partition("[")
        program = case.partition("-")[0]
        assert f"def {function}" in (folder / module).read_text(), (module, test)
        assert not case or list(folder.glob(f"*{program}.*")), (module, test)
        assert len(reason) > 10, (module, test)


def test_each_framework_test_runs_on_fstack_or_says_why_not(request):
    folder = request.path.parent.parent / "frameworks"
    collect = [sys.executable, "-P", "-m", "pytest", "--collect-only", "-q", "-pno:cacheprovider"]
    done = subprocess.run(
        [*collect, folder], stdout=-1, text=True, env={**os.environ, "FF_PATH": "any"}
    )
    found = [line.partition("[") for line in done.stdout.splitlines() if "::" in line]
    assert len(found) > 50, done.stdout
    tests = {name.rpartition("/")[2] for name, _, _ in found}
    on_it = {name.rpartition("/")[2] for name, _, params in found if "fstack" in params}
    excused = {f"{module}::{test}" for module, test, _ in excepted(folder)}
    assert tests - on_it <= excused


def test_the_kernel_reaches_the_stack(fstack):
    """A kernel peer, and nobody listening: F-Stack answers with a reset."""
    with net.within(fstack.net.peer), socket.socket() as sock:
        sock.settimeout(10)
        with pytest.raises(ConnectionRefusedError):
            sock.connect((net.STACK, 9))
