"""A worker's side of `ffloop run --workers`: it tells the supervisor (_cli/supervisor.py) when a
loop serves, stops accepting when the supervisor says so, and in direct mode listens at sockets that
the supervisor has as well (_cli/listeners.py).

Between the two is a stream socket. A byte from the worker: it serves. The end of the stream, from
the supervisor: retire. Every loop of the worker sees that end, now or later, and it takes neither a
signal nor a handler from the application. Listeners are asked for on a second socket, whose
requests and answers take turns.
"""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from .serving import Binding

WANTED, CLOSED = "+", "-"  # a request's first character; the rest says which listener
REQUEST_SIZE = 4096  # bytes at most

_supervisor = -1  # in a worker: the descriptor of the stream to the parent
_asks = -1  # and that of the second socket
_lock = threading.Lock()  # for a request and its answer
_pid = 0  # of that worker: a child that it forks is nobody's worker
_told = False
_shared: dict[int, str] = {}  # by descriptor: listeners that the supervisor has as well


def begin(supervisor: int, asks: int) -> None:
    """This process is a worker, from now on; it keeps both descriptors to its end."""
    global _supervisor, _asks, _pid, _told
    _supervisor, _asks, _pid, _told = supervisor, asks, os.getpid(), False


def serving(loop: Any) -> None:
    """Called when a loop has begun to serve: in a worker, tells the supervisor, and lets the loop
    `_retire` when that says so."""
    global _told
    if os.getpid() != _pid:
        return
    loop._add_reader(_supervisor, _retire, loop)
    if not _told:
        _told = True
        with contextlib.suppress(OSError):  # the parent is gone
            os.write(_supervisor, b"s")


def _retire(loop: Any) -> None:
    loop._remove_reader(_supervisor)
    _shared.clear()  # what is closed now is no server's end
    loop._retire()


# ---- listeners ---------------------------------------------------------------------------------


def listening(how: Binding) -> Binding:
    """How a loop in direct mode binds its server's sockets: in a worker, as the parent has."""
    if os.getpid() != _pid:
        return how
    return _ByParent(**asdict(how))


def closed(fd: int) -> None:
    """A server that listened at this descriptor is closed: the parent's need not stay."""
    key = _shared.pop(fd, None)
    if key is not None and os.getpid() == _pid:
        _ask(CLOSED + key)


@dataclass(frozen=True, slots=True)
class _ByParent(Binding):
    def bind(self, make: Callable[[int, int, int], Any], info: Any) -> Any:
        if not info[4][1]:  # a port of its own
            return Binding.bind(self, make, info)
        key = json.dumps([asdict(replace(self, debug=False)), info])
        answer, fds = _ask(WANTED + key)
        if answer is None:  # the parent has gone
            return Binding.bind(self, make, info)
        if "errno" in answer:
            raise OSError(answer["errno"], answer["why"])
        if not fds:
            return None
        sock = socket.socket(fileno=fds[0])
        _shared[sock.fileno()] = key
        return sock


def as_info(info: Any) -> Any:
    """One of getaddrinfo's answers, from JSON."""
    family, kind, proto, name, address = info
    return family, kind, proto, name, tuple(address)


def _ask(request: str) -> tuple[Any, list[int]]:
    # The supervisor's answer, and the descriptors with it; None where it has gone.
    with _lock, contextlib.suppress(OSError):
        asks = socket.socket(fileno=_asks)
        try:
            asks.send(request.encode())
            answer, fds, *_ = socket.recv_fds(asks, REQUEST_SIZE, 1, socket.MSG_CMSG_CLOEXEC)
        finally:
            asks.detach()
        if answer:
            return json.loads(answer), fds
    return None, []
