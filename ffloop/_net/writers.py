"""loop.add_writer for stack sockets.

A stack socket's descriptor tells the kernel's epoll when there is something to read. Whether it can
be written to is a matter of transmit credit, which only the client knows: so a writer is a watcher
of the endpoint, and its callback runs once an iteration of the loop for as long as there is credit.
"""

import asyncio

from .._session.binding import READ, WRITE
from .endpoint import Endpoint


class Writer:
    """The writer callback of one stack socket."""

    __slots__ = ("_endpoint", "_loop", "_scheduled", "handle")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, endpoint: Endpoint, handle: asyncio.Handle
    ) -> None:
        self._loop = loop
        self._endpoint = endpoint
        self._scheduled = False
        self.handle = handle
        endpoint.watchers = [*(endpoint.watchers or ()), self]
        self.stir(WRITE)

    def stir(self, filters: int) -> None:
        """WRITE may be so now."""
        if self._scheduled or not filters & WRITE:
            return
        endpoint = self._endpoint
        if not endpoint.live or endpoint.client().ready(endpoint.handle) & WRITE:
            self._scheduled = True
            self._loop.call_soon(self._run)
        else:
            endpoint.client().want(endpoint.handle, WRITE)

    def _run(self) -> None:
        self._scheduled = False
        if not self.handle.cancelled():
            self.handle._run()
            self.stir(READ | WRITE)

    def cancel(self) -> None:
        self.handle.cancel()
        self._scheduled = True  # for good
        left = [watcher for watcher in self._endpoint.watchers or () if watcher is not self]
        self._endpoint.watchers = left or None

    def forget(self) -> None:
        """The socket is closed: as with a kernel's, no more callbacks."""
        self.cancel()
