"""A stack connection for code that wants a kernel socket: blocking calls, select(), TLS, a number.

That code gets one end of a TCP pair over the kernel's loopback; a Link has the other end. A thread
with a session of its own takes the connection over (by a ticket, as a forked child does) and moves
bytes, ends and resets both ways, independently of the loop and its life. There is one thread per
instance, while it has links.
"""

import concurrent.futures
import contextlib
import errno
import os
import queue
import select
import socket
import struct
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from .._session.binding import Client
from .._session.log import log
from .._session.selector import Selector
from .._session.session import Session
from .endpoint import Endpoint

_CHUNK = 64 * 1024  # bytes moved at once
_ROUNDS = 16  # of those in one iteration, then the other links' turn
RESET_ON_CLOSE = struct.pack("=ii", 1, 0)  # struct linger: close() resets
_ALIVE_S = 30  # seconds without a byte, then the kernel asks whether the other end is still there

_lock = threading.Lock()
_bridges: dict[tuple[str, int], "_Bridge"] = {}  # by instance: path, pid


class NotConnected(OSError):
    """The connection is over."""


class _Way:
    """One direction of a Link. `full`: bytes are left that found no room."""

    def __init__(
        self, recv: Callable[[int], bytes], send: Callable[[bytes], int], end: Callable[[], Any]
    ) -> None:
        self._recv, self._send, self._end = recv, send, end
        self._left = b""
        self.ended = self.full = False

    def pump(self) -> None:
        """Moves bytes while it can, and the end."""
        self.full = False
        for _ in range(_ROUNDS):
            if not self._left and not self.ended:
                try:
                    self._left = self._recv(_CHUNK)
                except (BlockingIOError, InterruptedError):
                    return
                if not self._left:
                    self.ended = True
                    self._end()
            if not self._left:
                return
            try:
                self._left = self._left[self._send(self._left) :]
            except (BlockingIOError, InterruptedError):
                break
        self.full = bool(self._left)


class Link:
    """One connection; an end that cannot go on is polled."""

    def __init__(
        self,
        bridge: "_Bridge",
        endpoint: Endpoint,
        kernel: socket.socket,
        addresses: tuple[Any, Any],
    ) -> None:
        self.bridge = bridge
        self.endpoint = endpoint
        self.addresses = addresses
        self.remote = kernel.getpeername()
        self._kernel = kernel
        self.fds = kernel.fileno(), endpoint.fileno()
        call = self._call
        self._inward = _Way(call("recv"), kernel.send, partial(kernel.shutdown, socket.SHUT_WR))
        self._outward = _Way(kernel.recv, call("send"), partial(call("shutdown"), socket.SHUT_WR))

    def _call(self, name: str) -> Callable[..., Any]:
        # That call of the client, on the endpoint's handle.
        endpoint = self.endpoint
        return lambda *args: getattr(endpoint.client(), name)(endpoint.handle, *args)

    def forked(self) -> None:
        """Called in a forked child, which lacks the thread."""
        self._kernel.close()

    def pump(self, fd: int = -1, events: int = 0) -> bool:
        """Moves bytes both ways while it can; fd has these events. False: the connection is
        over."""
        ways = self._inward, self._outward
        try:
            for way in ways:
                way.pump()
        except OSError:
            self._end(failed=True)
            return False
        if all(way.ended and not way.full for way in ways):
            self._end(failed=False)
            return False
        for each, to, of in zip(self.fds, ways, reversed(ways), strict=True):
            reads, writes, read = not (of.ended or of.full), to.full, of.ended and not of.full
            if each == fd and read and events & select.EPOLLHUP:  # a reset after the end
                self._end(failed=True)
                return False
            asks = reads * select.EPOLLIN | writes * select.EPOLLOUT
            if read and not (each == fd and events & select.EPOLLERR):  # else what there is stays
                asks |= select.EPOLLERR
            self.bridge.ready.set(each, asks)
        return True

    def _end(self, *, failed: bool) -> None:
        for fd in self.fds:
            with contextlib.suppress(OSError):
                self.bridge.ready.set(fd, 0)
        if failed:  # at either end: the other one is to see it
            with contextlib.suppress(OSError):
                self._kernel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._kernel.close()
        self.endpoint.release(abort=failed)

    # ---- for the socket object, in any thread ----

    def getsockopt(self, *args: Any) -> int | bytes:
        value: int | bytes = self.bridge.do(partial(self._call("getsockopt"), *args))
        return value

    def setsockopt(self, *args: Any) -> None:
        self.bridge.do(partial(self._call("setsockopt"), *args))


