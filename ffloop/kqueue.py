"""Kqueue and kevent: select.kqueue and select.kevent, which Linux lacks, over the stack.

READ and WRITE filters, of stack sockets and of kernel descriptors (those that epoll can watch).
"""

import weakref
from collections.abc import Iterable
from errno import EINVAL, EOPNOTSUPP
from typing import Any, Self

from ._session.selector import KernelQueue

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


class Kqueue:
    """As select.kqueue, over stack sockets and kernel descriptors; also a context manager.

    For programs without an event loop, and used by one thread, as FFSelector. Filters but READ and
    WRITE, KQ_NOTE_LOWAT, and a loop's stack sockets fail with EINVAL. `fileno()` polls readable
    when `control` may have an event.
    """

    def __init__(self) -> None:
        self._queue = KernelQueue()

    @classmethod
    def fromfd(cls, fd: int, /) -> Self:
        """Another object for the open Kqueue of this process whose fileno() is `fd`: closing one
        closes both. Raises OSError (EOPNOTSUPP) for any other descriptor: a Kqueue is not the
        kernel's, so none leads to it."""
        queue = _open.get(fd)
        if queue is None or queue.closed:
            raise OSError(EOPNOTSUPP, f"descriptor {fd} is not the fileno() of an ffloop.Kqueue")
        self = cls.__new__(cls)
        self._queue = queue
        return self

    @property
    def closed(self) -> bool:
        """True if the kqueue is closed."""
        return self._queue.closed

    def fileno(self) -> int:
        """The descriptor to poll. Raises ValueError once closed."""
        fd = self._queue.fileno()
        _open[fd] = self._queue
        return fd

    def close(self) -> None:
        """Idempotent; the descriptors that were watched stay open."""
        self._queue.close()

    def __enter__(self) -> Self:
        self._queue.check()
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
        self._queue.check()
        if max_events < 0:
            raise ValueError(f"Length of eventlist must be 0 or positive, got {max_events}")
        if timeout is not None and timeout < 0:
            raise ValueError("timeout must be positive or None")
        failed: list[kevent] = []
        for one in () if changelist is None else _changes(changelist):
            try:
                self._change(one)
            except OSError as exc:
                if len(failed) == max_events:
                    raise
                flags, code = one.flags | KQ_EV_ERROR, exc.errno or EINVAL
                failed.append(kevent(one.ident, one.filter, flags, one.fflags, code, one.udata))
        if failed or not max_events:
            return failed
        return [kevent(*fields) for fields in self._queue.wait(timeout, max_events)]

    def _change(self, one: kevent) -> None:
        if one.filter not in (KQ_FILTER_READ, KQ_FILTER_WRITE):
            raise OSError(EINVAL, f"filter {one.filter}: this kqueue has KQ_FILTER_READ and _WRITE")
        if one.fflags & KQ_NOTE_LOWAT:
            raise OSError(EINVAL, "KQ_NOTE_LOWAT is not offered")
        self._queue.change((one.ident, one.filter, one.flags, one.fflags, one.udata))


_open: "weakref.WeakValueDictionary[int, KernelQueue]" = weakref.WeakValueDictionary()


def _changes(changelist: Iterable[kevent]) -> Iterable[kevent]:
    for change in changelist:
        if not isinstance(change, kevent):
            raise TypeError("changelist must be an iterable of ffloop.kevent objects")
        yield change


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
