"""CPython's own tests of sockets, epoll and asyncio under the shim: what passes natively passes.

Of the interpreter that runs this (Debian: libpython3.N-testsuite). A module runs in one process,
several modules at a time; what fails or is skipped there is run natively as well, and only what
that does not explain counts. tests/conformance/exceptions.txt has a line with its reason ("shim
VERSIONS TEST ...") for each test that is known to differ; one that passes in spite of it fails,
but where the reason begins with "sometimes".
"""

import concurrent.futures
import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from common.processes import completed
from shim import Instance

HERE = Path(__file__).parent
FULL = os.environ.get("FFLOOP_SCALE") == "full"
MODULES = ["test_socket", "test_select", "test_epoll", "test_poll", "test_selectors"]
# Those with sockets, pipes or processes in them; all of test_asyncio at full scale.
ASYNCIO = ["test_events", "test_sock_lowlevel", "test_server", "test_streams", "test_ssl"]
ASYNCIO += ["test_sslproto", "test_buffered_proto", "test_sendfile", "test_subprocess"]
PARALLEL = 4  # they mostly wait
LIMIT = 900  # seconds a module


@functools.cache
def conformance():
    """The harness of tests/conformance: results, verdicts, exceptions."""
    path = HERE.parent / "conformance" / "run.py"
    spec = importlib.util.spec_from_file_location("ffloop_conformance_run", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def modules() -> list[str]:
    names = [f"test_asyncio.{name}" for name in ASYNCIO]
    if FULL and (spec := importlib.util.find_spec("test.test_asyncio")) and spec.origin:
        names = [
            f"test_asyncio.{p.stem}" for p in sorted(Path(spec.origin).parent.glob("test_*.py"))
        ]
    return MODULES + names


def absent(module: str) -> str | None:
    try:
        found = importlib.util.find_spec(f"test.{module}")
    except ImportError:
        found = None
    return None if found else f"test.{module} is not there (Debian: libpython3.N-testsuite)"


def run(module: str, environment: dict[str, str], only: list[str] | None = None):
    """Test -> (outcome, why); again from behind a test that ended the process."""
    seen: dict[str, tuple[str, str]] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        out = Path(folder, "out")
        while True:
            todo = ["but", *seen] if only is None else ["only", *(n for n in only if n not in seen)]
            command = [sys.executable, str(HERE / "cpython.py"), module, str(out), *todo]
            done = completed(
                *command,
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                errors="replace",
                timeout=LIMIT,
            )
            began = None
            for line in out.read_text().splitlines() if out.exists() else []:
                name, outcome, *why = json.loads(line)
                began = name if outcome == "began" else None
                seen[name] = (outcome, "".join(why))
            if began is None:
                assert done.returncode == 0, done.stderr[-2000:]
                return seen
            seen[began] = ("crashed", f"status {done.returncode}\n{done.stderr[-4000:]}")


@pytest.fixture(scope="session")
def started(shared_instance: Instance, request: pytest.FixtureRequest):
    """The chosen modules, under way; result() of each gives what run() does."""
    chosen = {i.callspec.params["module"] for i in request.session.items if hasattr(i, "callspec")
              and i.path == Path(__file__)}  # fmt: skip
    pool = concurrent.futures.ThreadPoolExecutor(PARALLEL)
    environment = shared_instance.environment()
    yield {m: pool.submit(run, m, environment) for m in modules() if m in chosen and not absent(m)}
    pool.shutdown(cancel_futures=True)


@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize("module", modules())
def test_module(started, shared_instance: Instance, module: str) -> None:
    if reason := absent(module):
        pytest.skip(reason)
    harness = conformance()
    results = started[module].result()
    expected = harness.exceptions("shim", sys.version.split()[0])
    other = [name for name, (outcome, _) in results.items() if outcome != "passed"]
    environment = shared_instance.environment()
    del environment["LD_PRELOAD"]
    native = run(module, environment, other) if other else {}
    wrong = []
    for name, (outcome, why) in results.items():
        if name in native and native[name][0] != "passed":
            continue  # natively as well: skipped there, or failed
        if outcome == "passed" and expected.get(name, "").startswith("sometimes"):
            continue
        if outcome == "skipped":
            outcome = "failed"  # a test that the shim hides
        result = harness.Result(harness.Test(*name.rsplit(".", 2)), outcome, why)
        problem = harness.verdict(result, expected)
        if problem:
            wrong.append(f"{name}: {problem}")
    assert results
    assert not wrong, "\n".join(wrong)
