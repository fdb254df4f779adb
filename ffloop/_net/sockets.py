"""Sockets on the stack, shaped like socket.socket and always non-blocking.

StackSocket (`ffloop.socket`) is what an application makes itself, and what
`get_extra_info("socket")` shows. PromotedSocket is a kernel socket that was fresh when the loop was
asked to connect it: its class was changed in place, its descriptor stays as a placeholder, and
everything else happens on the stack.
"""

import contextlib
import errno
import os
import socket
import warnings
import weakref
from typing import Any, Self

from .._session import carrying, ownership
from .._session.address import unset
from .._session.binding import READ, Client, error
from .._session.session import Session
from .endpoint import Endpoint

_WHEN_ASKED = -2
_TCP_CLOSE = 7  # tcpi_state of a socket that was neither connected nor made to listen

# MSG_ flags that a socket without blocking calls, SIGPIPE and descriptors in messages heeds by
# itself. MSG_MORE is a hint to TCP (the instance gathers what is sent together), not to UDP.
_HEEDED = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_SEND_FLAGS = _HEEDED | socket.MSG_CONFIRM
_SEND_FLAGS_STREAM = _SEND_FLAGS | socket.MSG_MORE | socket.MSG_EOR
_RECV_FLAGS = _HEEDED | socket.MSG_PEEK | socket.MSG_WAITALL | socket.MSG_CMSG_CLOEXEC


def _allow(flags: int, allowed: int) -> None:
    if rest := flags & ~allowed:
        reason = f"flags {socket.MsgFlag(rest)!r} on a stack socket"
        raise OSError(errno.EOPNOTSUPP, f"{os.strerror(errno.EOPNOTSUPP)}: {reason}")


