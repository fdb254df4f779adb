"""Shared fixtures: one loop of each kind, and watch over what a test leaves behind."""

import gc
import os
import pathlib
import signal
import ssl
import subprocess
import sys
import tracemalloc  # noqa: F401  pytest imports it for a warning: not amid another's import
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from building import Build, builder, tool
from common import ON_FSTACK, open_fds
from hypothesis import settings
from loop.runner import Runner

# A shell's background job ignores Ctrl-C, as would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time, so that a failure is the change's; .ci/run looks at others as well,
# and prints the seed: pytest --hypothesis-profile fresh --hypothesis-seed=SEED
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("fresh", derandomize=False, deadline=None, database=None, print_blob=True)
settings.load_profile("repeatable")

# ffloop's loops: in direct mode, and by ring to an instance of the test's own. What a test says of
# sessions and instances is of the ring only: mark it so (pytest.mark.ring).
WAYS = {"direct": "direct", "ring": "spawn"}  # FFLOOP_INSTANCE
LOOPS = ("asyncio", "uvloop", *WAYS)
FIXTURES = {"fstack": "on_fstack", "fstack-direct": "on_fstack_direct"}


def _run_with(request: pytest.FixtureRequest) -> Iterator[Runner]:
    if on_fstack := FIXTURES.get(request.param):
        request.getfixturevalue(on_fstack)
    elif way := WAYS.get(request.param):
        request.getfixturevalue("monkeypatch").setenv("FFLOOP_INSTANCE", way)
    runner = Runner(request.param)
    yield runner
    assert runner.errors == []


