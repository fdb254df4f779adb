"""The compiled core: `ffi` and `lib` of ffloop._native._core, and where it is installed.

The modules of this package that stand on it are the only users: binding (sessions and sockets), and
those that ask the policy (ffloop/_native/policy), which is the shim's too: configuration, routing,
discovery.
"""

import importlib
import importlib.util
import os
import pathlib
from typing import Any

from ..errors import ConfigError


def _compiled() -> tuple[Any, Any]:
    # (_core, cffi's; _hot, the loop's): two modules in one file, which hold one copy of the client.
    try:
        core = importlib.import_module("ffloop._native._core")
    except ModuleNotFoundError as exc:
        where = pathlib.Path(__file__).parents[1]
        raise ModuleNotFoundError(
            f"{where} has no compiled part. If it is ffloop's source tree: start Python in another "
            "directory (the current one comes first on sys.path), or `pip install -e .`",
            name=exc.name,
        ) from None
    spec = importlib.util.spec_from_file_location("ffloop._native._hot", core.__file__)
    assert spec is not None and spec.loader is not None
    hot = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hot)
    return core, hot


_core, hot = _compiled()
ffi: Any = _core.ffi
lib: Any = _core.lib
NATIVE = pathlib.Path(_core.__file__).parent  # the executables and the shim, too

_WHY = 320  # room for the longest sentence


class Why:
    """Room for a sentence that the core writes, as the last two arguments of its calls."""

    def __init__(self) -> None:
        self.text = ffi.new("char[]", _WHY)
        self.room = (self.text, _WHY)

    def __str__(self) -> str:
        return str(ffi.string(self.text).decode(errors="replace"))


def c_text(text: str, source: str) -> Any:
    """A C string. Raises ConfigError for what would end within: `source` names it."""
    if "\0" in text:
        raise ConfigError(f"{source}={text!r}: a null character in it")
    return ffi.new("char[]", os.fsencode(text))


def text_of(pointer: Any) -> str:
    """A C string's text, "" for NULL."""
    return "" if pointer == ffi.NULL else ffi.string(pointer).decode(errors="surrogateescape")
