"""Finding the instance, or starting one.

The order: an explicit path (argument or FFLOOP_INSTANCE); else an instance running at its usual
place; else an embedded one: a child process with the host stack, private to this process tree,
which ends itself when its last session has ended. A log line says which.
"""

import contextlib
import errno
import fcntl
import os
import resource
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigError, InstanceError, InstanceNotFound, StackUnavailable
from . import direct
from .binding import Client
from .choice import SPAWN, nth, places
from .configuration import Config, environment, value
from .log import log
from .native import NATIVE, Why, c_text, ffi, lib

_ENV = "_FFLOOP_EMBEDDED"  # the process tree's embedded instance, for children
_starting = threading.Lock()
_started: set[int] = set()  # embedded instances, by pid


def executable() -> str:
    """The path of ffloop-instance inside the package. Raises InstanceNotFound."""
    given = value("FFLOOP_INSTANCE_EXECUTABLE")
    place = Path(given) if given else NATIVE / "ffloop-instance"
    if os.access(place, os.X_OK):
        return str(place)
    raise InstanceNotFound(
        2, f"ffloop-instance is missing at {place}: reinstall ffloop with `pip install`"
    )


def unsafe(path: str) -> str:
    """Why an instance does not listen at `path` or attach does not trust it: another user could put
    a socket there. "" if it is safe."""
    why = Why()
    owner = ffi.new("uint32_t *") if os.path.lexists(path) else ffi.NULL
    return str(why) if lib.ffl_place_check(c_text(path, "instance"), owner, *why.room) < 0 else ""


def running(config: Config) -> int:
    """The number of instances for the workers of `config`: sockets that exist in sequence, at the
    path given or the usual one."""
    return max(_in_a_row(place) for place in places(config.instance, 0))


def _in_a_row(path: str) -> int:
    count = 0
    while os.path.exists(nth(path, count)):
        count += 1
    return count


def attach(config: Config, index: int = 0) -> Client:
    """Attaches to the instance that `config` and the environment lead to, the index-th of several,
    or to an embedded one. Waits. Raises an InstanceError that says what to do."""
    if direct.asked(config):
        return direct.attach(config)
    client = attach_running(config, index)
    if client is not None:
        return client
    if config.stack == "fstack" or config.instances > 1:
        why, wanted = Why(), ffi.NULL if config.stack is None else config.stack.encode()
        lib.ffl_choice_none(wanted, index, config.instances, *why.room)
        raise (InstanceNotFound if config.instances > 1 else StackUnavailable)(2, str(why))
    client = _checked(_embedded(config), config)
    client.embedded = True
    return client


def attach_running(config: Config, index: int = 0) -> Client | None:
    """As attach; None where no instance is named and none runs."""
    for path in () if config.instance == SPAWN else places(config.instance, index):
        try:
            client = Client(path, config)
        except InstanceError as exc:
            if config.instance is not None or not lib.ffl_choice_next(-(exc.errno or 0)):
                raise
            if os.path.exists(path):
                log.warning("skipping %s: %s", path, exc)
            continue
        return _checked(client, config)
    return None


def _checked(client: Client, config: Config) -> Client:
    why, wanted = Why(), ffi.NULL if config.stack is None else config.stack.encode()
    names = (client.stack.encode(), os.fsencode(client.path))
    if lib.ffl_choice_stack(wanted, *names, *why.room) < 0:
        client.close()
        raise StackUnavailable(2, str(why))
    return client


def _embedded(config: Config) -> Client:
    with _starting:
        path = environment().get(_ENV)
        if path:
            with contextlib.suppress(InstanceError):
                return Client(path, config)
        _collect()
        path = start(config.stack or "host")
        embed(path)
        client = Client(path, config)
        _started.add(client.instance_pid)
        return client


def _collect() -> None:
    # An instance detaches itself: its parent is process 1. Where that is this process (a container
    # without an init; a subreaper) it would stay a zombie. One at most does.
    for pid in list(_started):
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                continue
        _started.discard(pid)


def embed(path: str) -> None:
    """Makes the embedded instance at `path` this process tree's."""
    environment()[_ENV] = path


def start(stack: str) -> str:
    """Starts an embedded instance; returns its address. The instance detaches itself at once.

    Raises InstanceNotFound with its own words when it does not start, ConfigError.
    """
    level = value("FFLOOP_INSTANCE_LOG_LEVEL") or "warning"
    name = f"ffloop-{os.getuid()}-{os.getpid()}-{os.urandom(8).hex()}"
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
    path = value("FFLOOP_INSTANCE_LOG")
    fd = _opened(path) if path else _unnamed()
    try:
        yield fd
    finally:
        os.close(fd)


def _unnamed() -> int:
    try:
        return os.memfd_create("ffloop-instance-log")
    except OSError as exc:
        if exc.errno not in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            raise
        raise InstanceNotFound(
            errno.ENOENT, f"an embedded instance cannot start: memfd_create: {exc.strerror}"
        ) from None


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        if exc.errno == errno.EMFILE:
            raise
        raise ConfigError(f"FFLOOP_INSTANCE_LOG={path!r}: {exc.strerror}") from None


def _tail(fd: int) -> str:
    with contextlib.suppress(OSError):
        size = os.fstat(fd).st_size
        said = os.pread(fd, 500, max(0, size - 500)).decode(errors="replace").strip()
        return said or _limited() or "no reason"
    return "see its log"


def _limited() -> str:
    # Then it cannot say so itself: its log is a file as well.
    if resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY:
        return ""
    return "shared memory counts as a file, and `ulimit -f` (LimitFSIZE=) is too low"
