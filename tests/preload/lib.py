"""What the differential cases share: pairs of sockets, raw C calls, observations.

A case module is a script: `python cases_x.py` runs its cases one after the other and prints a JSON
line each, [name, observations]. test_differential.py runs it natively and under the shim and
compares. Nothing here may depend on time beyond "at least", on port numbers or on pids.
"""

import ctypes
import errno
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
LIMIT = 120  # seconds a case: a hang, however busy the machine is

Case = Callable[[], Any]
cases: dict[str, Case] = {}


def case(function: Case) -> Case:
    cases[function.__name__] = function
    return function


def name_of(code: int) -> str:
    return errno.errorcode.get(code, str(code))


def attempt(function: Callable[..., Any], *args: Any) -> Any:
    """The result, or the name of the errno."""
    try:
        result = function(*args)
    except OSError as exc:
        return name_of(exc.errno) if exc.errno else type(exc).__name__
    return result.decode("latin-1") if isinstance(result, bytes) else result


def c(name: str, *args: Any) -> Any:
    """A C call: the result, or the name of its errno."""
    ctypes.set_errno(0)
    function = getattr(libc, name)
    function.restype = ctypes.c_ssize_t if name in LONG else ctypes.c_int
    result = function(*args)
    return name_of(ctypes.get_errno()) if result < 0 else result


LONG = ("read", "write", "readv", "writev", "recv", "send", "recvfrom", "sendto", "recvmsg",
        "sendmsg", "sendfile", "splice", "syscall", "sendfile64")  # fmt: skip


class IoVec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]


class MsgHdr(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.POINTER(IoVec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class MMsgHdr(ctypes.Structure):
    _fields_ = [("hdr", MsgHdr), ("len", ctypes.c_uint)]


class TimeSpec(ctypes.Structure):
    _fields_ = [("sec", ctypes.c_long), ("nsec", ctypes.c_long)]


def iov(*buffers: Any) -> Any:
    return (IoVec * len(buffers))(*[IoVec(ctypes.addressof(b), len(b)) for b in buffers])


def buf(data: bytes | int) -> Any:
    """A C buffer: of these bytes, or of so many zeros."""
    return (ctypes.c_char * (data if isinstance(data, int) else len(data))).from_buffer(
        bytearray(data)
    )


def listener(family: int = socket.AF_INET, backlog: int = 16) -> socket.socket:
    s = socket.socket(family)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    s.listen(backlog)
    return s


@contextmanager
def pair(family: int = socket.AF_INET) -> Iterator[tuple[socket.socket, socket.socket]]:
    """(client, accepted), connected, blocking."""
    with listener(family) as server, socket.socket(family) as client:
        client.connect(server.getsockname())
        accepted, _ = server.accept()
        with accepted:
            yield client, accepted


def bound(family: int = socket.AF_INET) -> socket.socket:
    """A datagram socket at a port of loopback."""
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    return s


def two(family: int = socket.AF_INET) -> tuple[socket.socket, socket.socket]:
    return bound(family), bound(family)


def joined(family: int = socket.AF_INET) -> tuple[socket.socket, socket.socket]:
    """Two datagram sockets that are connected to each other."""
    a, b = two(family)
    a.connect(b.getsockname())
    b.connect(a.getsockname())
    return a, b


def wait(s: Any, events: int = select.POLLIN, seconds: float = 60) -> list[str]:
    """Polls until something of `events` (or an error) is there; its names."""
    poller = select.poll()
    poller.register(s, events)
    got = poller.poll(seconds * 1000)
    return poll_names(got[0][1]) if got else []


def bits(value: int, names: dict[str, int]) -> list[str]:
    return sorted(name for name, bit in names.items() if value & bit)


POLL = {n: getattr(select, "POLL" + n) for n in ("IN", "OUT", "PRI", "ERR", "HUP", "NVAL", "RDHUP")}
EPOLL = {n: getattr(select, "EPOLL" + n) for n in ("IN", "OUT", "PRI", "ERR", "HUP", "RDHUP")}


def poll_names(value: int) -> list[str]:
    return bits(value, POLL)


def epoll_names(value: int) -> list[str]:
    return bits(value, EPOLL)


def events(ep: select.epoll, timeout: float = 60) -> list[list[str]]:
    """By their names, those of one wait."""
    return [epoll_names(e) for _, e in ep.poll(timeout)]


def fill(s: socket.socket) -> int:
    """Sends to a non-blocking socket until it takes no more; the bytes."""
    total = 0
    try:
        while True:
            total += s.send(b"x" * 100000)
    except BlockingIOError:
        return total


def fill_for_good(s: socket.socket) -> int:
    """fill() until the socket stays full."""
    total = fill(s)
    while wait(s, select.POLLOUT, 0.5):
        total += fill(s)
    return total + fill(s)  # the kernel tells of room from a third of its buffer on


def drain(s: socket.socket, total: int) -> int:
    """Receives so many bytes."""
    got = 0
    while got < total:
        got += len(s.recv(1 << 20))
    return got


def reader(s: socket.socket, total: int, out: list[bytes]) -> None:
    """Receives `total` bytes, or to the end, into `out`."""
    got = bytearray()
    while len(got) < total:
        data = s.recv(65536)
        if not data:
            break
        got += data
    out.append(bytes(got))


def pattern(n: int) -> bytes:
    """`n` bytes or a few more."""
    return bytes(i * 7 & 0xFF for i in range(251)) * (n // 251 + 1)


def reset(s: socket.socket) -> None:
    """Closes with a RST."""
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def free_port() -> int:
    """Nobody listens there."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def handler(number: int, restart: bool = True) -> Iterator[list[int]]:
    """Counts a signal; restart: SA_RESTART."""
    seen: list[int] = []
    before = signal.signal(number, lambda n, frame: seen.append(n))
    signal.siginterrupt(number, not restart)
    yield seen
    signal.signal(number, before)


@contextmanager
def alarms(restart: bool = True) -> Iterator[list[int]]:
    """SIGALRM again and again: a call that waits is interrupted, however late it begins."""
    with handler(signal.SIGALRM, restart) as seen:
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        yield seen
        signal.setitimer(signal.ITIMER_REAL, 0)


def child(function: Callable[[], Any]) -> int:
    """Runs function in a forked child; its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    return pid


def join(pid: int) -> int:
    """The status of a child that has ended, or ends."""
    return os.waitpid(pid, 0)[1]


def main() -> None:
    wanted = sys.argv[1:] or list(cases)
    for name in wanted:
        signal.alarm(LIMIT)  # the default action: a case that hangs ends the run, visibly
        try:
            result = cases[name]()
        except Exception as exc:
            result = f"{type(exc).__name__}: {exc}"
        print(json.dumps([name, result]), flush=True)
    os._exit(0)


__all__ = [n for n in dir() if not n.startswith("_")]
assert time and select
