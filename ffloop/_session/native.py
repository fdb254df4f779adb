"""The compiled core: `ffi` and `lib` of ffloop._native._core, and where it is installed.

Its users are in this package: binding (sessions and sockets), and configuration, routing, carrying
and discovery, which ask the policy (ffloop/_native/policy), as the shim does.
"""

import importlib
import os
from typing import Any

from ..errors import ConfigError
from .hot import NATIVE as NATIVE

_core = importlib.import_module("ffloop._native._core")
ffi: Any = _core.ffi
lib: Any = _core.lib

_WHY = 320  # room for the longest sentence


class Why:
    """Room for a sentence that the core writes, as the last two arguments of its calls."""

    def __init__(self) -> None:
        self.text = ffi.new("char[]", _WHY)
        self.room = (self.text, _WHY)

    def __str__(self) -> str:
        return str(ffi.string(self.text).decode(errors="replace"))


def c_text(text: str, source: str) -> Any:
    """A C string. Raises ConfigError, which names `source`, for text with a NUL."""
    if "\0" in text:
        raise ConfigError(f"{source}={text!r}: a null character in it")
    return ffi.new("char[]", os.fsencode(text))


def text_of(pointer: Any) -> str:
    """A C string's text, "" for NULL."""
    return "" if pointer == ffi.NULL else ffi.string(pointer).decode(errors="surrogateescape")
