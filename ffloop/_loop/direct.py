"""Direct mode: transports and listeners of the kernel's sockets, in the loop's own epoll.

A socket is the application's own socket object, with its options and descriptor. Nothing is read
before a callback may take it: data that arrives while reading is paused stays in the kernel, and
its end or error is seen when reading is resumed, as with asyncio.
"""

import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from .._session.address import decode
from .._session.hot import Acceptor
from ..errors import error
from .accepting import Accepting
from .asyncio_private import (
    ACCEPT_RETRY_DELAY,
    TransportSocket,
)
from .transport import READ_FAILED, Socket, SocketTransport, set_nodelay

FROM_ANOTHER_THREAD = (
    "a transport is used by the thread that runs its loop: from another one, call "
    "loop.call_soon_threadsafe() or asyncio.run_coroutine_threadsafe()"
)


class DirectTransport(SocketTransport):
    """A connected stream socket of the kernel's."""

    __slots__ = ()

    # ---- where the bytes are ----

    def _enter(self) -> None:
        if self._loop is not None:
            self._loop._enter_thread()

    def _passed_on(self, call: Callable[[], None]) -> bool:
        return self._loop is not None and self._loop._pass_on(call)

    def pause_reading(self) -> None:
        super().pause_reading()
        if self._paused and not self._closing and self._flushing is None:
            self._own_unwatched()

    def _kept_open(self) -> None:
        super()._kept_open()
        if not self._closing:
            self._own_unwatched()

    def _own_unwatched(self) -> None:
        """Its descriptor, out of the epoll and so out of the table of owners, is still its own."""
        self._loop._transports[self._handle] = self

    def on_error(self, code: int) -> None:
        self._run(self._fatal_error, self._unsendable or error(code), READ_FAILED)

    def _shutdown(self) -> None:
        self._socket().shutdown(socket.SHUT_WR)

    async def _send_file(self, file: Any, offset: int, count: int | None) -> int:
        self._loop._transports.pop(self._handle, None)  # sock_sendfile() waits with the descriptor
        try:
            sock = self._socket()
            sent = await self._loop.sock_sendfile(sock, file, offset, count, fallback=False)
            return int(sent)
        finally:
            if self._paused and not self._closing:
                self._own_unwatched()

    # ---- names ----

    def _socket(self) -> Any:
        if self._sock is None and self._handle >= 0:
            self._sock = socket.socket(fileno=self._handle)
        elif self._sock is None:  # asked too late: as asyncio's, it is a closed one
            self._sock = socket.socket()
            self._sock.close()
        return self._sock

    def _make_extra(self, name: str) -> Any:
        if name == "socket":
            return Socket(self._socket())
        if name == "peername" and self._peer and (known := decode(self._peer)) is not None:
            return known
        try:
            sock = self._socket()
            return sock.getpeername() if name == "peername" else sock.getsockname()
        except OSError:
            return self._bound if name == "sockname" else None

    def __repr__(self) -> str:
        return self._named(f"fd={self._handle}")


def transport_of(
    loop: Any, sock: socket.socket, protocol: Any, extra: Any, server: Any, context: Any
) -> DirectTransport:
    """A transport for a connected socket of the application's, which it closes. Raises RuntimeError
    for a closed loop, AttributeError for what is no protocol."""
    loop._check_closed()
    _ = protocol.connection_made
    extra = {} if extra is None else extra
    for name, ask in (("sockname", sock.getsockname), ("peername", sock.getpeername)):
        try:
            extra[name] = extra[name] if name in extra else ask()
        except OSError:
            extra[name] = None
    return DirectTransport(
        loop,
        protocol,
        sock.fileno(),
        context,
        extra,
        dispatcher=loop._batches,
        server=server,
        sock=sock,
    )


class DirectListener(Accepting):
    """Accepts a listening socket's connections."""

    def __init__(self, loop: Any, sock: socket.socket, *args: Any) -> None:
        super().__init__(loop, *args)
        set_nodelay(sock)  # accepted sockets inherit it
        self.address = sock.getsockname()
        self._sock = sock
        plain = self._ssl is None and not self._lasting
        self._accepts: Any = Acceptor(
            loop._batches, sock.fileno(), self._window, self, DirectTransport, plain
        )
        self._accepts.watch(True)

    def stop(self) -> None:
        """Accepts no more; the socket stays."""
        if self._accepts is not None:
            self._accepts.watch(False)
            self._accepts = None

    def _accepted(self, fd: int, peer: bytes) -> None:
        self._take((fd, peer))

    def _new_transport(self, connection: Any, protocol: Any, context: Any) -> DirectTransport:
        fd, peer = connection
        how = {"dispatcher": self._loop._batches, "server": self._server}
        transport = DirectTransport(self._loop, protocol, fd, context, **how)
        transport._bound, transport._peer = self.address, peer
        return transport

    def _drop(self, connection: Any) -> None:
        os.close(connection[0])

    def _describe(self, connection: Any) -> tuple[Any, Any]:
        return decode(connection[1]), connection[0]

    def _failed(self, code: int) -> None:
        if code not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            raise error(code)
        self._loop.call_exception_handler(
            {
                "message": "socket.accept() out of system resource",
                "exception": error(code),
                "socket": TransportSocket(self._sock),
            }
        )
        self._accepts.watch(False)
        self._loop.call_later(ACCEPT_RETRY_DELAY, self._retry)

    def _retry(self) -> None:
        if self._accepts is not None:
            self._accepts.watch(True)
