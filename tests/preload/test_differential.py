"""The same program natively and under the shim: the same results, errno and events.

The modules cases_*.py are scripts (see lib.py). Each runs twice, all its cases in one process; each
case is a test here. A case that ends the process is run alone, so that the others still count.
"""

import functools
import json
import sys
from pathlib import Path

import pytest
from common import ON_FSTACK
from common.processes import completed
from shim import Instance

HERE = Path(__file__).parent
MODULES = sorted(HERE.glob("cases_*.py"))
LIMIT = 400  # seconds for a module: see lib.LIMIT


def names(path: Path) -> list[str]:
    """The cases of a module, asked of itself."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(HERE)!r}); "
               f"import {path.stem}, lib; print('\\n'.join(lib.cases))"]  # fmt: skip
    done = completed(*command, check=True, timeout=LIMIT)
    return done.stdout.split()


def run(path: Path, environment: dict[str, str], *cases: str) -> dict[str, object]:
    done = completed(sys.executable, str(path), *cases, env=environment, timeout=LIMIT, cwd="/")
    seen: dict[str, object] = dict(json.loads(line) for line in done.stdout.splitlines())
    if done.returncode != 0:
        seen[""] = f"status {done.returncode}: {done.stderr[-500:]}"
    return seen


@pytest.fixture(scope="session")
def results(shim_environment: dict[str, str]):
    plain = {k: v for k, v in shim_environment.items() if k != "LD_PRELOAD"}

    @functools.cache
    def of(path: Path, shim: bool, *left_out: str, **more: str) -> dict[str, object]:
        environment = {**(shim_environment if shim else plain), **more}
        todo, all_seen = [n for n in names(path) if n not in left_out], {}
        while todo:
            seen = run(path, environment, *todo)
            all_seen.update(seen)
            done = [n for n in todo if n in seen]
            if len(done) == len(todo):
                break
            all_seen[todo[len(done)]] = seen.get("", "no result")  # the one that ended it
            todo = todo[len(done) + 1 :]
        return all_seen

    return of


CASES = [pytest.param(p, n, id=f"{p.stem[6:]}-{n}") for p in MODULES for n in names(p)]


@pytest.mark.timeout(2 * LIMIT)
@pytest.mark.parametrize(("path", "name"), CASES)
def test_same(results, path: Path, name: str) -> None:
    native, shimmed = results(path, False)[name], results(path, True)[name]
    assert not str(native).startswith(("status", "no result")), native
    assert shimmed == native


@pytest.mark.parametrize("instance", ["fstack"], indirect=True)
@pytest.mark.parametrize(("path", "name"), CASES if ON_FSTACK else [])
def test_same_on_fstack(results, at_loopback: Instance, path: Path, name: str) -> None:
    """Each in a process of its own."""
    seen = run(path, at_loopback.environment(), name)
    assert seen.get(name, seen.get("")) == results(path, False)[name]


FORKED = HERE / "cases_forked.py"
SHARED = ("the_parent_waits_meanwhile", "the_parent_connects_and_the_child_reads")


@pytest.mark.timeout(2 * LIMIT)
@pytest.mark.parametrize("name", sorted({*names(FORKED)} - {*SHARED}))
def test_same_with_a_session_per_thread(results, name: str) -> None:
    """All but those whose threads share an epoll, or whose processes an early socket."""
    shimmed = results(FORKED, True, *SHARED, FF_THREAD_SOCKET="1")
    assert shimmed[name] == results(FORKED, False)[name]


def test_enough_cases() -> None:
    """docs/preload.md says so."""
    assert sum(len(names(p)) for p in MODULES) > 400