@pytest.fixture(params=LOOPS + ON_FSTACK)
def run(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """Each loop in turn."""
    yield from _run_with(request)


@pytest.fixture(params=("asyncio", *WAYS, *ON_FSTACK))
def run_std(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """asyncio and ffloop, where uvloop is known to differ from asyncio."""
    yield from _run_with(request)


@pytest.fixture(params=(*WAYS, *ON_FSTACK))
def run_ff(request: pytest.FixtureRequest) -> Iterator[Runner]:
    yield from _run_with(request)


@pytest.fixture
def run_direct(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """ffloop.run in direct mode."""
    import ffloop

    monkeypatch.setenv("FFLOOP_INSTANCE", "direct")
    return ffloop.run


def _net() -> Iterator[Any]:
    """fstack.net.Net, or a skip that says what is missing."""
    from fstack import net

    if reason := net.missing():
        pytest.skip(reason)
    made = net.Net()
    yield made
    made.close()


fstack_net = pytest.fixture(scope="session", name="fstack_net")(_net)
# For processes of a test that have F-Stack in themselves.
fstack_own_net = pytest.fixture(scope="module", name="fstack_own_net")(_net)


@pytest.fixture(scope="session")
def fstack(fstack_net: Any) -> Iterator[Any]:
    """A running fstack.net.Instance."""
    from fstack import net

    instance = net.Instance(fstack_net)
    yield instance
    instance.close()


@pytest.fixture(scope="session")
def fstack_direct() -> Iterator[Any]:
    """A fstack.net.Direct: F-Stack in this process, from now on."""
    for made in _net():
        from fstack import net

        yield net.Direct(made)


@pytest.fixture(params=(*WAYS, *ON_FSTACK[:1]))
def stack(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The stack that the loops of processes use which the test starts: each in turn."""
    if request.param == "fstack":
        request.getfixturevalue("on_fstack")
        return "fstack"
    monkeypatch.setenv("FFLOOP_INSTANCE", WAYS[request.param])
    return "host"


@pytest.fixture
def on_fstack(
    fstack: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[None]:
    """The test's loops use F-Stack; its kernel sockets are in the peer's namespace."""
    from fstack import net

    monkeypatch.setenv("FFLOOP_INSTANCE", fstack.path)
    monkeypatch.setenv("FFLOOP_STACK", "fstack")
    _with_addresses(monkeypatch, request.module)
    with net.within(fstack.net.peer):
        yield
    fstack.revive()


@pytest.fixture
def on_fstack_direct(
    fstack_direct: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[None]:
    """The same with the F-Stack of this process."""
    from fstack import net

    for name, value in net.DIRECT_ENVIRON.items():
        monkeypatch.setenv(name, value)
    _with_addresses(monkeypatch, request.module)
    with net.within(fstack_direct.net.peer):
        yield


def _with_addresses(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    from fstack import net
    from loop import util

    net.mirrored(monkeypatch)
    for name, value in net.ADDRESSES.items():
        for each in (util, module):
            if hasattr(each, name):
                monkeypatch.setattr(each, name, value)


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """build(sanitize, target): the folder that holds the built target of the native code."""
    return builder(tmp_path_factory.mktemp)


@pytest.fixture(scope="session")
def sim(build: Build) -> str:
    """The executable of an instance that has the sim (tests/sim), a stack of its own."""
    return str(build("", "ffloop-instance-sim") / "sim" / "ffloop-instance-sim")


@pytest.fixture(scope="session")
def window(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A library to preload: see common/window.c."""
    if (cc := tool("cc")) is None:
        pytest.skip("cc is not installed")
    out = tmp_path_factory.mktemp("window") / "window.so"
    source = pathlib.Path(__file__).parent / "common" / "window.c"
    flags = ["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([cc, *flags, source, "-o", out], check=True)
    return out


@pytest.fixture(scope="session")
def tls() -> Any:
    """(server context, client context) for localhost and the addresses that tests serve on."""
    trustme = pytest.importorskip("trustme")
    ca = trustme.CA()
    cert = ca.issue_cert("localhost", "127.0.0.1", "::1", "10.97.0.2", "fd97::2")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    cert.configure_cert(server)
    client = ssl.create_default_context()
    ca.configure_trust(client)
    return server, client


def _end_own_session() -> None:
    """Of sockets that a test made without a loop."""
    if ownership := sys.modules.get("ffloop._session.ownership"):
        ownership.end()


@pytest.fixture
def collected() -> Iterator[None]:
    """What the test leaves to the collector goes with it."""
    yield
    gc.collect()


@pytest.fixture
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """The test must leave no descriptor behind (uvloop keeps a pipe)."""
    if "uvloop" in request.node.name:
        yield
        return
    _end_own_session()
    gc.collect()
    before = open_fds()
    yield
    _end_own_session()
    gc.collect()
    after = open_fds()
    assert after <= before, sorted(after - before)


@pytest.fixture(autouse=True)
def _own_instance(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, request: pytest.FixtureRequest
) -> Iterator[None]:
    """Tests start their own instance: nothing of the user's is found."""
    for name in list(os.environ):
        if name.startswith("FFLOOP_") and not name.startswith("FFLOOP_TEST"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    if request.node.get_closest_marker("ring"):
        monkeypatch.setenv("FFLOOP_INSTANCE", "spawn")
    yield
    _end_own_session()


@pytest.fixture
def warned() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield seen


def _exceptions() -> dict[str, str]:
    """Tests that do not run on F-Stack or fail there, each with the reason."""
    lines = (pathlib.Path(__file__).parent / "fstack" / "exceptions.txt").read_text().splitlines()
    rows = [line for line in lines if line and not line.startswith("#")]
    return {row[: (end := row.index(": ", len("direct: ")))]: row[end + 2 :] for row in rows}


def _on_fstack(item: pytest.Item) -> str | None:
    """Whether its loops, or those of its processes, are F-Stack's: "fstack" or "fstack-direct"."""
    params = getattr(item, "callspec", None)
    found = (
        FIXTURES.keys() & {v for v in params.params.values() if isinstance(v, str)}
        if params
        else ()
    )
    return next(iter(found), None)


def _in_direct_mode(item: pytest.Item) -> bool:
    params = getattr(item, "callspec", None)
    return params is not None and "direct" in params.params.values()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [
        item
        for item in items
        if not _in_direct_mode(item)
        or not (item.get_closest_marker("ring") or "adopt" in item.callspec.params.values())  # type: ignore[attr-defined]
    ]
    exceptions = _exceptions()
    for item in items:
        folder = item.path.parent.name
        if "sim" in getattr(item, "fixturenames", ()):  # it waits for the compiler
            item.add_marker(pytest.mark.timeout(600))
        how = _on_fstack(item)
        if folder not in ("loop", "frameworks", "preload") or not how:
            continue
        module = f"{folder}/{item.path.name}"
        test, _, case = item.name.partition("[")
        if folder == "preload":
            test = f"{test}[{case}".replace("-fstack]", "]")
        name = f"{module}::{test}"
        for prefix in ("", "direct: ") if how == "fstack-direct" else ("",):
            if reason := exceptions.get(f"{prefix}{module}"):
                item.add_marker(pytest.mark.skip(reason=f"not on F-Stack: {reason}"))
            if reason := exceptions.get(f"{prefix}{name}"):
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
            if reason := exceptions.get(f"{prefix}{name} (not run)"):
                item.add_marker(pytest.mark.xfail(reason=reason, run=False))
