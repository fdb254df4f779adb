"""Kernel sockets that have become the stack's.

PromotedSocket is a kernel socket that was fresh when the loop was asked to connect or serve it: its
class is changed in place, its descriptor stays as a placeholder, and all calls go to the stack. A
call that only a kernel socket has (a blocking one, fileno) turns it into a BridgedSocket, in place
again.
"""

import contextlib
import errno
import os
import socket
import warnings
import weakref
from typing import Any, Self

from .._session import carrying
from .._session.address import unset
from .._session.session import Session
from ..errors import error
from .bridge import Link, NotConnected, hand_over, may_leave
from .sockets import StackSocket, default_proto

_TCP_CLOSE = 7  # tcpi_state of a socket that was neither connected nor made to listen


class PromotedSocket(socket.socket):
    """A kernel socket object whose connection is on the stack (see `promote`)."""

    __slots__ = ()

    @property
    def _stack(self) -> StackSocket:
        try:
            return _promoted[self]
        except KeyError:
            raise error(errno.EBADF) from None

    def fileno(self) -> int:
        """The placeholder's number, which polls as the stack socket does; a connection without a
        transport becomes a BridgedSocket first."""
        fd = super().fileno()
        inner = _promoted.get(self)
        if fd >= 0 and inner is not None and not self._leaves(inner):
            inner._ep().stand_in(fd)
        return fd

    def _leaves(self, inner: StackSocket) -> bool:
        endpoint = inner._ep()
        if not may_leave(endpoint):
            return False
        endpoint.open_session().ask(_bridge, self, inner)
        return True

    def _leave(self, what: str) -> None:
        # For a call that only a kernel's socket has.
        if not self._leaves(self._stack):
            raise ValueError(
                f"{what} of a socket that is on the stack and not connected, or a transport's: "
                "stack sockets are non-blocking; use loop.sock_*, asyncio streams, or keep it on "
                "the kernel with routes= (FFLOOP_ROUTES)"
            )

    def getsockname(self) -> Any:
        return self._stack.getsockname()

    def getpeername(self) -> Any:
        return self._stack.getpeername()

    def getsockopt(self, *args: Any) -> Any:
        return self._stack.getsockopt(*args)

    def setsockopt(self, *args: Any) -> None:
        self._stack.setsockopt(*args)

    def setblocking(self, flag: bool, /) -> None:
        if flag:
            self._leave("setblocking(True)")
            socket.socket.setblocking(self, flag)

    def settimeout(self, value: float | None, /) -> None:
        if value != 0:
            self._leave(f"settimeout({value})")
            socket.socket.settimeout(self, value)

    def makefile(self, *args: Any, **kwargs: Any) -> Any:
        self._leave("makefile()")
        return socket.socket.makefile(self, *args, **kwargs)

    def sendfile(self, *args: Any, **kwargs: Any) -> int:
        self._leave("sendfile()")
        return socket.socket.sendfile(self, *args, **kwargs)

    def set_inheritable(self, inheritable: bool) -> None:
        if inheritable:
            self._leave("set_inheritable(True)")
            socket.socket.set_inheritable(self, inheritable)

    def gettimeout(self) -> float:
        return 0.0

    def bind(self, address: Any, /) -> None:
        self._stack.bind(address)

    def listen(self, backlog: int = 128, /) -> None:
        self._stack.listen(backlog)

    def accept(self) -> Any:
        return self._stack.accept()

    def connect(self, address: Any, /) -> None:
        self._stack.connect(address)

    def connect_ex(self, address: Any, /) -> int:
        return self._stack.connect_ex(address)

    def recv(self, *args: Any) -> bytes:
        return self._stack.recv(*args)

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        return self._stack.recv_into(*args, **kwargs)

    def recvfrom(self, *args: Any) -> Any:
        return self._stack.recvfrom(*args)

    def recvfrom_into(self, *args: Any, **kwargs: Any) -> Any:
        return self._stack.recvfrom_into(*args, **kwargs)

    def recvmsg(self, *args: Any) -> Any:
        return self._stack.recvmsg(*args)

    def recvmsg_into(self, *args: Any) -> Any:
        return self._stack.recvmsg_into(*args)

    def send(self, *args: Any) -> int:
        return self._stack.send(*args)

    def sendall(self, *args: Any) -> None:
        self._stack.sendall(*args)

    def sendto(self, *args: Any) -> int:
        return self._stack.sendto(*args)

    def sendmsg(self, *args: Any) -> int:
        return self._stack.sendmsg(*args)

    def shutdown(self, how: int, /) -> None:
        self._stack.shutdown(how)

    def dup(self) -> Any:
        if self._leaves(self._stack):
            return self.dup()
        return self._stack.dup()

    def detach(self) -> int:
        if self._leaves(self._stack):
            return self.detach()
        fd = self._stack.detach()
        _promoted.pop(self, None)
        super().close()
        return fd

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if super().fileno() < 0:
            return
        text = f"unclosed {self!r}"
        self.close()  # first: a warning may be an error
        _warn(text, ResourceWarning, source=self)

    def _real_close(self) -> None:
        inner = _promoted.pop(self, None)
        if inner is not None:
            inner._ep().leave(super().fileno())
            inner.close()
        super()._real_close()  # type: ignore[misc]
        for other in _followers.pop(self, ()):
            other.close()

    def __repr__(self) -> str:
        inner = _promoted.get(self)
        return f"<ffloop promoted {inner!r}>" if inner else super().__repr__()


