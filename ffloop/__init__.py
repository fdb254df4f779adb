"""asyncio on a user-space TCP stack.

`ffloop.run(main())` runs a coroutine; `ffloop.new_event_loop` is a loop factory for
`asyncio.Runner`, uvicorn, anyio and pytest-asyncio; `ffloop.install()` sets the policy, where
Python has policies.

A loop's TCP and UDP are on the kernel, in its own thread (direct mode), unless an instance runs or
is named; `LoopOptions` has the options, `loop.instance` says which it is. The commands: `ffloop
--help`, ffloop(1).
"""

import importlib as _importlib
from typing import TYPE_CHECKING

from ._version import __version__

if TYPE_CHECKING:
    from . import errors as errors
    from . import kqueue as kqueue
    from . import metrics as metrics
    from . import selectors as selectors
    from . import workers as workers
    from ._loop.loop import Loop, LoopLag, new_event_loop
    from ._loop.policy import FFLoopPolicy as FFLoopPolicy
    from ._loop.policy import install as install
    from ._loop.running import instance, run
    from ._net.sockets import StackSocket as socket
    from ._session.choice import InstanceInfo
    from ._session.options import LoopOptions
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
    from .kqueue import *  # noqa: F403  # the KQ_ constants, here too
    from .kqueue import Kqueue, kevent
    from .selectors import FFSelector

# Without FFLoopPolicy and install: policies are deprecated from Python 3.14 and go in 3.16.
__all__ = [
    "ConfigError",
    "FFSelector",
    "InstanceDenied",
    "InstanceError",
    "InstanceGone",
    "InstanceInfo",
    "InstanceNotFound",
    "InstanceRefused",
    "InstanceUnsafe",
    "Kqueue",
    "Loop",
    "LoopLag",
    "LoopOptions",
    "ProtocolError",
    "StackUnavailable",
    "VersionMismatch",
    "__version__",
    "instance",
    "kevent",
    "new_event_loop",
    "run",
    "socket",
]

# The modules of the names that are loaded on first use, so that the command line, and a program
# that needs an exception only, do not pay for asyncio and the compiled core. (Exceptions: below.)
_PLACES = {
    "FFLoopPolicy": "._loop.policy",
    "FFSelector": ".selectors",
    "InstanceInfo": "._session.choice",
    "Kqueue": ".kqueue",
    "Loop": "._loop.loop",
    "LoopLag": "._loop.loop",
    "LoopOptions": "._session.options",
    "install": "._loop.policy",
    "instance": "._loop.running",
    "kevent": ".kqueue",
    "new_event_loop": "._loop.loop",
    "run": "._loop.running",
}
_MODULES = ("errors", "kqueue", "metrics", "selectors", "workers")

if not TYPE_CHECKING:  # a misspelt name is an error for mypy

    def __getattr__(name):
        if name in _MODULES:
            return _importlib.import_module(f".{name}", __name__)
        if name == "socket":
            found = _importlib.import_module("._net.sockets", __name__).StackSocket
        elif place := _PLACES.get(name):
            found = getattr(_importlib.import_module(place, __name__), name)
        elif name.startswith("KQ_"):
            found = getattr(_importlib.import_module(".kqueue", __name__), name)
        elif name in __all__:
            found = getattr(_importlib.import_module(".errors", __name__), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found

    def __dir__():
        return sorted({*globals(), *__all__, *_PLACES, *_MODULES})
