"""Shared fixtures: one loop of each kind, and watch over what a test leaves behind."""

import asyncio
import gc
import os
import ssl
import warnings
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

LOOPS = ("asyncio", "uvloop", "ffloop")


def loop_factory(name: str) -> Callable[..., asyncio.AbstractEventLoop]:
    if name == "ffloop":
        import ffloop

        return ffloop.new_event_loop
    if name == "uvloop":
        return pytest.importorskip("uvloop").new_event_loop
    return asyncio.SelectorEventLoop


class Runner:
    """Runs one coroutine on the loop under test, as asyncio.run would; errors that the loop's
    exception handler sees fail the test unless `errors` is emptied."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.factory = loop_factory(name)
        self.errors: list[dict[str, Any]] = []

    def __call__(
        self, main: Coroutine[Any, Any, Any], *, debug: bool = False, **options: Any
    ) -> Any:
        factory = (lambda: self.factory(**options)) if options else self.factory
        with asyncio.Runner(loop_factory=factory, debug=debug) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: self.errors.append(context))
            return runner.run(main)


def _run_with(name: str) -> Iterator[Runner]:
    runner = Runner(name)
    yield runner
    assert runner.errors == []


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """Each loop in turn."""
    yield from _run_with(request.param)


@pytest.fixture(params=("asyncio", "ffloop"))
def run_std(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """asyncio and ffloop, where uvloop is known to differ from asyncio."""
    yield from _run_with(request.param)


@pytest.fixture
def run_ff() -> Iterator[Runner]:
    yield from _run_with("ffloop")


@pytest.fixture(scope="session")
def tls() -> Any:
    """(server context, client context, CA) for localhost, 127.0.0.1 and ::1."""
    trustme = pytest.importorskip("trustme")
    ca = trustme.CA()
    cert = ca.issue_cert("localhost", "127.0.0.1", "::1")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    cert.configure_cert(server)
    client = ssl.create_default_context()
    ca.configure_trust(client)
    return server, client


def open_fds() -> set[str]:
    """The descriptors of this process, by number and target."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{fd}->{os.readlink(f'/proc/self/fd/{fd}')}")
        except FileNotFoundError:
            pass
    return found


@pytest.fixture
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """The test must leave no descriptor behind (uvloop keeps a pipe)."""
    if "uvloop" in request.node.name:
        yield
        return
    gc.collect()
    before = open_fds()
    yield
    gc.collect()
    after = open_fds()
    assert after <= before, sorted(after - before)


@pytest.fixture(autouse=True)
def _own_instance(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Tests start their own instance: nothing of the user's is found."""
    for name in list(os.environ):
        if name.startswith("FFLOOP_") and not name.startswith("FFLOOP_TEST"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def warned() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield seen


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/loop/" in item.nodeid:
            item.add_marker(pytest.mark.timeout(30))
