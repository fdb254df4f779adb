"""The listening sockets of workers in direct mode, held by the supervisor.

A listening socket's queue ends with its last descriptor. So the supervisor makes the socket of each
address once, and gives every worker that serves there a descriptor of it (_loop/worker.py asks): a
worker that ends, by a reload or a crash, loses no connection that waits to be accepted. The
supervisor closes the socket when no worker holds it any more, and none that held it is replaced.
"""

import contextlib
import json
import socket
from typing import Any

from .._loop import worker
from .._loop.serving import Binding


class Listeners:
    """For each listener that a worker has asked for: its socket, and the pids of its holders."""

    def __init__(self) -> None:
        self._sockets: dict[str, socket.socket] = {}
        self._holders: dict[str, set[int]] = {}

    def asked(self, pid: int, channel: socket.socket) -> bool:
        """Answers one request of a worker. False: the worker has closed its end."""
        try:
            request = channel.recv(worker.REQUEST_SIZE).decode()
        except OSError:
            return False
        if not request:
            return False
        wanted, key = request[0] == worker.WANTED, request[1:]
        with contextlib.suppress(OSError):  # the worker has ended meanwhile
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
        """The worker has ended. `replaced`: another takes its place, and will ask for the same."""
        for holders in self._holders.values():
            holders.discard(pid)
        if not replaced:
            self._close_unheld()

    def _close_unheld(self) -> None:
        for key in [key for key, holders in self._holders.items() if not holders]:
            self._sockets.pop(key).close()
            del self._holders[key]

    def close(self) -> None:
        """Closes all: nobody is to connect any more, or this is a worker after the fork."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
        self._holders.clear()
