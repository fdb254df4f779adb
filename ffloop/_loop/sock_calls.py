"""loop.sock_* for stack sockets; kernel sockets go to asyncio's own.

Each is the non-blocking call, tried again whenever the socket becomes ready. A cancelled call has
taken nothing: data is copied out only when it is returned.
"""

import asyncio
import contextvars
import socket
import ssl
from typing import Any

from .._net.endpoint import READ, WRITE, Endpoint, mirrors
from .._net.inherited import Handed
from .._net.sockets import StackSocket, can_promote, followers, promote, stack_socket
from .._net.writers import Writer
from .._session.binding import Ring
from .._session.routing import Router
from .asyncio_private import Handle, SelectorLoop


class SockCalls(SelectorLoop):
    """Mixed into Loop, which has the ring and the router."""

    _router: Router
    _handed: Handed

    def _live_ring(self) -> Ring:
        raise NotImplementedError

    def _check_sock(self, sock: Any) -> StackSocket | None:
        if isinstance(sock, ssl.SSLSocket):
            raise TypeError("Socket cannot be of type SSLSocket")
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        return stack_socket(sock)

    def _own_ring(self, stack: StackSocket) -> Ring:
        """The ring of a stack socket that is to be used here. Raises RuntimeError for one of
        another loop, or of a selector (see _session)."""
        ring = stack._ep().open_ring()
        if ring is not self._live_ring():
            raise RuntimeError(
                f"{stack!r} is of another session: it was made for another loop, or without one"
            )
        return ring

    # ---- descriptors ----

    def _ensure_fd_no_transport(self, fd: Any, **more: Any) -> None:
        super()._ensure_fd_no_transport(fd, **more)
        endpoint = mirrors.get(fd if isinstance(fd, int) else fd.fileno())
        if endpoint is None or endpoint.ring is None:
            return
        owner = endpoint.ring.receivers.get(endpoint.handle)
        if owner is not None and owner is not endpoint:
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {owner!r}")

    def _add_writer(
        self,
        fd: Any,
        callback: Any,
        *args: Any,
        context: contextvars.Context | None = None,
        **more: Any,
    ) -> Any:
        number = fd if isinstance(fd, int) else fd.fileno()
        endpoint = mirrors.get(number)
        if endpoint is None:
            if context is not None:
                more["context"] = context
            return super()._add_writer(fd, callback, *args, **more)
        self._check_closed()
        self._own_ring(StackSocket._borrow(endpoint))
        endpoint.take()
        self._remove_writer(number)
        handle = Handle(callback, args, self, context)
        endpoint.writer = Writer(self, endpoint, handle)
        return handle

    def _remove_writer(self, fd: Any, **more: Any) -> bool:
        endpoint = mirrors.get(fd if isinstance(fd, int) else fd.fileno())
        if endpoint is None:
            return super()._remove_writer(fd, **more)
        writer, endpoint.writer = endpoint.writer, None
        if writer is None or writer.handle.cancelled():
            return False
        writer.cancel()
        return True

    # ---- sock_* ----

    async def _ready_for(self, stack: StackSocket, filters: int) -> None:
        endpoint = stack._ep()
        ring = self._own_ring(stack)
        owner = ring.receivers.get(endpoint.handle)
        if owner is not endpoint:
            if owner is not None:
                raise RuntimeError(f"File descriptor {stack!r} is used by transport {owner!r}")
            endpoint.take()
        await endpoint.wait_for(filters, self)

    async def sock_recv(self, sock: Any, n: int) -> bytes:
        stack = self._check_sock(sock)
        if stack is None:
            return await super().sock_recv(sock, n)
        while True:
            try:
                return stack.recv(n)
            except (BlockingIOError, InterruptedError):
                await self._ready_for(stack, READ)

    async def sock_recv_into(self, sock: Any, buf: Any) -> int:
        stack = self._check_sock(sock)
        if stack is None:
            return await super().sock_recv_into(sock, buf)
        while True:
            try:
                return stack.recv_into(buf)
            except (BlockingIOError, InterruptedError):
                await self._ready_for(stack, READ)

    async def sock_recvfrom(self, sock: Any, bufsize: int) -> Any:
        stack = self._check_sock(sock)
        if stack is None:
            return await super().sock_recvfrom(sock, bufsize)
        while True:
            try:
                return stack.recvfrom(bufsize)
            except (BlockingIOError, InterruptedError):
                await self._ready_for(stack, READ)

    async def sock_recvfrom_into(self, sock: Any, buf: Any, nbytes: int = 0) -> Any:
        stack = self._check_sock(sock)
        if stack is None:
            return await super().sock_recvfrom_into(sock, buf, nbytes)
        while True:
            try:
                return stack.recvfrom_into(buf, nbytes or len(buf))
            except (BlockingIOError, InterruptedError):
                await self._ready_for(stack, READ)

    async def sock_sendall(self, sock: Any, data: Any) -> None:
        stack = self._check_sock(sock)
        if stack is None:
            await super().sock_sendall(sock, data)
            return
        with memoryview(data) as view, view.cast("B") as flat:
            done = 0
            while done < len(flat):
                try:
                    done += stack.send(flat[done:])
                except (BlockingIOError, InterruptedError):
                    await self._ready_for(stack, WRITE)

    async def sock_sendto(self, sock: Any, data: Any, address: Any) -> int:
        stack = self._check_sock(sock)
        if stack is None:
            return await super().sock_sendto(sock, data, address)
        while True:
            try:
                return stack.sendto(data, address)
            except (BlockingIOError, InterruptedError):
                await self._ready_for(stack, WRITE)

    async def sock_accept(self, sock: Any) -> Any:
        stack = self._check_sock(sock)
        if stack is None:
            if not self._handed.to_accept(self, sock):
                return await super().sock_accept(sock)
            return await self.sock_accept(sock)
        kernels = [one for one in followers(sock) if isinstance(one, socket.socket)]
        if kernels:
            return await self._accept_both(stack, kernels[0])
        while True:
            try:
                return stack.accept()
            except (BlockingIOError, InterruptedError):
                await self._ready_for(stack, READ)

    async def _accept_both(self, stack: StackSocket, kernel: socket.socket) -> Any:
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
        """Connects. A fresh kernel TCP socket whose destination is the stack's becomes a stack
        socket, in place."""
        stack = self._check_sock(sock)
        if stack is None and not can_promote(sock):
            await super().sock_connect(sock, address)
            return
        resolved = await self._ensure_resolved(
            address, family=sock.family, type=sock.type, proto=sock.proto, loop=self
        )
        address = resolved[0][4]
        if stack is None:
            if not self._router.on_stack(sock.family, address) or self._handed.bypassed():
                await super().sock_connect(sock, address)
                return
            stack = promote(sock, self._live_ring())
        self._own_ring(stack)
        await self._connect(stack._ep(), address)

    async def _connect(self, endpoint: Endpoint, address: Any) -> None:
        ring = endpoint.open_ring()
        fut: asyncio.Future[None] = self.create_future()
        endpoint.take()
        try:
            ring.connect(endpoint.handle, endpoint.family, address)
        except (BlockingIOError, InterruptedError):
            endpoint.connecting(fut)
        else:
            fut.set_result(None)
        try:
            await fut
        except OSError as exc:
            if isinstance(exc, ConnectionResetError):
                raise
            raise OSError(exc.errno, f"Connect call failed {address}") from None

    async def _sock_sendfile_native(self, sock: Any, file: Any, *args: Any, **more: Any) -> Any:
        if stack_socket(sock) is not None:
            raise asyncio.SendfileNotAvailableError(
                f"syscall sendfile is not available for socket {sock!r} and file {file!r}"
            )
        return await super()._sock_sendfile_native(sock, file, *args, **more)
