"""Reads the stats pages of instances, without the instances' help.

An instance writes its counters into a memfd (shm/stats.h), and each session has counters in its
segment. Both are opened through /proc/PID/fd, read-only, by users who may trace the process: the
instance's user and root. An instance that is stopped or stuck is read as any other. Values are
snapshots, not all of the same moment.
"""

import contextlib
import fcntl
import functools
import mmap
import os
import pwd
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import InstanceDenied, InstanceError, InstanceNotFound, VersionMismatch
from . import kernel_sockets
from .address import SockAddr
from .binding import ABI_VERSION, addresses
from .native import ffi, lib

_COMM = "ffloop-instance"
_PAGE_NAME, _SEGMENT_NAME = "/memfd:ffloop-stats", "/memfd:ffloop-segment"
_MOST_SESSIONS, _MOST_SOCKETS = 1 << 16, 1 << 18  # slots: --max-sessions' limit, FFL_STATS_SOCKETS
_MOST_SEGMENT, _MOST_PROGRAM = 1 << 32, 4096  # bytes
_MOST_PAGE = 4096 + _MOST_SESSIONS * 64 + 4096 + _MOST_SOCKETS * 128  # bytes
_STUCK_AFTER = 1.0  # seconds that a running instance may go without a look at everything

_STATES = {
    lib.FFL_SOCK_OPEN: "open",
    lib.FFL_SOCK_BOUND: "bound",
    lib.FFL_SOCK_LISTENING: "listening",
    lib.FFL_SOCK_CONNECTING: "connecting",
    lib.FFL_SOCK_CONNECTED: "connected",
    lib.FFL_SOCK_PEER_DONE: "peer done",
    lib.FFL_SOCK_FAILED: "failed",
    lib.FFL_SOCK_CLOSING: "closing",
}
_BOUNDS = (*((1024 << i) / 1e9 for i in range(lib.FFL_LAGS - 1)), float("inf"))  # of struct ffl_lag
_RINGS = ("sq", "rxfree", "cq", "txfree")
_APP = [
    "submitted",
    "reaped",
    "sleeps",
    "wakes",
    "spins",
    "spin_hits",
    "sq_full",
    "pool_empty",
    "bytes_sent",
    "bytes_received",
    "late_looks",
]
_INST = [
    "consumed",
    "posted",
    "wakes",
    "cq_full",
    "pool_empty",
    "bytes_in",
    "bytes_out",
    "accepts",
]
_TOTALS = [
    "sessions_total",
    "sessions_refused",
    "sessions_killed",
    "accepts",
    "turns",
    "sleeps",
    "late_looks",
    "unlisted",
    "pending",
]


@dataclass(frozen=True, slots=True)
class Lag:
    """The work of a loop's iterations: `seconds` of all, and in `iterations` a histogram {bound in
    seconds: how many worked for less, and not less than the bound before}; the last is infinite."""

    seconds: float
    iterations: dict[float, int]

    def since(self, before: "Lag | None") -> "Lag":
        """The difference from `before`."""
        if before is None or sum(before.iterations.values()) > sum(self.iterations.values()):
            return self
        left = {b: n - before.iterations[b] for b, n in self.iterations.items()}
        return Lag(self.seconds - before.seconds, left)

    def below(self, share: float) -> float | None:
        """The lowest bound with that share of the iterations below it; None where there were
        none."""
        wanted, seen = share * sum(self.iterations.values()), 0
        for bound, count in self.iterations.items():
            seen += count
            if count and seen >= wanted:
                return bound
        return None


@dataclass(frozen=True, slots=True)
class Socket:
    """A stack socket, as its instance sees it. Sizes in bytes; `rx_held` counts whole buffers. In
    direct mode a socket of the process's, as the kernel sees it: `handle` is its descriptor, and
    the bytes that have passed are not counted."""

    session: int
    handle: int
    type: str  # "tcp" or "udp"
    state: str
    local: SockAddr | None
    peer: SockAddr | None
    bytes_in: int | None
    bytes_out: int | None
    rx_held: int
    tx_queued: int


