"""Listener: accepts for a Server and makes transports; and the sockets of create_server.

asyncio accepts in a reader callback, makes a task for each connection and calls connection_made an
iteration later. Here a connection arrives as an event with its addresses and its reading already
begun, so the transport is made, and connection_made called, at once. Each connection has a context
of its own, a copy of the one in which serving began.
"""

import asyncio
import contextvars
import errno
import socket
from dataclasses import dataclass
from typing import Any

from .._net.endpoint import Endpoint
from .._net.sockets import StackSocket
from .._session.address import ADDRESSES_SIZE
from .._session.binding import Client, error
from .._session.log import log
from .._session.routing import Router
from .._session.session import Session
from .asyncio_private import ACCEPT_RETRY_DELAY, PY313, SSLProtocol, logger
from .stream import StreamTransport


class Listener:
    """The receiver of a listening endpoint's events."""

    def __init__(
        self,
        loop: Any,
        endpoint: Endpoint,
        factory: Any,
        sslcontext: Any,
        server: Any,
        backlog: int,
        handshake_timeout: float | None,
        shutdown_timeout: float | None,
        context: contextvars.Context | None = None,
    ) -> None:
        self._loop = loop
        self.endpoint = endpoint
        self._factory = factory
        self._ssl = sslcontext
        self._server = server
        self._window = max(1, backlog)
        self._timeouts = handshake_timeout, shutdown_timeout
        # Python 3.15 gives one: each connection keeps a copy of it for all its callbacks.
        self._lasting = context is not None
        self._context = contextvars.copy_context() if context is None else context

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
        endpoint = Endpoint(session, handle, me.family, me.kind, me.proto, addresses)
        context = self._context.copy()
        context.run(self._accept, endpoint, context if self._lasting else None)

    def _accept(self, endpoint: Endpoint, context: contextvars.Context | None) -> None:
        loop = self._loop
        protocol = transport = None
        if loop.get_debug():
            logger.debug(
                "%r got a new connection from %r: %r",
                self._server,
                endpoint.peername(),
                endpoint,
            )
        try:
            protocol = self._factory()
            if self._ssl is None:
                transport = StreamTransport(loop, endpoint, protocol, None, self._server, context)
            else:
                transport = self._accept_tls(endpoint, protocol, context)
        except (SystemExit, KeyboardInterrupt):
            endpoint.release()
            raise
        except BaseException as exc:
            endpoint.release()
            self._accept_failed(exc, protocol)
            return
        try:
            transport.begin()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            loop.call_exception_handler(
                {
                    "message": f"Exception in callback {protocol!r}.connection_made()",
                    "exception": exc,
                    "transport": transport,
                    "protocol": protocol,
                }
            )

    def _accept_tls(
        self, endpoint: Endpoint, protocol: Any, context: contextvars.Context | None
    ) -> StreamTransport:
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
        transport = StreamTransport(self._loop, endpoint, tls, None, self._server, context)

        def done(fut: "asyncio.Future[None]") -> None:
            if not fut.cancelled() and (exc := fut.exception()) is not None:
                app_transport.close()
                self._accept_failed(exc, protocol, app_transport)

        waiter.add_done_callback(done)
        return transport

    def _accept_failed(self, exc: BaseException, protocol: Any, transport: Any = None) -> None:
        if not self._loop.get_debug():
            return  # as asyncio: whoever connects must not fill the log
        context = {
            "message": "Error on transport creation for incoming connection",
            "exception": exc,
        }
        if protocol is not None:
            context["protocol"] = protocol
        if transport is not None:
            context["transport"] = transport
        self._loop.call_exception_handler(context)

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

    def on_lost(self, exc: OSError) -> None:
        self.endpoint.lose()

    def on_detach(self) -> None: ...

    def on_data(self, off: int, size: int) -> None: ...
    def on_eof(self) -> None: ...
    def on_connect(self, code: int) -> None: ...
    def on_readable(self) -> None: ...
    def on_writable(self) -> None: ...

    # ---- after the session was lost ----

    def again(self, client: Client) -> int:
        """Opens, binds and listens with a new client, at the same address and port, in whichever
        thread has it: the handle, for `resume`. Waits. Raises OSError."""
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


@dataclass(frozen=True, slots=True)
class Binding:
    """How create_server's sockets are made."""

    reuse_address: bool
    reuse_port: bool
    keep_alive: bool
    dual: bool  # what the stack serves is served on the kernel too
    debug: bool

    def bind(self, session: Session | None, info: Any) -> Any:
        """A bound socket for one of getaddrinfo's answers, on the kernel where there is no session;
        None for one to skip, as create_server of the running Python does."""
        family, kind, proto, _, address = info
        try:
            if session is not None:
                sock: Any = StackSocket._open(session, family, kind, proto, False)
                sock._ep().nodelay = True
            else:
                sock = socket.socket(family, kind, proto)
        except OSError as exc:
            if exc.errno not in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EINVAL):
                raise
            if self.debug:
                logger.warning(
                    "create_server() failed to create socket.socket(%r, %r, %r)",
                    family,
                    kind,
                    proto,
                    exc_info=True,
                )
            return None
        try:
            self._set_options(sock, family)
            try:
                sock.bind(address)
            except OSError as exc:
                reason = (exc.strerror or str(exc)).lower()
                message = f"error while attempting to bind on address {address!r}: {reason}"
                if not PY313 or exc.errno != errno.EADDRNOTAVAIL:
                    raise OSError(exc.errno, message) from None
                if self.debug:
                    logger.warning(message)
                sock.close()
                return None
        except BaseException:
            sock.close()
            raise
        return sock

    def _set_options(self, sock: Any, family: int) -> None:
        if self.reuse_address:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
        if self.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
        if self.keep_alive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, True)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)


def _kernels_twin(info: Any, port: int) -> Any:
    """Where the kernel serves what the stack serves at `info`: the wildcard as it is; this
    machine's loopback for any other address, since the kernel does not have that one."""
    family, kind, proto, name, address = info
    wildcard, loopback = ("::", "::1") if family == socket.AF_INET6 else ("0.0.0.0", "127.0.0.1")
    host = wildcard if address[0] in (wildcard, "") else loopback
    return family, kind, proto, name, (host, port, *address[2:])


def bind_sockets(session: Session, router: Router, infos: list[Any], how: Binding) -> list[Any]:
    """Bound, not yet listening, sockets for getaddrinfo's answers: on the stack or on the kernel,
    as the router says. Errors, and what is skipped, are create_server's of the running Python."""
    sockets: list[Any] = []
    twins: dict[Any, None] = {}  # several addresses of the stack's may have one
    try:
        for info in infos:
            on_stack = router.on_stack(info[0], info[4])
            sock = how.bind(session if on_stack else None, info)
            if sock is not None:
                sockets.append(sock)
                if on_stack and how.dual:
                    twins[_kernels_twin(info, sock.getsockname()[1])] = None
        for info in twins:
            sock = how.bind(None, info)
            if sock is not None:
                sockets.append(sock)
        if PY313 and not sockets:
            tried = [info[4] for info in infos]
            raise OSError(f"could not bind on any address out of {tried!r}")
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets
