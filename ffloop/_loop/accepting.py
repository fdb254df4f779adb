"""Accepting: makes the transports of a server's connections.

asyncio accepts in a reader callback, makes a task for each connection and calls connection_made an
iteration later. Here the transport is made, and connection_made called, at once. Each connection
has a context of its own, a copy of the one in which serving began.
"""

import asyncio
import contextvars
import operator
from typing import Any

from .asyncio_private import logger
from .tls import SSLProtocol


class Accepting:
    """The base of listeners. The subclass's `_new_transport`, `_drop` and `_describe` take an
    accepted connection that has no transport yet."""

    def __init__(
        self,
        loop: Any,
        factory: Any,
        sslcontext: Any,
        server: Any,
        backlog: int,
        handshake_timeout: float | None,
        shutdown_timeout: float | None,
        context: contextvars.Context | None = None,
    ) -> None:
        self._loop = loop
        self._factory = factory
        self._ssl = sslcontext
        self._server = server
        self._window = max(1, operator.index(backlog))
        self._timeouts = handshake_timeout, shutdown_timeout
        # Python 3.15 gives one: each connection keeps a copy of it for all its callbacks.
        self._lasting = context is not None
        self._context = contextvars.copy_context() if context is None else context

    def _new_transport(self, connection: Any, protocol: Any, context: Any) -> Any:
        raise NotImplementedError

    def _drop(self, connection: Any) -> None:
        raise NotImplementedError

    def _describe(self, connection: Any) -> tuple[Any, Any]:
        """(the peer's address, the connection), for the log."""
        raise NotImplementedError

    def _take(self, connection: Any) -> None:
        context = self._context.copy()
        context.run(self._accept, connection, context if self._lasting else None)

    def _accept(self, connection: Any, context: contextvars.Context | None) -> None:
        loop = self._loop
        protocol = transport = None
        if loop.get_debug():
            logger.debug(
                "%r got a new connection from %r: %r",
                self._server,
                *self._describe(connection),
            )
        try:
            protocol = self._factory()
            if self._ssl is None:
                transport = self._new_transport(connection, protocol, context)
            else:
                transport = self._accept_tls(connection, protocol, context)
        except (SystemExit, KeyboardInterrupt):
            self._drop(connection)
            raise
        except BaseException as exc:
            self._drop(connection)
            self._accept_failed(exc, protocol)
            return
        try:
            transport.begin()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._begin_failed(exc, protocol, transport)

    def _begin_failed(self, exc: BaseException, protocol: Any, transport: Any) -> None:
        self._loop.call_exception_handler(
            {
                "message": f"Exception in callback {protocol!r}.connection_made()",
                "exception": exc,
                "transport": transport,
                "protocol": protocol,
            }
        )

    def _accept_tls(
        self, connection: Any, protocol: Any, context: contextvars.Context | None
    ) -> Any:
        waiter = self._loop.create_future()
        handshake_timeout, shutdown_timeout = self._timeouts
        tls = SSLProtocol(
            self._loop,
            protocol,
            self._ssl,
            waiter,
            True,
            ssl_handshake_timeout=handshake_timeout,
            ssl_shutdown_timeout=shutdown_timeout,
        )
        app_transport = tls._app_transport  # it forgets it when the connection is lost
        transport = self._new_transport(connection, tls, context)

        def done(fut: "asyncio.Future[None]") -> None:
            if not fut.cancelled() and (exc := fut.exception()) is not None:
                app_transport.close()
                self._accept_failed(exc, protocol, app_transport)

        waiter.add_done_callback(done)
        return transport

    def _accept_failed(self, exc: BaseException, protocol: Any, transport: Any = None) -> None:
        if not self._loop.get_debug():
            return  # as asyncio: clients must not be able to fill the log
        context = {
            "message": "Error on transport creation for incoming connection",
            "exception": exc,
        }
        if protocol is not None:
            context["protocol"] = protocol
        if transport is not None:
            context["transport"] = transport
        self._loop.call_exception_handler(context)