@dataclass(frozen=True, slots=True)
class Session:
    """An application's session. `app` and `inst` are the counters of its two sides, `rings` the
    entries that wait in each ring and its size; empty where the segment could not be read. `lag`:
    of the application's loop."""

    id: int
    pid: int
    uid: int
    user: str
    program: str
    since: int  # seconds since the epoch
    dying: bool
    sockets: int
    rx_free: int
    rx_total: int
    rings: dict[str, dict[str, int]] = field(default_factory=dict)
    app: dict[str, int] = field(default_factory=dict)
    inst: dict[str, int] = field(default_factory=dict)
    lag: Lag | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    """A running instance. `state`: of the process ("running", "sleeping", "stopped", ...), or
    "stuck" when it runs and has not come round for a second. `lag`: of loops in direct mode."""

    pid: int
    uid: int
    user: str
    state: str
    path: str
    stack: str
    describe: str
    started: int  # seconds since the epoch
    totals: dict[str, int]
    sessions: list[Session]
    sockets: list[Socket]
    open_sockets: int
    lag: Lag | None = None

    def queued(self) -> Counter[int]:
        """Bytes sent that the stack has not taken, by session."""
        found: Counter[int] = Counter()
        for sock in self.sockets:
            found[sock.session] += sock.tx_queued
        return found


def pids() -> list[int]:
    """The processes that are instances, of any user. Raises InstanceError without /proc."""
    if not os.path.exists("/proc/self"):
        raise InstanceError(2, "/proc is not mounted, and instances are found there")
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError):
                name, letter = _stat(int(entry))
                if name == _COMM and letter not in "ZX":
                    found.append(int(entry))
    return sorted(found)


def loops() -> Iterator[Instance]:
    """The processes with loops in direct mode that this user may read: an Instance each, without
    sessions and with the path "direct"."""
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            # What may not be looked at, has gone meanwhile, or is of another ffloop.
            with contextlib.suppress(OSError):
                if _stat(int(entry))[0] != _COMM and (found := _loops_of(int(entry))):
                    yield found


def _loops_of(pid: int) -> Instance | None:
    owner = os.stat(f"/proc/{pid}").st_uid
    found: list[Instance] = []
    for number in sorted(map(int, os.listdir(f"/proc/{pid}/fd"))):
        with contextlib.suppress(FileNotFoundError):
            fd = _open(pid, number, _PAGE_NAME)
            with _mapped(fd, "struct ffl_instance_page", _MOST_PAGE) as page:
                with _view(page, "struct ffl_instance_page") as head:
                    inherited = head.pid != pid  # a child that was forked has its parent's
                if not inherited:
                    found.append(_read(pid, owner, page, False))
    if not found:
        return None
    sums = {name: sum(one.totals[name] for one in found) for name in _TOTALS}
    return replace(
        found[0],
        totals=sums,
        sockets=[_kernels(one) for one in kernel_sockets.of(pid)],
        open_sockets=sum(one.open_sockets for one in found),
        lag=_together(one.lag for one in found),
    )


def _kernels(one: kernel_sockets.KernelSocket) -> Socket:
    fd, kind, state, local, peer, queued, held = one
    return Socket(0, fd, kind, state, local, peer, None, None, rx_held=held, tx_queued=queued)


def _together(lags: Iterable[Lag | None]) -> Lag | None:
    known = [lag for lag in lags if lag is not None]
    if not known:
        return None
    counts = {bound: sum(lag.iterations[bound] for lag in known) for bound in _BOUNDS}
    return Lag(sum(lag.seconds for lag in known), counts)


def alive(pid: int) -> bool:
    """Whether the process is still there."""
    return os.path.exists(f"/proc/{pid}")


@functools.lru_cache(1024)
def user(uid: int) -> str:
    """The user's name, or the number where it has none."""
    try:
        return _printable(pwd.getpwuid(uid).pw_name)
    except (KeyError, OverflowError):
        return str(uid)


def read(pid: int, sockets: bool = True) -> Instance:
    """The page of the instance with this pid, or of the process's loops in direct mode.

    Raises InstanceDenied for another user's, InstanceNotFound when there is none, VersionMismatch
    for one of another ffloop.
    """
    what = "process"
    try:
        owner = os.stat(f"/proc/{pid}").st_uid
        if _stat(pid)[0] == _COMM:
            what = "the ffloop instance with pid"
        elif loops := _loops_of(pid):
            return loops
        with _mapped(_open_page(pid), "struct ffl_instance_page", _MOST_PAGE) as page:
            return _read(pid, owner, page, sockets)
    except PermissionError:
        raise InstanceDenied(
            13,
            f"{what} {pid} is {user(owner)}'s: only "
            f"{' and '.join(dict.fromkeys([user(owner), 'root']))} may look at it",
        ) from None
    except FileNotFoundError:
        raise InstanceNotFound(2, f"process {pid} is not an ffloop instance") from None


