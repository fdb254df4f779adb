"""Which instance a loop uses, or none: then it is in direct mode, with the kernel's own sockets.

The order: what is named (argument or FFLOOP_INSTANCE: a path, "spawn" for a child process with the
host stack, "direct"); else an instance running at its usual place; else direct mode.
"""

import errno
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from .configuration import Config
from .native import c_text, ffi, lib, text_of

DIRECT, SPAWN = "direct", "spawn"
_loops = itertools.count()  # of this process


@dataclass(frozen=True, slots=True)
class InstanceInfo:
    """An instance as a loop sees it. In direct mode it is the process itself, without a path."""

    path: str
    stack: str
    pid: int
    embedded: bool
    direct: bool = False


def is_direct(config: Config) -> bool:
    """Whether a loop has no instance: none is named, and nothing is at the usual places."""
    if config.instance is not None:
        return config.instance == DIRECT and config.stack in (None, "host")
    return may_be_direct(config) and not any(map(os.path.lexists, places(None, 0)))


def may_be_direct(config: Config) -> bool:
    """Whether a loop is in direct mode if no instance runs."""
    return config.instance is None and config.stack in (None, "host") and config.instances == 1


def nth(path: str, index: int) -> str:
    """The socket of the index-th of several instances: instance.sock, instance-1.sock, ..."""
    out, size = _room(len(path))
    if lib.ffl_choice_nth(c_text(path, "instance"), index, out, size) < 0:
        raise ConfigError(f"instance={path!r}: too long")
    return text_of(out)


def places(named: str | None, index: int) -> Iterator[str]:
    """Where to look for instance number `index`: the place named, else the usual ones."""
    c_named = ffi.NULL if named is None else c_text(named, "instance")
    out, size = _room(len(named or ""))
    for i in itertools.count():
        rc = lib.ffl_choice_place(c_named, i, index, out, size)
        if rc == -errno.ENOENT:
            return
        if rc < 0:
            raise ConfigError("the path of the instance's socket is too long")
        yield text_of(out)


def _room(size: int) -> tuple[Any, int]:
    size = 4 * size + 256  # a character may be four bytes
    return ffi.new("char[]", size), size


def next_index(config: Config) -> int:
    """The index, of `config.instances`, of the instance for this process's next loop."""
    return int(lib.ffl_choice_index(config.proc_id, next(_loops), config.instances))
