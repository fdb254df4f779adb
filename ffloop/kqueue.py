"""Kqueue and kevent: select.kqueue and select.kevent, which Linux lacks, over the stack.

READ and WRITE filters, of stack sockets and of kernel descriptors (those that epoll can watch).
"""

import fcntl
import os
import select
import socket
import struct
import termios
import time
import weakref
from collections import deque
from collections.abc import Iterable
from errno import ECONNRESET, EINVAL, ENOENT, EOPNOTSUPP
from typing import Any, Self

from ._net.readiness import Readiness, When
from .errors import error

# FreeBSD's values, as the select module has them there.
KQ_FILTER_READ = -1
KQ_FILTER_WRITE = -2
KQ_FILTER_AIO = -3
KQ_FILTER_VNODE = -4
KQ_FILTER_PROC = -5
KQ_FILTER_SIGNAL = -6
KQ_FILTER_TIMER = -7
KQ_FILTER_NETDEV = -8

KQ_EV_ADD = 0x1
KQ_EV_DELETE = 0x2
KQ_EV_ENABLE = 0x4
KQ_EV_DISABLE = 0x8
KQ_EV_ONESHOT = 0x10
KQ_EV_CLEAR = 0x20
KQ_EV_SYSFLAGS = 0xF000
KQ_EV_FLAG1 = 0x2000
KQ_EV_EOF = 0x8000
KQ_EV_ERROR = 0x4000

KQ_NOTE_LOWAT = 0x1
KQ_NOTE_DELETE = 0x1
KQ_NOTE_WRITE = 0x2
KQ_NOTE_EXTEND = 0x4
KQ_NOTE_ATTRIB = 0x8
KQ_NOTE_LINK = 0x10
KQ_NOTE_RENAME = 0x20
KQ_NOTE_REVOKE = 0x40
KQ_NOTE_EXIT = 0x80000000
KQ_NOTE_FORK = 0x40000000
KQ_NOTE_EXEC = 0x20000000
KQ_NOTE_PCTRLMASK = 0xF0000000
KQ_NOTE_PDATAMASK = 0xFFFFF
KQ_NOTE_TRACK = 0x1
KQ_NOTE_CHILD = 0x4
KQ_NOTE_TRACKERR = 0x2

_NO_MORE_TO_READ = select.EPOLLRDHUP | select.EPOLLHUP
_NOBODY_READS = select.EPOLLHUP | select.EPOLLERR


class kevent:
    """As select.kevent: what to watch, or what has happened. `ident` may be an object with a
    fileno(). Compared field by field, in the order of the constructor's arguments.

    Raises TypeError and OverflowError for fields that are not whole numbers in range.
    """

    __slots__ = ("data", "fflags", "filter", "flags", "ident", "udata")
    __hash__ = None  # type: ignore[assignment]  # mutable, as select's

    def __init__(
        self,
        ident: Any,
        filter: int = KQ_FILTER_READ,
        flags: int = KQ_EV_ADD,
        fflags: int = 0,
        data: int = 0,
        udata: int = 0,
    ) -> None:
        self.ident = _number("ident", ident if isinstance(ident, int) else _fileno(ident), 0, 64)
        self.filter = _number("filter", filter, -(1 << 15), 15)
        self.flags = _number("flags", flags, 0, 16)
        self.fflags = _number("fflags", fflags, 0, 32)
        self.data = _number("data", data, -(1 << 63), 63)
        self.udata = _number("udata", udata, 0, 64)

    def _key(self) -> tuple[int, ...]:
        return self.ident, self.filter, self.flags, self.fflags, self.data, self.udata

    def __eq__(self, other: object) -> Any:
        return self._key() == other._key() if isinstance(other, kevent) else NotImplemented

    def __lt__(self, other: object) -> Any:
        return self._key() < other._key() if isinstance(other, kevent) else NotImplemented

    def __le__(self, other: object) -> Any:
        return self._key() <= other._key() if isinstance(other, kevent) else NotImplemented

    def __gt__(self, other: object) -> Any:
        return self._key() > other._key() if isinstance(other, kevent) else NotImplemented

    def __ge__(self, other: object) -> Any:
        return self._key() >= other._key() if isinstance(other, kevent) else NotImplemented

    def __repr__(self) -> str:
        return (
            f"<ffloop.kevent ident={self.ident} filter={self.filter} flags={self.flags:#x} "
            f"fflags={self.fflags:#x} data={self.data:#x} udata={self.udata:#x}>"
        )


def _number(name: str, value: Any, least: int, bits: int) -> int:
    if not isinstance(value, int):
        raise TypeError(f"kevent {name} must be an integer, not {type(value).__name__}")
    if not least <= value < 1 << bits:
        raise OverflowError(f"kevent {name} is out of range: {value}")
    return value


