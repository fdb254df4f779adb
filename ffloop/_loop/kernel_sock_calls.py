"""loop.sock_* for kernel sockets: arguments, answers and errors are asyncio's.

Each makes the non-blocking call again whenever the socket becomes ready, in the coroutine itself: a
cancelled call has taken no data.
"""

from collections.abc import Callable
from typing import Any

from .asyncio_private import SelectorLoop, check_no_ssl

_NOT_NOW = (BlockingIOError, InterruptedError)


class KernelSockCalls(SelectorLoop):
    """A base class of Loop."""

    def _check_plain(self, sock: Any) -> None:
        check_no_ssl(sock)
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")

    async def _until_ready(self, wait: Callable[[int], Any], sock: Any) -> None:
        # wait: _wait_readable or _wait_writable
        fd = sock.fileno()
        self._ensure_fd_no_transport(fd)
        waiter = wait(fd)
        try:
            await waiter
        except BaseException:
            self._give_up(fd, waiter)
            raise

    async def sock_recv(self, sock: Any, n: int) -> bytes:
        """As asyncio's."""
        self._check_plain(sock)
        while True:
            try:
                return sock.recv(n)  # type: ignore[no-any-return]
            except _NOT_NOW:
                await self._until_ready(self._wait_readable, sock)

    async def sock_recv_into(self, sock: Any, buf: Any) -> int:
        """As asyncio's."""
        self._check_plain(sock)
        while True:
            try:
                return sock.recv_into(buf)  # type: ignore[no-any-return]
            except _NOT_NOW:
                await self._until_ready(self._wait_readable, sock)

    async def sock_recvfrom(self, sock: Any, bufsize: int) -> tuple[bytes, Any]:
        """As asyncio's."""
        self._check_plain(sock)
        while True:
            try:
                return sock.recvfrom(bufsize)  # type: ignore[no-any-return]
            except _NOT_NOW:
                await self._until_ready(self._wait_readable, sock)

    async def sock_recvfrom_into(self, sock: Any, buf: Any, nbytes: int = 0) -> tuple[int, Any]:
        """As asyncio's."""
        self._check_plain(sock)
        while True:
            try:
                return sock.recvfrom_into(buf, nbytes or len(buf))  # type: ignore[no-any-return]
            except _NOT_NOW:
                await self._until_ready(self._wait_readable, sock)

    async def sock_sendall(self, sock: Any, data: Any) -> None:
        """As asyncio's."""
        self._check_plain(sock)
        try:
            sent = sock.send(data)
        except _NOT_NOW:
            sent = 0
        if sent == len(data):
            return
        with memoryview(data) as view, view.cast("B") as flat:
            while sent < len(flat):
                await self._until_ready(self._wait_writable, sock)
                try:
                    sent += sock.send(flat[sent:])
                except _NOT_NOW:
                    pass

    async def sock_sendto(self, sock: Any, data: Any, address: Any) -> int:
        """As asyncio's."""
        self._check_plain(sock)
        while True:
            try:
                return sock.sendto(data, address)  # type: ignore[no-any-return]
            except _NOT_NOW:
                await self._until_ready(self._wait_writable, sock)

    async def sock_accept(self, sock: Any) -> tuple[Any, Any]:
        """As asyncio's."""
        self._check_plain(sock)
        while True:
            try:
                connection, peer = sock.accept()
            except _NOT_NOW:
                await self._until_ready(self._wait_readable, sock)
            else:
                connection.setblocking(False)
                return connection, peer
