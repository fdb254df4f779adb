"""`ffloop.run` and `ffloop.instance`: the running loop."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar, Unpack

from .._session.choice import InstanceInfo
from .._session.options import LoopOptions
from .loop import Loop

_T = TypeVar("_T")


def run(
    main: Coroutine[Any, Any, _T], *, debug: bool | None = None, **options: Unpack[LoopOptions]
) -> _T:
    """As asyncio.run, on a Loop made with `options` (see Loop): the result of `main`. Raises what
    `main` raises, InstanceError where the instance cannot be reached, ConfigError for a wrong
    option."""
    with asyncio.Runner(debug=debug, loop_factory=lambda: Loop(**options)) as runner:
        return runner.run(main)


def instance() -> InstanceInfo:
    """The instance of the running loop. Raises RuntimeError where that is not an ffloop.Loop."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, Loop):
        raise RuntimeError(f"the running loop is not an ffloop.Loop: {loop!r}")
    return loop.instance
