"""The compiled half of the loop (ffloop/_native/hot), which needs neither cffi nor the client.

`_hot` and `_core` are two modules in one file, which hold one copy of the client.
"""

import importlib.machinery
import importlib.util
import pathlib
from typing import TYPE_CHECKING, Any

NATIVE = pathlib.Path(__file__).parents[1] / "_native"  # the executables and the shim, too


def _file() -> str:
    for found in NATIVE.glob("_core.*"):
        if found.name.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)):
            return str(found)
    where = NATIVE.parent
    raise ModuleNotFoundError(
        f"{where} has no compiled part. If it is ffloop's source tree: start Python in another "
        "directory (the current one comes first on sys.path), or `pip install -e .`",
        name="ffloop._native._core",
    )


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("ffloop._native._hot", _file())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from .._native._hot import Acceptor as Acceptor
    from .._native._hot import Datagrams as Datagrams
    from .._native._hot import Dispatcher as Dispatcher
    from .._native._hot import Handle as Handle
    from .._native._hot import PipeReader as PipeReader
    from .._native._hot import PipeWriter as PipeWriter
    from .._native._hot import Scheduler as Scheduler
    from .._native._hot import Stream as Stream
    from .._native._hot import Tls as Tls
    from .._native._hot import Watchers as Watchers
else:
    _hot = _load()
    Acceptor = _hot.Acceptor  # of a listening descriptor, in direct mode
    Stream = _hot.Stream  # the base class of stream transports
    Tls = _hot.Tls  # what stands before asyncio's SSLProtocol
    Dispatcher = _hot.Dispatcher  # waits for a batch and hands it out
    Scheduler = _hot.Scheduler  # the loop's call_soon, timers and _run_once
    Watchers = _hot.Watchers  # the base class of its selector
    Handle = _hot.Handle
    PipeReader = _hot.PipeReader  # in front of asyncio's transports of pipes
    PipeWriter = _hot.PipeWriter
    Datagrams = _hot.Datagrams  # and of kernel datagram sockets