def find(target: str) -> int:
    """The pid of the instance that a socket path (or "@name") or a pid addresses. Raises an
    InstanceError."""
    if target.isdecimal():
        return int(target)
    if not target.startswith("@"):
        target = os.path.abspath(target)
    denied = []
    for pid in pids():
        try:
            if read(pid, sockets=False).path == target:
                return pid
        except InstanceDenied as exc:
            denied.append(str(exc.strerror))
        except InstanceError:
            continue
    raise InstanceNotFound(2, "; ".join([f"no instance of yours listens at {target!r}", *denied]))


# ---- pages -----------------------------------------------------------------------------------


# A process of another user may call itself an instance and show root anything: what is opened must
# be a memfd by its name, one that cannot shrink under the mapping and is no larger than an
# instance's, and every table inside it.


def _open_page(pid: int) -> int:
    for number in sorted(map(int, os.listdir(f"/proc/{pid}/fd"))):
        with contextlib.suppress(FileNotFoundError):
            return _open(pid, number, _PAGE_NAME)
    raise FileNotFoundError(2, "no stats page")


def _open(pid: int, number: int, name: str) -> int:
    path = f"/proc/{pid}/fd/{number}"
    if not os.readlink(path).startswith(name):
        raise FileNotFoundError(2, f"not a {name}")
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


@contextlib.contextmanager
def _mapped(fd: int, kind: str, most: int) -> Iterator[mmap.mmap]:
    try:
        size = os.fstat(fd).st_size
        sealed = 0
        with contextlib.suppress(OSError):
            sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
        if not sealed or not ffi.sizeof(kind) <= size <= most:
            raise FileNotFoundError(2, "not a page of an instance")
        mapped = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
    finally:
        os.close(fd)
    try:
        yield mapped
    finally:
        with contextlib.suppress(BufferError):  # an exception's traceback has it still
            mapped.close()


@contextlib.contextmanager
def _view(mapped: mmap.mmap, kind: str, offset: int = 0, count: int = 1) -> Iterator[Any]:
    # A pointer into the page; given back, so that the page can be unmapped.
    if offset + count * ffi.sizeof(kind) > len(mapped):
        raise FileNotFoundError(2, "a table beyond its page")
    buffer = ffi.from_buffer(mapped)
    try:
        yield ffi.cast(f"{kind} *", ffi.cast("char *", buffer) + offset)
    finally:
        ffi.release(buffer)


def _text(chars: Any) -> str:
    return _printable(bytes(ffi.buffer(chars)).split(b"\0", 1)[0].decode(errors="replace"))


def _read(pid: int, owner: int, mapped: mmap.mmap, with_sockets: bool) -> Instance:
    with _view(mapped, "struct ffl_instance_page") as page:
        if page.magic != lib.FFL_STATS_MAGIC or page.version != lib.FFL_STATS_VERSION:
            raise VersionMismatch(
                93, f"the instance with pid {pid} is of another ffloop: its stats pages differ"
            )
        return Instance(
            pid=pid,
            uid=owner,
            user=user(owner),
            state=_state(pid, page.heartbeat),
            path=_path(pid, _text(page.path)) if page.session_slots else _text(page.path),
            stack=_text(page.stack),
            describe=_text(page.describe),
            started=page.start_realtime,
            totals={name: int(getattr(page, name)) for name in _TOTALS},
            sessions=_sessions(pid, mapped, page.session_off, page.session_slots),
            sockets=_sockets(mapped, page.socket_off, page.socket_top) if with_sockets else [],
            open_sockets=page.sockets,
            lag=None if page.session_slots else _lag(page.lag),
        )


def _path(pid: int, path: str) -> str:
    """The socket's path, absolute where the instance was given one from its own directory."""
    if path.startswith(("@", "/")) or not path:
        return path
    return os.path.normpath(os.path.join(_printable(os.readlink(f"/proc/{pid}/cwd")), path))


def _lag(shown: Any) -> Lag:
    # cffi knows no arrays of atomics.
    ns, *counts = ffi.unpack(ffi.cast("uint64_t *", ffi.addressof(shown)), 1 + lib.FFL_LAGS)
    return Lag(ns / 1e9, dict(zip(_BOUNDS, counts, strict=True)))


def _sessions(pid: int, mapped: mmap.mmap, offset: int, slots: int) -> list[Session]:
    found = []
    with _view(mapped, "struct ffl_stat_session", offset, slots) as table:
        for i in range(slots):
            slot = table[i]
            if not (number := slot.id):
                continue
            facts = _segment(pid, slot.memfd, number)
            session = Session(
                id=number,
                pid=slot.pid,
                uid=slot.uid,
                user=user(slot.uid),
                program=_program(slot.pid),
                since=slot.start_realtime,
                dying=bool(slot.dying),
                sockets=slot.sockets,
                rx_free=slot.rx_free,
                rx_total=slot.rx_total,
                **facts,
            )
            if slot.id == number:
                found.append(session)
    return sorted(found, key=lambda session: session.id)


def _segment(pid: int, number: int, session: int) -> dict[str, Any]:
    # The counters in a session's segment; {} when it has just gone.
    try:
        fd = _open(pid, number, _SEGMENT_NAME)
    except OSError:
        return {}
    with (
        _mapped(fd, "struct ffl_segment", _MOST_SEGMENT) as mapped,
        _view(mapped, "struct ffl_segment") as seg,
    ):
        geo = seg.geo
        if geo.magic != lib.FFL_MAGIC or geo.version != ABI_VERSION or geo.session != session:
            return {}
        rings = {}
        for i, name in enumerate(_RINGS):
            size = geo.ring_size[i]
            depth = (seg.ring[i].tail - seg.ring[i].head) & 0xFFFFFFFF
            # The two words are not of one moment.
            rings[name] = {"depth": min(depth, size), "size": size}
        return {
            "rings": rings,
            "app": {name: int(getattr(seg.app, name)) for name in _APP},
            "inst": {name: int(getattr(seg.inst, name)) for name in _INST},
            "lag": _lag(seg.lag),
        }


def _sockets(mapped: mmap.mmap, offset: int, top: int) -> list[Socket]:
    found = []
    with _view(mapped, "struct ffl_stat_socket", offset, top) as table:
        for i in range(top):
            slot = table[i]
            if not (serial := slot.serial):
                continue
            local, peer = addresses(bytes(ffi.buffer(ffi.addressof(slot, "addresses"))))
            one = Socket(
                session=slot.session,
                handle=slot.handle,
                type="tcp" if slot.type == 1 else "udp",
                state=_STATES.get(slot.state, str(slot.state)),
                local=local,
                peer=peer,
                bytes_in=slot.bytes_in,
                bytes_out=slot.bytes_out,
                rx_held=slot.rx_held,
                tx_queued=slot.tx_queued,
            )
            if slot.serial == serial:
                found.append(one)
    return found


# ---- processes -------------------------------------------------------------------------------


def _stat(pid: int) -> tuple[str, str]:
    """Its short name and the letter of its state. Raises OSError when it is gone."""
    with open(f"/proc/{pid}/stat", errors="replace") as file:
        name, _, rest = file.read().partition("(")[2].rpartition(")")
    return name, rest.split()[0]


_LETTERS = {"R": "running", "S": "sleeping", "D": "uninterruptible", "T": "stopped", "t": "traced"}


def _state(pid: int, beat_ns: int) -> str:
    letter = _stat(pid)[1]
    if letter == "R" and beat_ns and time.monotonic() - beat_ns / 1e9 > _STUCK_AFTER:
        return "stuck"
    return _LETTERS.get(letter, letter)


def _program(pid: int) -> str:
    """The command line's beginning, in a line; "-" when the process is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(_MOST_PROGRAM).decode(errors="replace").split("\0")
    except OSError:
        return "-"
    return _printable(" ".join(words).strip()) or "-"


def _printable(text: str) -> str:
    # Other processes' words go to terminals.
    return "".join(char if char.isprintable() else "?" for char in text)