class StackSocket:
    """A socket on the stack. The constructor's arguments are socket.socket's.

    Methods are socket.socket's own, on a socket that is always non-blocking: an operation that
    cannot go on raises BlockingIOError; await `loop.sock_*` instead. `fileno()` is a descriptor to
    poll with ("data, EOF, a connection or an error waits"), not to read.
    """

    __slots__ = ("__weakref__", "_borrowed", "_endpoint", "_fd", "_quiet")

    def __init__(
        self,
        family: int = -1,
        type: int = -1,
        proto: int = -1,
        fileno: int | None = None,
    ) -> None:
        self._endpoint: Endpoint | None = None
        self._fd = -1  # of a dup(): its own descriptor; _WHEN_ASKED: not made yet
        self._borrowed = False
        self._quiet = False
        if fileno is not None:
            if fileno not in _detached:
                raise OSError(errno.EBADF, "not what detach() of a stack socket returned", fileno)
            self._endpoint = _detached.pop(fileno)
            os.close(fileno)
            return
        family = socket.AF_INET if family == -1 else family
        kind = (socket.SOCK_STREAM if type == -1 else type) & 0xF
        if family not in (socket.AF_INET, socket.AF_INET6):
            raise error(errno.EAFNOSUPPORT)
        proto = _default_proto(kind) if proto in (-1, 0) else proto
        session = ownership.current()
        handle = session.open_socket(family, kind, proto)
        self._endpoint = Endpoint(session, handle, family, kind, proto)
        self._endpoint.take()

    @classmethod
    def _open(cls, session: Session, family: int, kind: int, proto: int, nodelay: bool) -> Self:
        handle = session.open_socket(family, kind, proto, nodelay)
        endpoint = Endpoint(session, handle, family, kind, proto)
        endpoint.take()
        return cls._own(endpoint)

    @classmethod
    def _own(cls, endpoint: Endpoint) -> Self:
        self = cls.__new__(cls)
        self._endpoint = endpoint
        self._fd = -1
        self._borrowed = self._quiet = False
        return self

    @classmethod
    def _borrow(cls, endpoint: Endpoint) -> Self:
        # A transport's view of its endpoint: holds no reference, closes nothing.
        self = cls._own(endpoint)
        self._borrowed = True
        return self

    def _live(self) -> tuple[Client, int]:
        endpoint = self._ep()
        return endpoint.client(), endpoint.handle

    def _ep(self) -> Endpoint:
        if self._endpoint is None:
            raise error(errno.EBADF)
        return self._endpoint

    # ---- identity ----

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        # For `isinstance(sock, socket.socket)`, which frameworks ask of transports' sockets.
        return socket.socket

    @property
    def family(self) -> socket.AddressFamily:
        """AF_INET or AF_INET6."""
        return socket.AddressFamily(self._endpoint.family if self._endpoint else socket.AF_INET)

    @property
    def type(self) -> socket.SocketKind:
        """SOCK_STREAM or SOCK_DGRAM."""
        return socket.SocketKind(self._endpoint.kind if self._endpoint else socket.SOCK_STREAM)

    @property
    def proto(self) -> int:
        """The protocol number."""
        return self._endpoint.proto if self._endpoint else 0

    @property
    def timeout(self) -> float:
        """As socket.socket.timeout: seconds, 0.0 or None."""
        return 0.0

    def fileno(self) -> int:
        """A descriptor whose readiness mirrors the socket's; -1 when closed."""
        endpoint = self._endpoint
        if endpoint is None:
            return -1
        if self._fd == _WHEN_ASKED:
            self._fd = endpoint.open_session().ask(endpoint.dup_descriptor)
        return endpoint.fileno() if self._fd < 0 else self._fd

    def getsockname(self) -> Any:
        """The local address, a tuple as socket.socket's."""
        endpoint = self._ep()
        if endpoint.listen_backlog is None:  # a listener keeps its name while the instance is away
            endpoint.check()
        return endpoint.sockname()

    def getpeername(self) -> Any:
        """The peer's address. Raises OSError (ENOTCONN) without one."""
        endpoint = self._ep()
        endpoint.check()
        peer = endpoint.peername()
        if peer is None:
            endpoint.open_session().ask(endpoint.learn)
            peer = endpoint.peername()
        if peer is None:
            raise error(errno.ENOTCONN)
        return peer

    def __repr__(self) -> str:
        if self._endpoint is None or not self._endpoint.live:
            return f"<ffloop.socket [closed] family={self.family!s}, type={self.type!s}>"
        local, peer = self._endpoint.known()
        names = "".join(
            f", {name}={value}" for name, value in (("laddr", local), ("raddr", peer)) if value
        )
        return (
            f"<ffloop.socket handle={self._endpoint.handle}, family={self.family!s}, "
            f"type={self.type!s}, proto={self.proto}{names}>"
        )

    # ---- options ----

    def getsockopt(self, level: int, optname: int, buflen: int = 0, /) -> int | bytes:
        """An option: a number, or with a length its bytes. Raises OSError where it has none."""
        endpoint = self._ep()
        endpoint.check()
        if level == socket.SOL_SOCKET and not buflen:
            if optname == socket.SO_TYPE:
                return int(self.type)
            if optname == socket.SO_DOMAIN:
                return int(self.family)
            if optname == socket.SO_PROTOCOL:
                return self.proto
            if optname == socket.SO_ACCEPTCONN:
                return int(endpoint.listen_backlog is not None)
        return endpoint.open_session().ask(self._getsockopt, level, optname, buflen)

    def _getsockopt(self, level: int, optname: int, buflen: int) -> int | bytes:
        client, handle = self._live()
        return client.getsockopt(handle, level, optname, buflen)

    def setsockopt(
        self, level: int, optname: int, value: Any, optlen: int | None = None, /
    ) -> None:
        """Sets an option. Raises OSError where the stack cannot."""
        client, handle = self._live()
        endpoint = self._ep()
        if value is None:
            value = bytes(optlen or 0)
        client.setsockopt(handle, level, optname, value)
        if not self._borrowed:
            if endpoint.options is None:
                endpoint.options = []
            endpoint.options.append((level, optname, value))

    def setblocking(self, flag: bool) -> None:
        """Calls never wait: raises ValueError for True."""
        if flag:
            raise ValueError("stack sockets are non-blocking: await loop.sock_* instead")

    def settimeout(self, value: float | None) -> None:
        """Calls never wait: raises ValueError for anything but 0."""
        if value != 0:
            raise ValueError("stack sockets are non-blocking: use asyncio.timeout()")

    def gettimeout(self) -> float:
        """What settimeout has set."""
        return 0.0

    def getblocking(self) -> bool:
        """Whether calls wait."""
        return False

    def get_inheritable(self) -> bool:
        """As socket.socket's."""
        return False

    def set_inheritable(self, inheritable: bool) -> None:
        """As socket.socket's."""
        if inheritable:
            raise error(errno.EOPNOTSUPP)

    # ---- servers ----

    def bind(self, address: Any, /) -> None:
        """Binds to a local address. Raises OSError (EADDRINUSE, EADDRNOTAVAIL, ...)."""
        client, handle = self._live()
        endpoint = self._ep()
        client.bind(handle, endpoint.family, address)
        endpoint.learn()

    def listen(self, backlog: int = 128, /) -> None:
        """Listens, with room for `backlog` connections."""
        client, handle = self._live()
        endpoint = self._ep()
        client.listen(handle, max(backlog, 0), endpoint.nodelay)
        endpoint.listen_backlog = backlog
        endpoint.learn()

    def accept(self) -> tuple["StackSocket", Any]:
        """A connection and its address. Raises BlockingIOError while there is none."""
        client, handle = self._live()
        listener = self._ep()
        new, names = client.accept(handle)
        endpoint = Endpoint(
            listener.open_session(), new, listener.family, listener.kind, listener.proto, names
        )
        endpoint.take()
        return StackSocket._own(endpoint), endpoint.peername()

    # ---- connections ----

    def connect(self, address: Any, /) -> None:
        """Starts it and raises BlockingIOError; await loop.sock_connect instead."""
        client, handle = self._live()
        client.connect(handle, self._ep().family, address)

    def connect_ex(self, address: Any, /) -> int:
        """As connect; returns an errno in place of an exception."""
        try:
            self.connect(address)
        except OSError as exc:
            return exc.errno or errno.EIO
        return 0

    # (recv and send take flags as socket.socket's do: EOPNOTSUPP for what would change a call and
    # is not there, such as MSG_OOB.)

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """At most so many bytes; b"" at the end of the stream. Raises BlockingIOError."""
        client, handle = self._live()
        _allow(flags, _RECV_FLAGS)
        return client.recv(handle, bufsize, flags)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """As recv, into a buffer: how many bytes."""
        client, handle = self._live()
        _allow(flags, _RECV_FLAGS)
        return client.recv_into(handle, buffer, nbytes, flags)

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        """As recv, with the sender's address."""
        client, handle = self._live()
        _allow(flags, _RECV_FLAGS)
        data, source = client.recvfrom(handle, bufsize, flags)
        return data, None if self.type == socket.SOCK_STREAM else source

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """As recv_into, with the sender's address."""
        client, handle = self._live()
        _allow(flags, _RECV_FLAGS)
        size, source = client.recvfrom_into(handle, buffer, nbytes, flags)
        return size, None if self.type == socket.SOCK_STREAM else source

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[bytes, list[Any], int, Any]:
        """As socket.socket's; there is no ancillary data."""
        client, handle = self._live()
        _allow(flags, _RECV_FLAGS)
        data, told, source = client.recvmsg(handle, bufsize, flags)
        return data, [], told, None if self.type == socket.SOCK_STREAM else source

    def recvmsg_into(
        self, buffers: Any, ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[int, list[Any], int, Any]:
        """As recv_into, into several buffers; (bytes, ancillary data, flags, address)."""
        with contextlib.ExitStack() as held:
            views = [held.enter_context(memoryview(one)) for one in buffers]
            targets = [held.enter_context(view.cast("B")) for view in views]
            if any(target.readonly for target in targets):
                raise TypeError("recvmsg_into() argument 1 must be an iterable of writable buffers")
            data, none, told, source = self.recvmsg(sum(map(len, targets)), ancbufsize, flags)
            done = 0
            for target in targets:
                part = data[done : done + len(target)]
                target[: len(part)] = part
                done += len(part)
        return len(data), none, told, source

    def send(self, data: Any, flags: int = 0, /) -> int:
        """How many bytes of `data` were taken. Raises BlockingIOError while there is no room."""
        client, handle = self._live()
        if self.type == socket.SOCK_DGRAM:
            _allow(flags, _SEND_FLAGS)
            return client.sendto(handle, self._ep().family, data, None)
        _allow(flags, _SEND_FLAGS_STREAM)
        return client.send(handle, data)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """As a non-blocking socket's: BlockingIOError after a part; await loop.sock_sendall."""
        if self.type == socket.SOCK_DGRAM:
            self.send(data, flags)  # whole, or not at all
            return
        with memoryview(data) as view, view.cast("B") as rest:
            done = self.send(rest, flags)
            while done < len(rest):
                done += self.send(rest[done:], flags)

    def sendto(self, data: Any, *args: Any) -> int:
        """sendto(data, address) or sendto(data, flags, address)."""
        if not 1 <= len(args) <= 2:
            raise TypeError("sendto() takes 2 or 3 arguments")
        client, handle = self._live()
        stream = self.type == socket.SOCK_STREAM
        if len(args) == 2:
            _allow(args[0], _SEND_FLAGS_STREAM if stream else _SEND_FLAGS)
        return client.sendto(handle, self._ep().family, data, args[-1])

    def sendmsg(
        self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /
    ) -> int:
        """As send, from several buffers."""
        if ancdata:
            raise error(errno.EOPNOTSUPP)
        data = b"".join(buffers)
        return self.send(data, flags) if address is None else self.sendto(data, flags, address)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Raises ValueError, as every non-blocking socket's."""
        raise ValueError("non-blocking sockets are not supported: await loop.sock_sendfile")

    def makefile(self, *args: Any, **kwargs: Any) -> Any:
        """Raises ValueError: a file's reads and writes would have to block."""
        raise ValueError("stack sockets are non-blocking: use asyncio.open_connection(sock=...)")

    def shutdown(self, how: int, /) -> None:
        """Ends reading, writing or both."""
        client, handle = self._live()
        client.shutdown(handle, how)

    # ---- references ----

    def dup(self) -> "StackSocket":
        """Another reference to the same socket; it is closed when the last one is."""
        endpoint = self._ep()
        endpoint.check()
        endpoint.refs += 1
        other = StackSocket._own(endpoint)
        other._fd = _WHEN_ASKED
        return other

    def detach(self) -> int:
        """Gives the socket up without closing it; `ffloop.socket(fileno=...)` takes it again."""
        endpoint = self._ep()
        fd = os.dup(self.fileno())
        if self._borrowed:
            endpoint.refs += 1
        self._endpoint = None
        _detached[fd] = endpoint
        return fd

    def close(self) -> None:
        """Closes it. Idempotent."""
        endpoint = self._endpoint
        if endpoint is None:
            return
        if self._borrowed:
            self._endpoint = None
            return
        if endpoint.passed_on(self.close):
            return
        session = endpoint.session
        self._close_fd(endpoint)
        endpoint.release()
        self._endpoint = None
        if session is not None and endpoint.session is None and endpoint.listen_backlog is not None:
            # When this returns the port refuses, as a closed kernel listener's does.
            with contextlib.suppress(OSError):
                session.client.ping()

    def _close_fd(self, endpoint: Endpoint) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            endpoint.leave(fd)
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def __getstate__(self) -> None:
        raise TypeError("cannot pickle a stack socket")

    def __del__(self, _warn: Any = warnings.warn) -> None:
        endpoint = getattr(self, "_endpoint", None)
        if endpoint is None or self._borrowed:
            return
        live = endpoint.live
        self._close_fd(endpoint)
        endpoint.abandon()  # before that: a warning may be an error
        if not self._quiet and live:
            _warn(f"unclosed {self!r}", ResourceWarning, source=self)


_detached: dict[int, Endpoint] = {}


def _default_proto(kind: int) -> int:
    return socket.IPPROTO_TCP if kind == socket.SOCK_STREAM else socket.IPPROTO_UDP


# ---- promotion -------------------------------------------------------------------------------


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
        """The placeholder's number, made to mirror the stack socket's readiness when asked."""
        fd = super().fileno()
        inner = _promoted.get(self)
        if fd >= 0 and inner is not None:
            inner._ep().stand_in(fd)
        return fd

    def getsockname(self) -> Any:
        return self._stack.getsockname()

    def getpeername(self) -> Any:
        return self._stack.getpeername()

    def getsockopt(self, *args: Any) -> Any:
        return self._stack.getsockopt(*args)

    def setsockopt(self, *args: Any) -> None:
        self._stack.setsockopt(*args)

    def setblocking(self, flag: bool, /) -> None:
        self._stack.setblocking(flag)

    def settimeout(self, value: float | None, /) -> None:
        self._stack.settimeout(value)

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
        return self._stack.dup()

    def detach(self) -> int:
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
    """Whether `sock` is a kernel TCP socket that nothing happened to yet, but perhaps bind."""
    if type(sock) is not socket.socket or inet_family(sock) is None:
        return False
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    except OSError:
        return False
    return info[0] == _TCP_CLOSE


def inet_family(sock: Any, kind: int = socket.SOCK_STREAM) -> int | None:
    """AF_INET or AF_INET6 of a kernel socket of this kind, None for any other. The kernel is asked:
    objects made of a descriptor often say AF_UNIX (uvicorn --fd does)."""
    try:
        if _option(sock, socket.SO_TYPE) != kind:
            return None
        family = _option(sock, socket.SO_DOMAIN)
    except OSError:
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
    inner = StackSocket._open(session, family, kind, sock.proto or _default_proto(kind), False)
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


__all__ = [
    "READ",
    "PromotedSocket",
    "StackSocket",
    "adopt",
    "can_promote",
    "close_with",
    "followers",
    "inet_family",
    "promote",
    "stack_socket",
]
