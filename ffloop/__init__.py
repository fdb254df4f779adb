"""asyncio on a user-space TCP stack.

`ffloop.run(main())` runs a coroutine; `ffloop.new_event_loop` is a loop factory for
`asyncio.Runner`, uvicorn, anyio and pytest-asyncio; `ffloop.install()` sets the policy.
"""

import asyncio as _asyncio
from collections.abc import Coroutine as _Coroutine
from typing import TYPE_CHECKING
from typing import Any as _Any
from typing import TypeVar as _TypeVar

from ._loop.loop import Loop, new_event_loop
from ._net.sockets import StackSocket as socket
from ._session.discovery import InstanceInfo
from .errors import (
    ConfigError,
    InstanceDenied,
    InstanceError,
    InstanceGone,
    InstanceNotFound,
    InstanceRefused,
    InstanceUnsafe,
    ProtocolError,
    StackUnavailable,
    VersionMismatch,
)
from .kqueue import *  # noqa: F403  # Kqueue, kevent and the KQ_ constants
from .kqueue import __all__ as _kqueue_names
from .selectors import FFSelector

if TYPE_CHECKING:
    from ._loop.policy import FFLoopPolicy, install

    __version__: str

__all__ = [
    "ConfigError",
    "FFLoopPolicy",
    "FFSelector",
    "InstanceDenied",
    "InstanceError",
    "InstanceGone",
    "InstanceInfo",
    "InstanceNotFound",
    "InstanceRefused",
    "InstanceUnsafe",
    "Loop",
    "ProtocolError",
    "StackUnavailable",
    "VersionMismatch",
    "__version__",
    "install",
    "instance",
    "new_event_loop",
    "run",
    "socket",
]
__all__ += _kqueue_names

_T = _TypeVar("_T")


def run(main: _Coroutine[_Any, _Any, _T], *, debug: bool | None = None, **options: _Any) -> _T:
    """As asyncio.run, on a Loop made with `options` (see Loop)."""
    with _asyncio.Runner(debug=debug, loop_factory=lambda: Loop(**options)) as runner:
        return runner.run(main)


def instance() -> InstanceInfo:
    """The instance of the running loop. Raises RuntimeError where that is not an ffloop.Loop."""
    loop = _asyncio.get_running_loop()
    if not isinstance(loop, Loop):
        raise RuntimeError(f"the running loop is not an ffloop.Loop: {loop!r}")
    return loop.instance


def __getattr__(name: str) -> _Any:
    # Policies are deprecated from Python 3.14: nothing of them is touched until it is asked for.
    if name in ("FFLoopPolicy", "install"):
        from ._loop import policy

        return getattr(policy, name)
    if name == "__version__":
        from importlib.metadata import version

        return version("ffloop")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