def _fileno(thing: Any) -> int:
    try:
        fd = thing.fileno()
    except AttributeError:
        raise TypeError(
            "kevent ident must be an integer or an object with a fileno() method"
        ) from None
    if not isinstance(fd, int):
        raise TypeError("fileno() returned a non-integer")
    if fd < 0:
        raise ValueError(f"file descriptor cannot be a negative integer ({fd})")
    return fd


class _Note:
    """What a kqueue knows of one descriptor and filter."""

    __slots__ = ("clear", "enabled", "oneshot", "udata")

    def __init__(self) -> None:
        self.enabled = True
        self.clear = self.oneshot = False
        self.udata = 0


class Kqueue:
    """As select.kqueue, over stack sockets and kernel descriptors; also a context manager.

    For programs without an event loop, and used by one thread, as FFSelector. Filters but READ and
    WRITE, KQ_NOTE_LOWAT, and a loop's stack sockets fail with EINVAL. `fileno()` polls readable
    when `control` may have an event.
    """

    def __init__(self) -> None:
        self._ready = Readiness(self._forget)
        self._notes: dict[tuple[int, int], _Note] = {}
        self._late: deque[kevent] = deque()  # told by the stack, and there was no room

    @classmethod
    def fromfd(cls, fd: int, /) -> Self:
        """Another object for the open Kqueue of this process whose fileno() is `fd`: closing one
        closes both. Raises OSError (EOPNOTSUPP) for any other descriptor: a Kqueue is not the
        kernel's, so none leads to it."""
        origin = _open.get(fd)
        if origin is None or origin.closed:
            raise OSError(EOPNOTSUPP, f"descriptor {fd} is not the fileno() of an ffloop.Kqueue")
        self = cls.__new__(cls)
        self.__dict__.update(origin.__dict__, _origin=origin)
        return self

    @property
    def closed(self) -> bool:
        """True if the kqueue is closed."""
        return self._ready.closed

    def fileno(self) -> int:
        """The descriptor to poll. Raises ValueError once closed."""
        fd = self._ready.fileno()
        _open[fd] = self
        return fd

    def close(self) -> None:
        """Idempotent; the descriptors that were watched stay open."""
        self._ready.close()
        self._notes.clear()
        self._late.clear()

    def __enter__(self) -> Self:
        self._ready.check()
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def control(
        self, changelist: Iterable[kevent] | None, max_events: int, timeout: float | None = None, /
    ) -> list[kevent]:
        """Applies the changes, then waits for up to `max_events` events, `timeout` seconds at most
        (None: for ever; not at all for max_events 0).

        A change that fails is an event with KQ_EV_ERROR and the errno in `data` if there is room
        for it, an OSError else. Raises ValueError for a negative timeout or max_events, and once
        closed.
        """
        self._ready.check()
        if max_events < 0:
            raise ValueError(f"Length of eventlist must be 0 or positive, got {max_events}")
        if timeout is not None and timeout < 0:
            raise ValueError("timeout must be positive or None")
        failed: list[kevent] = []
        for change in () if changelist is None else _changes(changelist):
            try:
                self._change(change)
            except OSError as exc:
                if len(failed) == max_events:
                    raise
                failed.append(
                    kevent(
                        change.ident,
                        change.filter,
                        change.flags | KQ_EV_ERROR,
                        change.fflags,
                        exc.errno or EINVAL,
                        change.udata,
                    )
                )
        if failed or not max_events:
            return failed
        return self._wait(max_events, timeout)

    # ---- changes ----

    def _change(self, change: kevent) -> None:
        if change.filter not in (KQ_FILTER_READ, KQ_FILTER_WRITE):
            raise OSError(
                EINVAL, f"filter {change.filter}: this kqueue has KQ_FILTER_READ and _WRITE"
            )
        if change.fflags & KQ_NOTE_LOWAT:
            raise OSError(EINVAL, "KQ_NOTE_LOWAT is not offered")
        key = change.ident, change.filter
        before = self._notes.get(key)
        if change.flags & KQ_EV_ADD and before is None:
            os.fstat(change.ident)  # EBADF
            note = _Note()
        elif before is None:
            raise error(ENOENT)
        else:
            note = before
        if change.flags & KQ_EV_DELETE:
            self._notes.pop(key, None)
            self._apply(change.ident)
            return
        old = note.enabled, note.clear, note.oneshot, note.udata
        if change.flags & KQ_EV_ADD:
            note.udata = change.udata
            note.clear = bool(change.flags & KQ_EV_CLEAR)
            note.oneshot = bool(change.flags & KQ_EV_ONESHOT)
        if change.flags & (KQ_EV_ADD | KQ_EV_ENABLE):
            note.enabled = True
        if change.flags & KQ_EV_DISABLE:
            note.enabled = False
        self._notes[key] = note
        try:
            self._apply(change.ident)
        except OSError:
            if before is None:
                del self._notes[key]
            note.enabled, note.clear, note.oneshot, note.udata = old
            raise

    def _apply(self, fd: int) -> None:
        self._ready.set(fd, self._when(fd, KQ_FILTER_READ), self._when(fd, KQ_FILTER_WRITE))

    def _when(self, fd: int, filter: int) -> When:
        note = self._notes.get((fd, filter))
        if note is None or not note.enabled:
            return When.OFF
        return When.EDGE if note.clear else When.LEVEL

    def _forget(self, fd: int) -> None:
        self._notes.pop((fd, KQ_FILTER_READ), None)
        self._notes.pop((fd, KQ_FILTER_WRITE), None)

    # ---- events ----

    def _wait(self, limit: int, timeout: float | None) -> list[kevent]:
        until = None if timeout is None else time.monotonic() + timeout
        late = self._late
        while not late:
            left = None if until is None else max(until - time.monotonic(), 0.0)
            found = self._ready.poll(left, limit)
            for fd, mask in found:
                if mask & ~select.EPOLLOUT:
                    self._tell(fd, KQ_FILTER_READ, mask)
                if mask & ~(select.EPOLLIN | select.EPOLLRDHUP):
                    self._tell(fd, KQ_FILTER_WRITE, mask)
            if not found:
                break
        return [late.popleft() for _ in range(min(limit, len(late)))]

    def _tell(self, fd: int, filter: int, mask: int) -> None:
        note = self._notes.get((fd, filter))
        if note is None or not note.enabled:
            return
        flags = note.clear * KQ_EV_CLEAR | note.oneshot * KQ_EV_ONESHOT | KQ_EV_ADD
        endpoint = self._ready.stack_socket(fd)
        reading, problem = filter == KQ_FILTER_READ, 0
        if endpoint is None:
            gone = _NO_MORE_TO_READ if reading else _NOBODY_READS
            data, eof = _kernel_data(fd, reading), bool(mask & gone)
        elif not endpoint.live:
            data, eof, problem = 0, True, ECONNRESET
        else:
            held = endpoint.client().pending(endpoint.handle)
            received = held.accepts if endpoint.listen_backlog is not None else held.bytes
            data, problem = received if reading else held.room, held.error
            eof = problem != 0 or (reading and held.eof)
        if note.oneshot:
            del self._notes[fd, filter]
            self._apply(fd)
        self._late.append(kevent(fd, filter, flags | eof * KQ_EV_EOF, problem, data, note.udata))


