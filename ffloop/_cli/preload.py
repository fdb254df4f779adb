"""`ffloop preload`: finds or starts an instance, and runs an unmodified program under the shim."""

import argparse
import contextlib
import fcntl
import os
import resource
import shlex
import shutil
import socket
import stat
import sys
from pathlib import Path

from .._session import configuration, discovery
from .._session.binding import keep_alive
from ..errors import InstanceNotFound
from .arguments import Refused
from .elf import obstacle

_SO_NETNS_COOKIE = 71
_KEEP_FROM = 200  # above the descriptors that programs use


def library() -> str:
    """The path of libff_syscall.so inside the package. Raises InstanceNotFound."""
    place = Path(discovery.executable()).with_name("libff_syscall.so")
    if not place.exists():
        raise InstanceNotFound(2, f"{place} is missing: reinstall ffloop with `pip install`")
    return str(place)


def main(args: argparse.Namespace) -> int:
    """Replaces this process by the program; returns 0 after --cflags or --libs. Raises Refused,
    ConfigError, InstanceError."""
    if args.cflags or args.libs:
        print(_flags(args.cflags, args.libs))
        return 0
    if args.program is None:
        args.parser.error("which PROGRAM?")
    path = _find(args.program)
    _check(path, args.force)
    config = configuration.load(instance=args.instance, stack=args.stack)
    environ = dict(os.environ)
    environ["_FFLOOP_NETNS"] = _namespace()  # a shim that this runs under may have another
    before = environ.get("LD_PRELOAD")
    environ["LD_PRELOAD"] = f"{library()}:{before}" if before else library()
    environ.update(_found(config))
    try:
        os.execve(path, [args.program, *args.rest], environ)
    except OSError as exc:
        raise Refused(f"{args.program}: {exc.strerror}") from None


def _namespace() -> str:
    """The network namespace, as the shim's place.c names it. By the program's start: it may take
    its environment for one piece of memory, so the shim adds nothing to it. 0: not known."""
    with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError):  # before Linux 5.14
        cookie = sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        return str(int.from_bytes(cookie, sys.byteorder))
    return "0"


def _flags(cflags: bool, libs: bool) -> str:
    """The C compiler's options. A program that is linked with the shim needs no LD_PRELOAD."""
    folder = Path(library()).parent
    words = [f"-I{folder / 'include'}"] if cflags else []
    if libs:
        words += [f"-L{folder}", f"-Wl,-rpath,{folder}", "-lff_syscall"]
    return shlex.join(words)


def _found(config: configuration.Config) -> dict[str, str]:
    """The variables that name the instance. An embedded instance is kept up by a descriptor."""
    client = discovery.attach(config)
    with contextlib.closing(client):
        if not client.embedded:
            return {"FFLOOP_INSTANCE": config.instance or client.path}
        fd = keep_alive(client.path)
        high = min(_KEEP_FROM, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        kept = fcntl.fcntl(fd, fcntl.F_DUPFD, high)  # inherited: children keep it too
        os.close(fd)
        inode = os.fstat(kept).st_ino  # identifies it, should the program take its number
        return {"FFLOOP_INSTANCE": client.path, "_FFLOOP_KEEP": f"{kept}:{inode}:{client.path}"}


def _find(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        what = "cannot be executed" if os.path.exists(program) else "no such program"
        raise Refused(f"{program}: {what}")
    made = os.stat(path)
    if (made.st_mode & stat.S_ISUID and made.st_uid != os.getuid()) or (
        made.st_mode & stat.S_ISGID and made.st_gid != os.getgid()
    ):
        raise Refused(f"{path} changes its user or group: the dynamic linker preloads nothing")
    return path


def _check(path: str, force: bool) -> None:
    """Raises Refused for a program whose sockets the shim would not see; with `force` warns."""
    why = obstacle(path)
    if why is None:
        return
    if not force:
        raise Refused(
            f"{path} {why}: its sockets would be the kernel's (--force starts it all the same, for "
            "the programs that it starts)"
        )
    print(f"ffloop preload: {path} {why}: its sockets are the kernel's", file=sys.stderr)