class BridgedSocket(socket.socket):
    """A kernel socket that a Link connects with the stack. Addresses and options are the
    connection's, all else is the kernel's."""

    __slots__ = ()

    def getsockname(self) -> Any:
        return _links[self].addresses[0]

    def getpeername(self) -> Any:
        super().getpeername()  # raises ENOTCONN, EBADF
        return _links[self].addresses[1]

    def getsockopt(self, level: int, optname: int, buflen: int = 0, /) -> Any:
        if level == socket.SOL_SOCKET and optname not in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            return super().getsockopt(level, optname, buflen)
        return _links[self].getsockopt(level, optname, buflen)

    def setsockopt(self, level: int, optname: int, value: Any, *length: int) -> None:
        super().setsockopt(level, optname, value, *length)
        with contextlib.suppress(NotConnected):
            _links[self].setsockopt(level, optname, bytes(*length) if value is None else value)

    def dup(self) -> Self:
        other = super().dup()
        _links[other] = _links[self]
        return other


def _bridge(sock: PromotedSocket, inner: StackSocket) -> None:
    # In the loop's thread.
    endpoint = inner._ep()
    taken, link = hand_over(endpoint)
    fd = socket.socket.fileno(sock)
    with taken, endpoint.open_session().swapped(fd):
        os.dup2(taken.fileno(), fd, inheritable=os.get_inheritable(fd))
    timeout = socket.socket.gettimeout(sock)
    del _promoted[sock]
    object.__setattr__(sock, "__class__", BridgedSocket)
    _links[sock] = link
    sock.settimeout(timeout)
    inner.close()


def number_of(sock: Any) -> Any:
    """The number of a descriptor or a socket; a PromotedSocket is not bridged by this."""
    return socket.socket.fileno(sock) if type(sock) is PromotedSocket else sock


_links: "weakref.WeakKeyDictionary[socket.socket, Link]" = weakref.WeakKeyDictionary()
_promoted: "weakref.WeakKeyDictionary[socket.socket, StackSocket]" = weakref.WeakKeyDictionary()
_followers: "weakref.WeakKeyDictionary[socket.socket, list[Any]]" = weakref.WeakKeyDictionary()


def stack_socket(sock: Any) -> StackSocket | None:
    """The stack socket that `sock` is, or stands for; None for a kernel socket."""
    kind = type(sock)
    if kind is StackSocket:
        return sock  # type: ignore[no-any-return]
    if kind is PromotedSocket:
        return sock._stack  # type: ignore[no-any-return]
    return None