class _Bridge:
    """The thread of one instance."""

    def __init__(self, client: Client) -> None:
        self.key = client.path, client.instance_pid
        self.ready = Selector()
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._links: dict[int, Link] = {}  # by either descriptor
        self.waiting = 0  # links that are on their way here; under _lock
        threading.Thread(
            target=self._run, args=(client,), name="ffloop-bridge", daemon=True
        ).start()

    def do(self, call: Callable[[], Any]) -> Any:
        """Runs call() in the thread, which never blocks. Returns its result."""
        answer: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def job() -> None:
            try:
                answer.set_result(call())
            except BaseException as exc:
                answer.set_exception(exc)

        with _lock:
            if _bridges.get(self.key) is not self:
                raise NotConnected(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
            self._jobs.put(job)
            os.eventfd_write(self._wake, 1)
        return answer.result()

    def take(self, ticket: Any, of: Endpoint, kernel: socket.socket) -> Link:
        """Imports the connection `of` from another session, and serves it."""
        handle = self._session.client.take(ticket, of.handle, of.family, of.kind, of.proto)
        endpoint = Endpoint(self._session, handle, of.family, of.kind, of.proto)
        try:
            endpoint.take()
            link = Link(self, endpoint, kernel, of.known())
        except BaseException:
            endpoint.release(abort=True)
            raise
        for fd in link.fds:
            self._links[fd] = link
        self._pump(link)  # which asks for what the peer has sent
        self._session.client.ping()
        self._pump(link)  # what had come is there when its user gets it
        return link

    def links(self) -> list[Link]:
        return list(self._links.values())

    def forked(self) -> None:
        for link in self._links.values():
            link.forked()

    def _pump(self, link: Link, fd: int = -1, events: int = 0) -> None:
        if link.fds[0] in self._links and not link.pump(fd, events):
            for fd in link.fds:
                del self._links[fd]

    def _run(self, client: Client) -> None:
        self._session = Session(client)
        self.ready.set(self._wake, select.EPOLLIN)
        while not self._over():
            try:
                self._once()
            except Exception:
                log.exception("the bridge to %s", self.key[0])
        self.ready.close()
        os.close(self._wake)
        self._session.close()

    def _once(self) -> None:
        for fd, events in self.ready.poll(None, 64):
            if fd == self._wake:
                os.eventfd_read(self._wake)
                while not self._jobs.empty():
                    self._jobs.get()()
            elif (link := self._links.get(fd)) is not None:
                self._pump(link, fd, events)

    def _over(self) -> bool:
        with _lock:
            if self._links or self.waiting or not self._jobs.empty():
                return False
            return _bridges.pop(self.key, None) is not None


def _after_fork() -> None:
    for bridge in _bridges.values():
        bridge.forked()
    _bridges.clear()


os.register_at_fork(after_in_child=_after_fork)


def _with_room(client: Client) -> "_Bridge":
    # The bridge to that client's instance, which stays until `waiting` is given back.
    key = client.path, client.instance_pid
    with _lock:
        bridge = _bridges.get(key)
        if bridge is None:
            bridge = _bridges[key] = _Bridge(Client(client.path, client.config))
        bridge.waiting += 1
    return bridge


def _pair() -> tuple[socket.socket, socket.socket]:
    # As socket.socketpair() where there is no AF_UNIX: nobody else's connection is taken for ours.
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        theirs = socket.create_connection(listener.getsockname())
        while True:
            mine, peer = listener.accept()
            if peer == theirs.getsockname():
                break
            mine.close()
    for end in (mine, theirs):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    mine.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    mine.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _ALIVE_S)
    mine.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _ALIVE_S)
    mine.setblocking(False)
    return mine, theirs


def may_leave(endpoint: Endpoint) -> bool:
    """Whether it is a connection without a transport, whose instance runs while this thread
    waits."""
    if not endpoint.live or endpoint.kind != socket.SOCK_STREAM or endpoint.peername() is None:
        return False
    if endpoint.open_session().direct:
        return False
    receiver = endpoint.open_session().receivers.get(endpoint.handle)
    return receiver is endpoint


def bridged(address: Any) -> bool:
    """Whether a kernel socket with this name is an end that hand_over returned."""
    with _lock:
        links = [link for bridge in _bridges.values() for link in bridge.links()]
    return any(link.remote == address for link in links)


def hand_over(endpoint: Endpoint) -> tuple[socket.socket, Link]:
    """Takes a connection out of its session. Returns the kernel socket that its user gets in its
    place. Waits for the instance. The caller releases the endpoint. Raises OSError, with the
    connection unchanged.
    """
    client = endpoint.client()
    endpoint.sockname()  # is known from here on
    bridge = _with_room(client)
    try:
        mine, theirs = _pair()
        try:
            with client.ticket() as ticket:
                client.give(endpoint.handle, ticket)
                link = bridge.do(lambda: bridge.take(ticket, endpoint, mine))
        except BaseException:
            mine.close()
            theirs.close()
            raise
    finally:
        with _lock:
            bridge.waiting -= 1
    log.info("a connection with %s leaves the loop for a kernel socket", link.addresses[1])
    return theirs, link