_open: "weakref.WeakValueDictionary[int, Kqueue]" = weakref.WeakValueDictionary()


def _changes(changelist: Iterable[kevent]) -> Iterable[kevent]:
    for change in changelist:
        if not isinstance(change, kevent):
            raise TypeError("changelist must be an iterable of ffloop.kevent objects")
        yield change


def _kernel_data(fd: int, reading: bool) -> int:
    """Bytes to read, or room to write, as far as the kernel tells; 1 where it does not (a listener,
    a device): at least that is there."""
    try:
        if reading:
            return _ioctl(fd, termios.FIONREAD)
        with socket.socket(fileno=os.dup(fd)) as sock:
            room = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            return max(room - _ioctl(fd, termios.TIOCOUTQ), 1)
    except OSError:
        return 1


def _ioctl(fd: int, what: int) -> int:
    found: int = struct.unpack("=i", fcntl.ioctl(fd, what, bytes(4)))[0]
    return found


__all__ = [
    "KQ_EV_ADD",
    "KQ_EV_CLEAR",
    "KQ_EV_DELETE",
    "KQ_EV_DISABLE",
    "KQ_EV_ENABLE",
    "KQ_EV_EOF",
    "KQ_EV_ERROR",
    "KQ_EV_FLAG1",
    "KQ_EV_ONESHOT",
    "KQ_EV_SYSFLAGS",
    "KQ_FILTER_AIO",
    "KQ_FILTER_NETDEV",
    "KQ_FILTER_PROC",
    "KQ_FILTER_READ",
    "KQ_FILTER_SIGNAL",
    "KQ_FILTER_TIMER",
    "KQ_FILTER_VNODE",
    "KQ_FILTER_WRITE",
    "KQ_NOTE_ATTRIB",
    "KQ_NOTE_CHILD",
    "KQ_NOTE_DELETE",
    "KQ_NOTE_EXEC",
    "KQ_NOTE_EXIT",
    "KQ_NOTE_EXTEND",
    "KQ_NOTE_FORK",
    "KQ_NOTE_LINK",
    "KQ_NOTE_LOWAT",
    "KQ_NOTE_PCTRLMASK",
    "KQ_NOTE_PDATAMASK",
    "KQ_NOTE_RENAME",
    "KQ_NOTE_REVOKE",
    "KQ_NOTE_TRACK",
    "KQ_NOTE_TRACKERR",
    "KQ_NOTE_WRITE",
    "Kqueue",
    "kevent",
]