def can_promote(sock: Any) -> bool:
    """Whether `sock` is a kernel TCP socket that is unused, but perhaps bound."""
    if type(sock) is not socket.socket or inet_family(sock) is None:
        return False
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    except OSError:
        return False
    return info[0] == _TCP_CLOSE


def inet_family(sock: Any, kind: int = socket.SOCK_STREAM) -> int | None:
    """AF_INET or AF_INET6 of a kernel socket of this kind, None for any other object. The kernel is
    asked: objects made of a descriptor often say AF_UNIX (uvicorn --fd does)."""
    try:
        if _option(sock, socket.SO_TYPE) != kind:
            return None
        family = _option(sock, socket.SO_DOMAIN)
    except (OSError, AttributeError):
        return None
    return family if family in (socket.AF_INET, socket.AF_INET6) else None


def _option(sock: Any, name: int) -> int:
    value: int = sock.getsockopt(socket.SOL_SOCKET, name)
    return value


def promote(sock: socket.socket, session: Session) -> StackSocket:
    """Moves a fresh kernel socket (see can_promote) to the stack, in place.

    A local address that it was bound to is bound again on the stack. Raises OSError; StaysOnKernel,
    with nothing changed.
    """
    inner = _twin(sock, session)
    try:
        if local := _bound_to(sock):
            _let_go(sock)
            inner.bind(local)
    except BaseException:
        inner.close()
        raise
    return _become(sock, inner)


def adopt(sock: socket.socket, session: Session, *, share: bool, keep: bool) -> StackSocket:
    """Gives a kernel socket that is to listen (or does), or to receive datagrams, a place on the
    stack instead: in place, at the same address, with the same options.

    share: other adopters may listen there too. keep: the kernel's own socket stays as it is, for
    a stack that is not this kernel; else this process lets go of it, and when the address is still
    taken then (OSError), the socket is closed. Raises StaysOnKernel, with nothing changed.
    """
    inner = _twin(sock, session)
    try:
        if share:
            inner.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if local := _bound_to(sock):
            if not keep:
                _let_go(sock)
            inner.bind(local)
    except BaseException:
        inner.close()
        if not keep:
            sock.close()
        raise
    return _become(sock, inner)


def _twin(sock: socket.socket, session: Session) -> StackSocket:
    # A stack socket with a kernel socket's family and options.
    family, kind = _option(sock, socket.SO_DOMAIN), _option(sock, socket.SO_TYPE)
    inner = StackSocket._open(session, family, kind, sock.proto or default_proto(kind), False)
    try:
        for level, name, value in carrying.carried(sock.fileno(), session.client.stack):
            try:
                inner.setsockopt(level, name, value)
            except OSError as exc:
                carrying.refused(session.client.stack, level, name, exc)
    except BaseException:
        inner.close()
        raise
    return inner


def _bound_to(sock: socket.socket) -> Any:
    local = sock.getsockname()
    return local if local[1] or local[:2] != unset(_option(sock, socket.SO_DOMAIN))[:2] else None


def _let_go(sock: socket.socket) -> None:
    # Of the address: the placeholder becomes a fresh socket with the same number.
    kind = _option(sock, socket.SO_TYPE)
    with socket.socket(_option(sock, socket.SO_DOMAIN), kind) as empty:
        os.dup2(empty.fileno(), sock.fileno(), inheritable=sock.get_inheritable())


def _become(sock: socket.socket, inner: StackSocket) -> StackSocket:
    inner._quiet = True  # the socket object itself warns when it is not closed
    endpoint = inner._ep()
    endpoint.open_session().descriptors[sock.fileno()] = endpoint
    sock.__class__ = PromotedSocket
    _promoted[sock] = inner
    return inner


def close_with(sock: socket.socket, other: Any) -> None:
    """`other` is closed when the adopted socket `sock` is."""
    _followers.setdefault(sock, []).append(other)


def followers(sock: Any) -> list[Any]:
    """What close_with was given for `sock`."""
    return _followers.get(sock, []) if type(sock) is PromotedSocket else []
