"""Finding the instance, or starting one.

The order: an explicit path (argument or FFLOOP_INSTANCE); else an instance running at its usual
place; else an embedded one: a child process with the host stack, private to this process tree,
which ends itself when its last session has ended. A log line says which.
"""

import contextlib
import errno
import fcntl
import itertools
import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, InstanceError, InstanceNotFound, StackUnavailable
from .binding import NATIVE, Ring
from .configuration import Config, environment
from .log import log

_ENV = "_FFLOOP_EMBEDDED"  # the process tree's embedded instance, for children
_LOG_ENV = "FFLOOP_INSTANCE_LOG"  # a file for an embedded instance's log...
_LEVEL_ENV = "FFLOOP_INSTANCE_LOG_LEVEL"  # ...and how much of it: one of LOG_LEVELS
LOG_LEVELS = ("error", "warning", "info", "debug")
_starting = threading.Lock()
_loops = itertools.count()  # of this process


@dataclass(frozen=True, slots=True)
class InstanceInfo:
    """An instance as a loop sees it."""

    path: str
    stack: str
    pid: int
    embedded: bool


def executable() -> str:
    """The path of ffloop-instance inside the package. Raises InstanceNotFound."""
    given = environment().get("FFLOOP_INSTANCE_EXECUTABLE")
    place = Path(given) if given else NATIVE / "ffloop-instance"
    if os.access(place, os.X_OK):
        return str(place)
    raise InstanceNotFound(
        2, f"ffloop-instance is missing at {place}: reinstall ffloop with `pip install`"
    )


def nth(path: str, index: int) -> str:
    """The socket of the index-th of several instances: instance.sock, instance-1.sock, ..."""
    if not index:
        return path
    stem, dot, suffix = path.rpartition(".")
    if not dot or "/" in suffix:
        return f"{path}-{index}"
    return f"{stem}-{index}.{suffix}"


def usual_places() -> list[str]:
    """Where an instance that somebody started listens unless told otherwise."""
    places = []
    runtime = environment().get("XDG_RUNTIME_DIR")
    if runtime:
        places.append(os.path.join(runtime, "ffloop", "instance.sock"))
    places.append("/run/ffloop/instance.sock")
    return places


def running(config: Config) -> int:
    """How many instances there seem to be for the workers of `config`: their sockets in a row, at
    the path given or the usual one."""
    places = [config.instance] if config.instance is not None else usual_places()
    return max(_in_a_row(place) for place in places)


def _in_a_row(path: str) -> int:
    count = 0
    while os.path.exists(nth(path, count)):
        count += 1
    return count


def next_index(config: Config) -> int:
    """Which of `config.instances` instances this process's next loop belongs to."""
    return (config.proc_id + next(_loops)) % config.instances


def attach(
    config: Config, index: int = 0, timeout_ms: int | None = None, make: type[Ring] = Ring
) -> tuple[Ring, bool]:
    """A session with the instance that `config` and the environment lead to, the index-th of
    several, and whether it is embedded. Raises an InstanceError that says what to do."""
    if config.instance is not None:
        return _checked(make(nth(config.instance, index), config, timeout_ms), config), False
    for place in usual_places():
        path = nth(place, index)
        if not os.path.exists(path):
            continue
        try:
            ring = make(path, config, timeout_ms)
        except InstanceNotFound as exc:
            log.warning("skipping %s: %s", path, exc)
            continue
        return _checked(ring, config), False
    if config.stack == "fstack":
        raise StackUnavailable(
            2,
            "stack='fstack' was asked for and no instance runs: start one with "
            "`ffloop instance --stack fstack`, or name its socket in FFLOOP_INSTANCE",
        )
    if config.instances > 1:
        raise InstanceNotFound(
            2,
            f"FF_NB_FSTACK_INSTANCE={config.instances}, and instance {index} does not run: start "
            f"it with `ffloop instance --proc-id {index}`, or name the first in FFLOOP_INSTANCE",
        )
    return _checked(_embedded(config, timeout_ms, make), config), True


def _checked(ring: Ring, config: Config) -> Ring:
    if config.stack is not None and ring.stack != config.stack:
        path, stack = ring.path, ring.stack
        ring.close()
        raise StackUnavailable(
            2, f"stack={config.stack!r} was asked for; the instance at {path!r} runs {stack!r}"
        )
    return ring


def _embedded(config: Config, timeout_ms: int | None, make: type[Ring]) -> Ring:
    with _starting:
        path = environment().get(_ENV)
        if path:
            with contextlib.suppress(InstanceError):
                return make(path, config, timeout_ms)
        path = start(config.stack or "host")
        embed(path)
        return make(path, config, timeout_ms)


def embed(path: str) -> None:
    """Makes the embedded instance at `path` this process tree's."""
    environment()[_ENV] = path


def start(stack: str) -> str:
    """Starts an embedded instance; returns its address. The instance detaches itself at once.

    Raises InstanceNotFound with its own words when it does not start, ConfigError.
    """
    level = environment().get(_LEVEL_ENV) or "warning"
    if level not in LOG_LEVELS:
        raise ConfigError(f"{_LEVEL_ENV}={level!r}: expected one of {', '.join(LOG_LEVELS)}")
    name = f"ffloop-{os.getuid()}-{os.getpid()}-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind("\0" + name)
        listener.listen(64)
        with _above_standard(listener) as fd, _log_file() as output:
            command = [executable(), "--stack", stack, "--embedded", "--listen-fd", str(fd)]
            command += ["--log-level", level]
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
                pass_fds=(fd,),
                check=False,
            )
            if done.returncode != 0:
                raise InstanceNotFound(
                    2, f"the embedded instance did not start: {_tail(output)} ({command[0]})"
                )
    return "@" + name


@contextlib.contextmanager
def _above_standard(sock: socket.socket) -> Iterator[int]:
    # A daemon may have closed 0, 1 and 2, which are the child's own to replace.
    fd = fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, 3)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _log_file() -> Iterator[int]:
    # Never the application's own standard error: whoever reads it to its end would wait for the
    # instance. An unnamed file keeps the words of a failed start.
    path = environment().get(_LOG_ENV)
    fd = _opened(path) if path else os.memfd_create("ffloop-instance-log")
    try:
        yield fd
    finally:
        os.close(fd)


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        if exc.errno == errno.EMFILE:
            raise
        raise ConfigError(f"{_LOG_ENV}={path!r}: {exc.strerror}") from None


def _tail(fd: int) -> str:
    with contextlib.suppress(OSError):
        size = os.fstat(fd).st_size
        return os.pread(fd, 500, max(0, size - 500)).decode(errors="replace").strip() or "no reason"
    return "see its log"
