"""loop.sock_* for stack sockets; kernel sockets go to KernelSockCalls.

Each makes the non-blocking call again whenever the socket becomes ready. A cancelled call has taken
no data, which is copied out only when it is returned. All raise OSError as the C library's calls
do, ConnectionResetError also where the session is lost.
"""

import asyncio
import contextvars
import errno
import functools
import socket
from collections.abc import Callable
from typing import Any, TypeVar

from .._net.endpoint import Endpoint
from .._net.inherited import Inherited
from .._net.promoted import can_promote, followers, number_of, promote, stack_socket
from .._net.sockets import StackSocket
from .._session.binding import READ, WRITE
from .._session.carrying import StaysOnKernel
from .._session.hot import Handle
from .._session.routing import Router
from .._session.session import Session, stands_for
from .kernel_sock_calls import KernelSockCalls
from .sendfile import send_file

_T = TypeVar("_T")

# Errors that end a connect which is under way; others are the call's, and have its words.
_CONNECT_ENDS = (errno.ECONNREFUSED, errno.ETIMEDOUT, errno.EHOSTUNREACH)


class SockCalls(KernelSockCalls):
    """A base class of SessionLoop, which has the session and the router."""

    _router: Router
    _inherited: Inherited

    def _live_session(self) -> Session:
        raise NotImplementedError

    def _check_sock(self, sock: Any) -> StackSocket | None:
        self._check_plain(sock)
        return stack_socket(sock)

    def _check_reader(self, sock: Any) -> StackSocket | None:
        stack = self._check_sock(sock)
        if stack is not None:  # the loop does not wait for the answer to a first look
            stack._ep().client().arm(stack._ep().handle)
        return stack

    def _own_session(self, stack: StackSocket) -> Session:
        """The session of a stack socket. Raises RuntimeError for a socket of another loop or of a
        selector (_session/ownership.py)."""
        session = stack._ep().open_session()
        if session is not self._live_session():
            raise RuntimeError(
                f"{stack!r} is of another session: it was made for another loop, or without one"
            )
        return session

    # ---- descriptors ----

    def _endpoint_of(self, fd: Any) -> tuple[int, Endpoint | None]:
        """The descriptor of `fd`, a number or a socket, and the stack socket's endpoint, or
        None."""
        number = number_of(fd)
        if not isinstance(number, int):
            number = fd.fileno()
        return number, stands_for(number)

    def _ensure_fd_no_transport(self, fd: Any, **more: Any) -> None:
        super()._ensure_fd_no_transport(fd, **more)
        number, endpoint = self._endpoint_of(fd)
        if endpoint is None or endpoint.session is None or endpoint.is_dup(number):
            return
        owner = endpoint.session.receivers.get(endpoint.handle)
        if owner is not None and owner is not endpoint:
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {owner!r}")

    def _add_reader(self, fd: Any, callback: Any, *args: Any, **more: Any) -> Any:
        number, endpoint = self._endpoint_of(fd)
        if endpoint is not None:
            endpoint.stand_in(number)
        return super()._add_reader(fd, callback, *args, **more)

    def _add_writer(
        self,
        fd: Any,
        callback: Any,
        *args: Any,
        context: contextvars.Context | None = None,
        **more: Any,
    ) -> Any:
        number, endpoint = self._endpoint_of(fd)
        if endpoint is None:
            if context is not None:
                more["context"] = context
            return super()._add_writer(fd, callback, *args, **more)
        self._check_closed()
        if endpoint.live:
            session = self._own_session(StackSocket._borrow(endpoint))
            if endpoint.handle not in session.receivers:
                endpoint.take()
        endpoint.remove_writer(number)
        handle = Handle(callback, args, self, context)
        endpoint.set_writer(number, handle, self)
        return handle

    def _remove_writer(self, fd: Any, **more: Any) -> bool:
        number, endpoint = self._endpoint_of(fd)
        if endpoint is None:
            return super()._remove_writer(fd, **more)
        return endpoint.remove_writer(number)

    # ---- sock_* ----

    async def _ready_for(self, stack: StackSocket, filters: int) -> None:
        endpoint = stack._ep()
        session = self._own_session(stack)
        owner = session.receivers.get(endpoint.handle)
        if owner is not endpoint:
            if owner is not None:
                raise RuntimeError(f"File descriptor {stack!r} is used by transport {owner!r}")
            endpoint.take()
        await endpoint.wait_for(filters, self)

    async def _until(
        self, stack: StackSocket, filters: int, call: Callable[..., _T], *args: Any
    ) -> _T:
        while True:
            try:
                return call(*args)
            except (BlockingIOError, InterruptedError):
                pass
            await self._ready_for(stack, filters)

    async def sock_recv(self, sock: Any, n: int) -> bytes:
        """The next bytes of a stream, `n` at most; b"" at its end."""
        stack = self._check_reader(sock)
        if stack is None:
            return await super().sock_recv(sock, n)
        return await self._until(stack, READ, stack.recv, n)

    async def sock_recv_into(self, sock: Any, buf: Any) -> int:
        """As sock_recv, into the writable buffer `buf`. Returns the number of bytes; 0 at the
        end."""
        stack = self._check_reader(sock)
        if stack is None:
            return await super().sock_recv_into(sock, buf)
        return await self._until(stack, READ, stack.recv_into, buf)

    async def sock_recvfrom(self, sock: Any, bufsize: int) -> tuple[bytes, Any]:
        """(data, address): a datagram, cut to `bufsize` bytes, and its sender."""
        stack = self._check_reader(sock)
        if stack is None:
            return await super().sock_recvfrom(sock, bufsize)
        return await self._until(stack, READ, stack.recvfrom, bufsize)

    async def sock_recvfrom_into(self, sock: Any, buf: Any, nbytes: int = 0) -> tuple[int, Any]:
        """As sock_recvfrom, into the writable buffer `buf`, `nbytes` at most (0: its size). Returns
        (number of bytes, address)."""
        stack = self._check_reader(sock)
        if stack is None:
            return await super().sock_recvfrom_into(sock, buf, nbytes)
        return await self._until(stack, READ, stack.recvfrom_into, buf, nbytes or len(buf))

    async def sock_sendall(self, sock: Any, data: Any) -> None:
        """Sends all of `data`, a bytes-like object."""
        stack = self._check_sock(sock)
        if stack is None:
            await super().sock_sendall(sock, data)
            return
        with memoryview(data) as view, view.cast("B") as flat:
            done = 0
            while done < len(flat):
                done += await self._until(stack, WRITE, stack.send, flat[done:])

    async def sock_sendto(self, sock: Any, data: Any, address: Any) -> int:
        """Sends `data` as a datagram to `address`. Returns the number of bytes."""
        stack = self._check_sock(sock)
        if stack is None:
            return await super().sock_sendto(sock, data, address)
        return await self._until(stack, WRITE, stack.sendto, data, address)

    async def sock_accept(self, sock: Any) -> tuple[Any, Any]:
        """(connection, address): a non-blocking socket, and its peer's address. What becomes of a
        kernel listener is set by the option `kernel_sockets`."""
        stack = self._check_reader(sock)
        if stack is None:
            if not self._inherited.to_accept(self, sock):
                return await super().sock_accept(sock)
            return await self.sock_accept(sock)
        kernels = [one for one in followers(sock) if isinstance(one, socket.socket)]
        if kernels:
            return await self._accept_both(stack, kernels[0])
        return await self._until(stack, READ, stack.accept)

    async def _accept_both(self, stack: StackSocket, kernel: socket.socket) -> tuple[Any, Any]:
        while True:
            for listener in (stack, kernel):
                try:
                    connection, peer = listener.accept()
                except (BlockingIOError, InterruptedError):
                    continue
                connection.setblocking(False)
                return connection, peer
            self._add_reader(kernel.fileno(), stack._ep().on_readable)
            try:
                await self._ready_for(stack, READ)
            finally:
                self._remove_reader(kernel.fileno())

    async def sock_connect(self, sock: Any, address: Any) -> None:
        """Connects to `address`. A fresh kernel TCP socket is promoted, in place, where the router
        gives the destination to the stack."""
        stack = self._check_sock(sock)
        if stack is None and not can_promote(sock):
            await super().sock_connect(sock, address)
            return
        resolved = await self._ensure_resolved(
            address, family=sock.family, type=sock.type, proto=sock.proto, loop=self
        )
        address = resolved[0][4]
        if stack is None:
            if not self._router.on_stack(sock.family, address) or self._inherited.bypassed():
                await super().sock_connect(sock, address)
                return
            try:
                stack = promote(sock, self._live_session())
            except StaysOnKernel:
                await super().sock_connect(sock, address)
                return
        self._own_session(stack)
        await self._connect(stack._ep(), address)

    async def _connect(self, endpoint: Endpoint, address: Any) -> None:
        client = endpoint.client()
        fut: asyncio.Future[None] = self.create_future()
        endpoint.take()
        try:
            client.connect(endpoint.handle, endpoint.family, address)
        except (BlockingIOError, InterruptedError):
            endpoint.connecting(fut)
        else:
            fut.set_result(None)
        try:
            await fut
        except OSError as exc:
            if exc.errno in _CONNECT_ENDS and endpoint.kind == socket.SOCK_STREAM:
                raise OSError(exc.errno, f"Connect call failed {address}") from None
            raise
        finally:
            del fut  # no cycle through the traceback of its exception

    async def _sock_sendfile_native(
        self, sock: Any, file: Any, offset: int, count: int | None, **more: Any
    ) -> Any:
        stack = stack_socket(sock)
        if stack is None:
            return await super()._sock_sendfile_native(sock, file, offset, count, **more)
        send = functools.partial(self._until, stack, WRITE, stack.send)
        return await send_file(file, offset, count, send)
