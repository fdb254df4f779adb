"""One coroutine on one kind of loop."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest


def loop_factory(name: str) -> Callable[..., asyncio.AbstractEventLoop]:
    if name not in ("asyncio", "uvloop"):
        import ffloop

        return ffloop.new_event_loop
    if name == "uvloop":
        return pytest.importorskip("uvloop").new_event_loop
    return asyncio.SelectorEventLoop


class Runner:
    """Runs one coroutine on the loop under test, as asyncio.run would; errors that the loop's
    exception handler sees fail the test unless `errors` is emptied."""

    def __init__(self, name: str) -> None:
        self.factory = loop_factory(name)
        self.by_ring = name in ("ring", "fstack", "fstack-direct")
        self.name = "ffloop" if self.by_ring or name == "direct" else name
        self.errors: list[dict[str, Any]] = []

    def __call__(
        self, main: Coroutine[Any, Any, Any], *, debug: bool = False, **options: Any
    ) -> Any:
        factory = (lambda: self.factory(**options)) if options else self.factory
        with asyncio.Runner(loop_factory=factory, debug=debug) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: self.errors.append(context))
            return runner.run(main)
