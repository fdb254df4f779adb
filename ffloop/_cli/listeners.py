"""What workers in direct mode listen at, held by their parent.

A listening socket's queue ends with its last descriptor. So the socket of an address is made here,
once, and each worker that serves there has a descriptor of it (_loop/worker.py asks): a worker that
goes, by a reload or a crash, takes no connection with it that nobody has accepted. It is closed
when the last worker that had it has closed its server or was replaced by one that has none.
"""

import contextlib
import json
import socket
from typing import Any

from .._loop import worker
from .._loop.serving import Binding


class Listeners:
    """By what workers ask for: the socket, and the pids of those that have it."""

    def __init__(self) -> None:
        self._sockets: dict[str, socket.socket] = {}
        self._holders: dict[str, set[int]] = {}

    def asked(self, pid: int, channel: socket.socket) -> bool:
        """Answers one request of a worker's. False: it has closed its end."""
        try:
            request = channel.recv(worker.REQUEST_SIZE).decode()
        except OSError:
            return False
        if not request:
            return False
        wanted, key = request[0] == worker.WANTED, request[1:]
        with contextlib.suppress(OSError):  # it has gone meanwhile
            if wanted:
                self._hand(pid, key, channel)
            else:
                self._holders.get(key, set()).discard(pid)
                self._close_unheld()
                channel.send(b"{}")
        return True

    def _hand(self, pid: int, key: str, channel: socket.socket) -> None:
        answer: dict[str, Any] = {}
        if key not in self._sockets:
            how, info = json.loads(key)
            try:
                made = Binding(**how).bind(socket.socket, worker.as_info(info))
            except OSError as exc:
                made, answer = None, {"errno": exc.errno, "why": exc.strerror or str(exc)}
            if made is None:
                channel.send(json.dumps(answer).encode())
                return
            self._sockets[key] = made
        self._holders.setdefault(key, set()).add(pid)
        socket.send_fds(channel, [b"{}"], [self._sockets[key].fileno()])

    def left(self, pid: int, *, replaced: bool) -> None:
        """The worker has gone. `replaced`: another one takes its place, and will ask as it did."""
        for holders in self._holders.values():
            holders.discard(pid)
        if not replaced:
            self._close_unheld()

    def _close_unheld(self) -> None:
        for key in [key for key, holders in self._holders.items() if not holders]:
            self._sockets.pop(key).close()
            del self._holders[key]

    def close(self) -> None:
        """Nobody is to connect any more; in a worker: they are the parent's."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
        self._holders.clear()
