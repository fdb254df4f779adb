"""Listener: accepts on a stack for a Server.

A connection arrives as an event with its addresses; the instance reads ahead from it already.
"""

import errno
from typing import Any

from .._net.endpoint import Endpoint
from .._session.address import ADDRESSES_SIZE
from .._session.binding import Client
from .._session.log import log
from ..errors import error
from .accepting import Accepting
from .asyncio_private import ACCEPT_RETRY_DELAY, logger
from .stream import StreamTransport


class Listener(Accepting):
    """The receiver of a listening endpoint's events."""

    def __init__(self, loop: Any, endpoint: Endpoint, *args: Any) -> None:
        super().__init__(loop, *args)
        self.endpoint = endpoint

    def start(self) -> None:
        """Accepts from now on."""
        endpoint = self.endpoint
        client = endpoint.client()
        endpoint.open_session().receivers[endpoint.handle] = self
        client.accepting(endpoint.handle, self._window, armed=True)
        endpoint.accepting = True

    def stop(self) -> None:
        """Accepts no more; the socket stays."""
        endpoint = self.endpoint
        endpoint.accepting = False
        if endpoint.live:
            endpoint.open_session().receivers.pop(endpoint.handle, None)
            try:
                endpoint.client().accepting(endpoint.handle, 0)
            except OSError as exc:  # it failed, or the instance is gone: it accepts no more anyway
                logger.debug("%r: %s", self, exc)

    # ---- events ----

    def on_accept(self, handle: int, off: int) -> None:
        me = self.endpoint
        session = me.open_session()
        addresses = session.mm[off : off + ADDRESSES_SIZE] if off else b""
        self._take(Endpoint(session, handle, me.family, me.kind, me.proto, addresses))

    def _new_transport(self, connection: Endpoint, protocol: Any, context: Any) -> StreamTransport:
        return StreamTransport(self._loop, connection, protocol, None, self._server, context)

    def _drop(self, connection: Endpoint) -> None:
        connection.release()

    def _describe(self, connection: Endpoint) -> tuple[Any, Any]:
        return connection.peername(), connection

    def on_error(self, code: int) -> None:
        if code == errno.ESHUTDOWN:  # `restore` comes when there is an instance again
            log.warning(
                "the instance is draining: %s takes no more connections", self.endpoint.sockname()
            )
            return
        exc = error(code)
        self._loop.call_exception_handler(
            {
                "message": "socket.accept() failed on the stack",
                "exception": exc,
                "socket": self.endpoint,
            }
        )
        if code in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            self._loop.call_later(ACCEPT_RETRY_DELAY, self._retry)

    def _retry(self) -> None:
        if self.endpoint.accepting and self.endpoint.live:
            self.start()

    def on_lost(self) -> None:
        self.endpoint.lose()

    def on_detach(self) -> None: ...

    def on_data(self, off: int, size: int) -> None: ...
    def on_eof(self) -> None: ...
    def on_connect(self, code: int) -> None: ...
    def on_readable(self) -> None: ...
    def on_writable(self) -> None: ...

    # ---- after the session was lost ----

    def again(self, client: Client) -> int:
        """Opens, binds and listens with a new client, at the same address and port, in the thread
        that has the client. Returns the handle, for `resume`. Waits. Raises OSError."""
        endpoint = self.endpoint
        handle = client.open_socket(endpoint.family, endpoint.kind, endpoint.proto)
        try:
            for level, name, value in endpoint.options or ():
                client.setsockopt(handle, level, name, value)
            client.bind(handle, endpoint.family, endpoint.sockname())
            client.listen(handle, endpoint.listen_backlog or self._window, endpoint.nodelay)
        except BaseException:
            client.close_socket(handle, abort=True)
            raise
        return handle

    def resume(self, handle: int) -> None:
        """Serves there from now on."""
        self.endpoint.resume(handle)
        self.start()
        log.info("listening again on %s", self.endpoint.sockname())
