"""StackSocket (`ffloop.socket`): a socket on the stack with socket.socket's methods, always
non-blocking. Applications make it, and `get_extra_info("socket")` returns it.
"""

import contextlib
import errno
import operator
import os
import socket
import warnings
from typing import Any, Self

from .._session import ownership
from .._session.binding import PEER, Client
from .._session.carrying import lasting
from .._session.session import Session
from ..errors import error
from .bridge import hand_over, may_leave
from .control import build, parse
from .endpoint import Endpoint

_WHEN_ASKED = -2
_OPTION_MAX = 1024  # bytes: as socket.socket.getsockopt's
# MSG_ flags that a socket without blocking calls, SIGPIPE and descriptors in messages heeds by
# itself. MSG_MORE is a hint to TCP (the instance gathers what is sent together), not to UDP.
_HEEDED = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_ZEROCOPY = 0x4000000  # MSG_ZEROCOPY, which Python has no name for: copies, and says so
_SEND_FLAGS = _HEEDED | socket.MSG_CONFIRM | _ZEROCOPY
_SEND_FLAGS_STREAM = _SEND_FLAGS | socket.MSG_MORE | socket.MSG_EOR
_RECV_FLAGS = (
    _HEEDED | socket.MSG_PEEK | socket.MSG_WAITALL | socket.MSG_CMSG_CLOEXEC | socket.MSG_ERRQUEUE
)


def _allow(flags: int, allowed: int) -> None:
    if rest := flags & ~allowed:
        reason = f"flags {socket.MsgFlag(rest)!r} on a stack socket"
        raise OSError(errno.EOPNOTSUPP, f"{os.strerror(errno.EOPNOTSUPP)}: {reason}")


