"""DirectLoop: a Loop in direct mode. Its sockets are the application's own, the kernel's, in this
thread and this loop's epoll; connected streams, of whatever family, get transports of their own
(direct.py). Everything else is asyncio's.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any, Unpack

from .._session.address import is_literal, numeric
from .._session.choice import InstanceInfo
from .._session.log import log
from .._session.native import ffi
from .._session.options import LoopOptions
from . import worker
from .asyncio_private import typed_as
from .direct import FROM_ANOTHER_THREAD, DirectListener, transport_of
from .kernel_poller import KernelPoller
from .loop import Loop, pin
from .serving import Binding, bind_sockets
from .transport import SocketTransport, set_nodelay

# Options that change nothing: of create_unix_connection with a path, and of create_connection with
# a numeric address.
_PLAIN_UNIX = dict.fromkeys(
    ("ssl", "sock", "server_hostname", "ssl_handshake_timeout", "ssl_shutdown_timeout")
)
_PLAIN = {
    **_PLAIN_UNIX,
    **dict.fromkeys(("local_addr", "interleave", "happy_eyeballs_delay")),
    **dict.fromkeys(("family", "proto", "flags", "all_errors"), 0),
}


_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
# The library's own class: programs put others in its place, before this module's import or after.
_Socket = next((k for k in socket.socket.__mro__ if k.__module__ == "socket"), socket.socket)


class DirectLoop(Loop):
    """The Loop that `ffloop.Loop()` makes where there is no instance."""

    def __init__(self, **options: Unpack[LoopOptions]) -> None:
        pin(self._config.cpu())
        poller = KernelPoller(self._config.spin_us)
        try:
            self._begin(poller)
        except BaseException:
            self._closed = True  # nothing is left to __del__
            poller.close()
            raise
        self._listeners: dict[Any, DirectListener] = {}
        log.debug("using this kernel's sockets directly (stack host)")

    @property
    def instance(self) -> InstanceInfo:
        """The instance that this loop is attached to; in direct mode, this process. Raises
        InstanceError while there is none."""
        return InstanceInfo("", "host", os.getpid(), True, True)

    def ffloop_stats(self) -> dict[str, int]:
        """As Loop's. What is of the rings only is 0."""
        self._check_closed()
        counters: dict[str, int] = self._batches.counters()
        names = (name for name, _ in ffi.typeof("struct ffl_session_stats").fields)
        return dict.fromkeys(names, 0) | counters

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} direct stack=host running={self.is_running()} "
            f"closed={self.is_closed()} debug={self.get_debug()}>"
        )

    def _let_go(self) -> None:
        for listener in self._listeners.values():
            listener.stop()
        self._listeners.clear()
        self._batches.close()

    # ---- whose thread ----

    def _own_thread(self) -> None:
        self._batches.own()

    def _enter_thread(self) -> None:
        """Called before this thread uses a socket. Raises RuntimeError while another thread runs
        the loop."""
        batches = self._batches
        if batches is None or batches.is_own():
            return
        if self.is_running():
            raise RuntimeError(FROM_ANOTHER_THREAD)
        batches.own()

    def _pass_on(self, call: Callable[[], None]) -> bool:
        """True: another thread runs the loop, and will make the call. False: this thread may."""
        batches = self._batches
        if batches is None or batches.is_own() or not self.is_running():
            return False
        self.call_soon_threadsafe(call)
        return True

    # ---- transports ----

    def _ensure_fd_no_transport(self, fd: Any, **more: Any) -> None:
        # asyncio's own transports, and those that do not read: few, of a weak dictionary
        if self._transports or not isinstance(fd, int | socket.socket):
            super()._ensure_fd_no_transport(fd, **more)
        number = fd if isinstance(fd, int) else fd.fileno()
        owner = self._batches.owner(number) if self._batches is not None else None
        if isinstance(owner, SocketTransport):
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {owner!r}")

    async def sock_connect(self, sock: Any, address: Any) -> None:
        """As asyncio's. Raises OSError, and ValueError in debug mode for a blocking socket."""
        self._check_closed()
        self._check_plain(sock)
        if is_literal(sock.family, address):
            await self._connect(sock, address)
        else:
            await super().sock_connect(sock, address)

    async def _connect(self, sock: socket.socket, address: Any) -> bool:
        """Whether it waited for the connection: the epoll has an entry of the descriptor's then."""
        try:
            sock.connect(address)
            return False
        except (BlockingIOError, InterruptedError):
            pass
        await self._until_ready(self._wait_writable, sock)
        if err := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(err, f"Connect call failed {address}")
        return True

    @typed_as(asyncio.SelectorEventLoop.create_connection)
    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, **how: Any
    ) -> Any:
        """As asyncio's."""
        known = None if self._debug else numeric(host, port)
        plain = socket.socket is _Socket and (not how or how.items() <= _PLAIN.items())
        if known is None or not plain:
            return await super().create_connection(protocol_factory, host, port, **how)
        family, address = known
        sock = _Socket(family, _STREAM, socket.IPPROTO_TCP)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return await self._connected(sock, address, protocol_factory)

    @typed_as(asyncio.SelectorEventLoop.create_unix_connection)
    async def create_unix_connection(
        self, protocol_factory: Any, path: Any = None, **how: Any
    ) -> Any:
        """As asyncio's."""
        plain = socket.socket is _Socket and (not how or how.items() <= _PLAIN_UNIX.items())
        if self._debug or path is None or not plain:
            return await super().create_unix_connection(protocol_factory, path, **how)
        address = os.fspath(path)
        sock = _Socket(socket.AF_UNIX, _STREAM)
        return await self._connected(sock, address, protocol_factory)

    async def _connected(self, sock: socket.socket, address: Any, protocol_factory: Any) -> Any:
        """Connects a new socket, which does not block: (its transport, its protocol)."""
        try:
            if await self._connect(sock, address):
                self._hand_over(sock)
            else:
                self._ensure_fd_no_transport(sock)
            protocol = protocol_factory()
            transport = transport_of(self, sock, protocol, None, None, None)
        except BaseException:
            sock.close()
            raise
        waiter = self.create_future()
        self.call_soon(transport.begin, waiter)
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol

    def _make_socket_transport(
        self, sock: Any, protocol: Any, waiter: Any = None, **how: Any
    ) -> Any:
        if _has_its_own_way(sock):
            return super()._make_socket_transport(sock, protocol, waiter, **how)
        self._ensure_fd_no_transport(sock)
        set_nodelay(sock)
        extra, server, context = map(how.get, ("extra", "server", "context"))
        transport = transport_of(self, sock, protocol, extra, server, context)
        self.call_soon(transport.begin, waiter, context=context)
        return transport

    # ---- servers ----

    def _dual(self, asked: bool | None) -> bool:
        return False  # the kernel's is all there is

    def _bind_sockets(self, infos: list[Any], how: Binding) -> list[Any]:
        return bind_sockets(infos, worker.listening(how))

    def _accept_at(self, sock: Any, *how: Any) -> bool:
        if _has_its_own_way(sock):
            return False
        self._check_closed()
        self._listeners[sock] = DirectListener(self, sock, *how)
        return True

    def _stop_serving(self, sock: Any, **more: Any) -> None:
        listener = self._listeners.pop(sock, None)
        if listener is not None:
            listener.stop()
        worker.closed(sock.fileno())
        if sock.fileno() >= 0:  # a server that closes may have been retired
            super()._stop_serving(sock, **more)  # which removes a unix socket's file, too


def _has_its_own_way(sock: Any) -> bool:
    """Whether the application's socket class overrides a method that a descriptor's use would pass
    by: then transport and listener are asyncio's, which call it."""
    kind = type(sock)
    return kind is not _Socket and any(
        getattr(kind, name, None) is not getattr(_Socket, name)
        for name in ("accept", "recv", "recv_into", "send", "sendmsg", "shutdown")
    )
