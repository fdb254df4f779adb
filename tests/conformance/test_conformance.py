"""CPython's functional tests of asyncio on ffloop, a pytest case each. See run.py."""

from __future__ import annotations

import functools
import importlib.util
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
from common import ON_FSTACK


def _load(name: str) -> ModuleType:
    # By path: this folder is not put on sys.path, where its short names could shadow others.
    path = pathlib.Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"ffloop_conformance_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


run = _load("run")
LOOPS = ("direct", "ffloop", *ON_FSTACK)  # in direct mode, and by ring


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "shipped" not in metafunc.fixturenames:
        return
    shipped = run.suite()
    cases = [pytest.param(test, id=str(test)) for test in shipped.tests]
    cases += [
        pytest.param(None, id=module, marks=pytest.mark.skip(f"not in this interpreter: {why}"))
        for module, why in shipped.missing.items()
    ]
    metafunc.parametrize("loop", LOOPS)
    metafunc.parametrize("shipped", cases)


@pytest.fixture
def at_home(
    loop: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """On F-Stack the tests' processes run in its namespace. Their addresses are loopback's, which
    stay on the kernel: it shows the loop beside F-Stack, not F-Stack."""
    if loop not in ON_FSTACK:
        yield
        return
    from fstack import net

    if loop == "fstack":
        instance = request.getfixturevalue("fstack")
        instance.revive()
        here, environ = instance.net, {"FFLOOP_INSTANCE": instance.path, "FFLOOP_STACK": "fstack"}
    else:
        here, environ = request.getfixturevalue("fstack_own_net"), net.DIRECT_ENVIRON
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with net.within(here.stack):
        net.run("ip", "link", "set", "lo", "up")
        yield


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("loop", LOOPS)
def test_the_loop_can_be_made(loop: str) -> None:
    assert not run.probe(loop)


@functools.cache
def results(loop: str, module: str) -> dict[object, object]:
    """A whole module at once: its first case pays, the others look up."""
    tests = [test for test in run.suite().tests if test.module == module]
    parallel = 1 if loop == "fstack-direct" else 2  # F-Stack has one process at its interface
    return {result.test: result for result in run.run_all(loop, tests, parallel=parallel)}


@functools.cache
def expected(loop: str) -> dict[str, str]:
    found: dict[str, str] = run.exceptions(loop, run.suite().version)
    return found


@pytest.mark.usefixtures("at_home")
@pytest.mark.timeout(1200)
def test_functional(loop: str, shipped: object) -> None:
    result = results(loop, shipped.module)[shipped]  # type: ignore[attr-defined]
    problem = run.verdict(result, expected(loop))
    if problem is not None:
        pytest.fail(problem, pytrace=False)
    if result.outcome == "skipped":  # type: ignore[attr-defined]
        pytest.skip(result.why)  # type: ignore[attr-defined]
    if result.bad:  # type: ignore[attr-defined]
        pytest.xfail(expected(loop)[str(shipped)])


@pytest.mark.parametrize("loop", LOOPS)
def test_every_exception_names_a_test(loop: str) -> None:
    names = {str(test) for test in run.suite().tests}
    unknown = set(expected(loop)) - names
    assert not unknown, f"exceptions.txt names tests that this interpreter does not have: {unknown}"


def test_verdicts() -> None:
    """The harness itself: what must fail does."""
    test = run.Test("m", "C", "t")
    good, bad = run.Result(test, "passed"), run.Result(test, "failed", "why")
    assert run.verdict(good, {}) is None
    assert run.verdict(bad, {"m.C.t": "reason"}) is None
    assert "remove its line" in run.verdict(good, {"m.C.t": "reason"})
    assert "unexpected" in run.verdict(bad, {})
    assert "unexpected" in run.verdict(run.Result(test, "timeout"), {})
    lines = ["# comment", "", "ffloop 3.12,3.13 m.C.t a reason", "uvloop * m.C.u another"]
    assert run.exceptions("ffloop", "3.12.1", lines) == {"m.C.t": "a reason"}
    assert run.exceptions("ffloop", "3.1.2", lines) == {}
    assert run.exceptions("uvloop", "3.11.7", lines) == {"m.C.u": "another"}
    with pytest.raises(ValueError, match="no reason"):
        run.exceptions("ffloop", "3.12.1", ["ffloop * m.C.t"])


FOREIGN = """
import asyncio, json, sys
from asyncio.unix_events import _UnixSelectorEventLoop
sys.path.insert(0, sys.argv[1])
import loops

record = loops.substitute("asyncio")
made = [asyncio.SelectorEventLoop(), asyncio.new_event_loop()]
with asyncio.Runner() as runner:
    runner.run(asyncio.sleep(0))
seen = record.made, sum(record.foreign.values())
other = type("Other", (_UnixSelectorEventLoop,), {})()
other.run_until_complete(asyncio.sleep(0))
for loop in [*made, other]:
    loop.close()
print(json.dumps([*seen, sum(record.foreign.values())]))
"""


def test_a_loop_that_the_harness_did_not_make_is_noticed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN, str(pathlib.Path(__file__).parent)],
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stdout) == [3, 0, 1]
