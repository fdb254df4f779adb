"""F-Stack in the application's own thread: it is loaded, started and given a Client.

F-Stack begins once in a process, belongs to the thread that began it, and stays until the process
ends; it works while that thread runs a loop. Its options are those of `ffloop instance`.
"""

import errno
import os
import shlex
from collections.abc import Iterator
from typing import Any

from ..errors import ConfigError, StackUnavailable
from .binding import Client
from .choice import DIRECT
from .configuration import Config
from .native import NATIVE, Why, ffi, lib


def asked(config: Config) -> bool:
    """Whether `config` asks for F-Stack in this process."""
    return config.instance == DIRECT and config.stack == "fstack"


def attach(config: Config) -> Client:
    """Starts F-Stack in this thread, or takes the one that runs here. Raises StackUnavailable,
    which says what to do, and ConfigError for wrong options."""
    path = f"@ffloop-direct-{os.getpid()}"
    instance = _started(config, path)
    try:
        return Client(path, config, instance)
    except BaseException:
        lib.ffl_direct_stop(instance)
        raise


def _words(config: Config) -> Iterator[str]:
    """`--key value` and `--key=value` as the stack's "key=value"."""
    given = iter(shlex.split(config.fstack or ""))
    for word in given:
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            raise ConfigError(f"fstack={config.fstack!r}: expected --OPTION VALUE, not {word!r}")
        yield f"{key}={value if equals else next(given, '')}"


def words(config: Config) -> list[str]:
    """The stack's options. Worker FF_PROC_ID is F-Stack's process of that number: 0 the primary."""
    found = list(_words(config))
    keys = {word.partition("=")[0] for word in found}
    if config.proc_id and "proc-id" not in keys:
        found.append(f"proc-id={config.proc_id}")
        if "proc-type" not in keys:
            found.append("proc-type=secondary")
    return found


def _started(config: Config, path: str) -> Any:
    held = [ffi.new("char[]", os.fsencode(word)) for word in words(config)]
    argv = ffi.new("char *[]", [*held, ffi.NULL])
    out, why = ffi.new("struct ffl_direct **"), Why()
    cpus, before = os.sched_getaffinity(0), set(os.listdir("/proc/self/fd"))
    rc = lib.ffl_direct_start(
        out, os.fsencode(NATIVE), len(held), argv, os.fsencode(path), *why.room
    )
    # DPDK binds the thread to one CPU, which every thread and process made here would share with
    # a stack that polls; and leaves its descriptors to them.
    os.sched_setaffinity(0, cpus)
    for fd in set(os.listdir("/proc/self/fd")) - before:
        _close_on_exec(int(fd))
    if rc == -errno.EINVAL:
        raise ConfigError(str(why))
    if rc < 0:
        raise StackUnavailable(-rc, str(why) or os.strerror(-rc))
    return out[0]


def _close_on_exec(fd: int) -> None:
    try:
        os.set_inheritable(fd, False)
    except OSError as exc:  # that of the listing itself
        if exc.errno != errno.EBADF:
            raise