class StackSocket:
    """A socket on the stack. The constructor's arguments are socket.socket's.

    Methods are socket.socket's, on a socket that is always non-blocking: a call that would wait
    raises BlockingIOError; await `loop.sock_*` instead. They raise OSError as socket.socket's do,
    ConnectionResetError also where the instance has gone. `fileno()` is a descriptor for poll only:
    it is readable while data, the end, a connection or an error waits, of which the loop learns, or
    a FFSelector, a Kqueue or the next call where there is no loop.
    """

    __slots__ = ("__weakref__", "_borrowed", "_endpoint", "_fd", "_quiet")

    def __new__(
        cls, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None
    ) -> Any:
        """In direct mode: the kernel's, a socket.socket, non-blocking."""
        if not ownership.is_direct():
            return super().__new__(cls)
        sock = socket.socket(family, type, proto, fileno)
        sock.setblocking(False)
        return sock

    def __init__(
        self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None
    ) -> None:
        self._endpoint: Endpoint | None = None
        self._fd = -1  # of a dup(): its own descriptor; _WHEN_ASKED: not made yet
        self._borrowed = False
        self._quiet = False
        if fileno is not None:
            self._endpoint = Endpoint.detached(fileno)
            return
        family = socket.AF_INET if family == -1 else family
        kind = (socket.SOCK_STREAM if type == -1 else type) & 0xF
        if family not in (socket.AF_INET, socket.AF_INET6):
            raise error(errno.EAFNOSUPPORT)
        proto = default_proto(kind) if proto in (-1, 0) else proto
        self._endpoint = Endpoint.open(ownership.current(), family, kind, proto)

    @classmethod
    def _open(cls, session: Session, family: int, kind: int, proto: int, nodelay: bool) -> Self:
        return cls._own(Endpoint.open(session, family, kind, proto, nodelay))

    @classmethod
    def _own(cls, endpoint: Endpoint) -> Self:
        self = object.__new__(cls)
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

    def _looked(self) -> tuple[Client, int]:
        # Nothing is read ahead of a socket that was never read: its first call waits for the answer
        # whether something has come.
        client, handle = self._live()
        client.look(handle)
        return client, handle

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
        """As socket.socket.timeout: 0.0, since no call waits."""
        return 0.0

    def fileno(self) -> int:
        """A descriptor that polls readable as the socket does; -1 when closed."""
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
        addresses = "".join(
            f", {name}={value}" for name, value in (("laddr", local), ("raddr", peer)) if value
        )
        return (
            f"<ffloop.socket handle={self._endpoint.handle}, family={self.family!s}, "
            f"type={self.type!s}, proto={self.proto}{addresses}>"
        )

    # ---- options ----

    def getsockopt(self, level: int, optname: int, buflen: int = 0, /) -> int | bytes:
        """An option's value: an int, or `buflen` bytes at most. Raises OSError where the stack has
        no such option."""
        endpoint = self._ep()
        endpoint.check()
        if not 0 <= buflen <= _OPTION_MAX:
            raise OSError("getsockopt buflen out of range")
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
            endpoint.options.append((level, optname, lasting(level, optname, value)))

    def setblocking(self, flag: bool) -> None:
        """Calls never wait: raises ValueError for True."""
        if flag:
            raise ValueError("stack sockets are non-blocking: await loop.sock_* instead")

    def settimeout(self, value: float | None) -> None:
        """Calls never wait: raises ValueError for anything but 0."""
        if value != 0:
            raise ValueError("stack sockets are non-blocking: use asyncio.timeout()")

    def gettimeout(self) -> float:
        """As socket.socket.gettimeout: 0.0, since no call waits."""
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
        client.listen(handle, max(operator.index(backlog), 0), endpoint.nodelay)
        endpoint.listen_backlog = backlog
        endpoint.learn()

    def accept(self) -> tuple["StackSocket", Any]:
        """(connection, address): a StackSocket and the remote address. Raises BlockingIOError while
        there is none."""
        client, handle = self._looked()
        listener = self._ep()
        new, addresses = client.accept(handle)
        endpoint = Endpoint(
            listener.open_session(), new, listener.family, listener.kind, listener.proto, addresses
        )
        endpoint.take()
        return StackSocket._own(endpoint), endpoint.peername()

    # ---- connections ----

    def connect(self, address: Any, /) -> None:
        """Starts connecting and raises BlockingIOError; await loop.sock_connect instead. A datagram
        socket is connected when it returns."""
        client, handle = self._live()
        endpoint = self._ep()
        if self.type == socket.SOCK_DGRAM:
            client.connect_now(handle, endpoint.family, address)
            endpoint.learn()
        else:
            client.connect(handle, endpoint.family, address)

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
        """The next bytes, `bufsize` at most; b"" at the end of the stream. Raises
        BlockingIOError."""
        if bufsize == 0:  # socket.socket asks the kernel for nothing
            return b""
        client, handle = self._looked()
        _allow(flags, _RECV_FLAGS)
        return client.recv(handle, bufsize, flags)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """As recv, into a writable buffer. Returns the number of bytes."""
        if not nbytes and not memoryview(buffer).nbytes:
            return 0
        client, handle = self._looked()
        _allow(flags, _RECV_FLAGS)
        return client.recv_into(handle, buffer, nbytes, flags)

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        """(data, address): as recv, and the sender's address."""
        client, handle = self._looked()
        _allow(flags, _RECV_FLAGS)
        data, source = client.recvfrom(handle, bufsize, flags)
        return data, None if self.type == socket.SOCK_STREAM else source

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """(number of bytes, address): as recv_into, and the sender's address."""
        client, handle = self._looked()
        _allow(flags, _RECV_FLAGS)
        size, source = client.recvfrom_into(handle, buffer, nbytes, flags)
        return size, None if self.type == socket.SOCK_STREAM else source

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[bytes, list[Any], int, Any]:
        """As socket.socket's."""
        if ancbufsize < 0:
            raise ValueError("invalid ancillary data buffer length")
        client, handle = self._looked()
        _allow(flags, _RECV_FLAGS)
        data, control, told, source = client.recvmsg(handle, bufsize, flags)
        messages, whole = parse(control, ancbufsize)
        if not whole:
            told |= socket.MSG_CTRUNC
        return data, messages, told, None if self.type == socket.SOCK_STREAM else source

    def recvmsg_into(
        self, buffers: Any, ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[int, list[Any], int, Any]:
        """As recv_into, into several buffers: (number of bytes, ancillary data, flags, address)."""
        with contextlib.ExitStack() as held:
            views = [held.enter_context(memoryview(one)) for one in buffers]
            targets = [held.enter_context(view.cast("B")) for view in views]
            if any(target.readonly for target in targets):
                raise TypeError("recvmsg_into() argument 1 must be an iterable of writable buffers")
            data, messages, told, source = self.recvmsg(sum(map(len, targets)), ancbufsize, flags)
            done = 0
            for target in targets:
                part = data[done : done + len(target)]
                target[: len(part)] = part
                done += len(part)
        return len(data), messages, told, source

    def send(self, data: Any, flags: int = 0, /) -> int:
        """Returns the number of bytes of `data` that were taken. Raises BlockingIOError for
        none."""
        client, handle = self._live()
        dgram = self.type == socket.SOCK_DGRAM
        _allow(flags, _SEND_FLAGS if dgram else _SEND_FLAGS_STREAM)
        if dgram:
            sent = client.sendto(handle, self._ep().family, data, PEER)
        else:
            sent = client.send(handle, data)
        if flags & _ZEROCOPY:
            client.zerocopy(handle)
        return sent

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """As a non-blocking socket's: BlockingIOError after a part; await loop.sock_sendall
        instead."""
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
        flags = args[0] if len(args) == 2 else 0
        if self.type == socket.SOCK_STREAM:
            return self.send(data, flags)  # a connection's peer is known
        client, handle = self._live()
        _allow(flags, _SEND_FLAGS)
        return client.sendto(handle, self._ep().family, data, args[-1])

    def sendmsg(
        self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /
    ) -> int:
        """As send, from several buffers; IP_PKTINFO, IP_TOS, IP_TTL, IPv6's go with a datagram."""
        control = build(ancdata)
        data = b"".join(buffers)
        if control and self.type == socket.SOCK_DGRAM:
            client, handle = self._live()
            _allow(flags, _SEND_FLAGS)
            return client.sendmsg(handle, self._ep().family, data, control, address)
        if control:
            raise error(errno.EOPNOTSUPP)
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
        """Gives the socket up without closing it. Returns for a connection a kernel socket's
        descriptor, for any other socket a number that `ffloop.socket(fileno=...)` takes; -1 once
        closed."""
        endpoint = self._endpoint
        if endpoint is None:
            return -1
        if not self._borrowed and may_leave(endpoint):
            taken, _ = endpoint.open_session().ask(hand_over, endpoint)
            self.close()
            return taken.detach()
        fd = endpoint.open_session().ask(endpoint.dup_descriptor)
        if self._borrowed:
            endpoint.refs += 1
        self._endpoint = None
        endpoint.open_session().detached.add(fd)
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


def default_proto(kind: int) -> int:
    return socket.IPPROTO_TCP if kind == socket.SOCK_STREAM else socket.IPPROTO_UDP
