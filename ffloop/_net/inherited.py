"""Kernel sockets that the application gives to the loop: served by the stack or by the kernel, each
told once in the log.

Servers that bind in a parent and serve in its children (uvicorn's workers, gunicorn, hypercorn),
systemd's socket activation, aiohttp's SockSite and anyio's listeners all give the loop kernel
sockets. The option `kernel_sockets` decides about a TCP socket to listen on whose address the
routes give to the stack:

| option | |
|---|---|
| adopt | the stack listens at the same address, in the kernel socket's place |
| both | the stack listens there too; the kernel's connections are served as well |
| kernel | the kernel serves it, as asyncio does |
| error | RuntimeError |

The same holds for a datagram socket, but an endpoint has one socket only, so "both" is adopt.

The default is adopt where the stack is not this kernel (both with `dual_listen`; an address that
the stack does not have stays on the kernel), and kernel with the host stack, which is this kernel.
A connected socket stays where its peer is: on the kernel.

Adopted by a stack of its own, the kernel's socket keeps the port: not listening, the kernel
refuses connections by itself; listening already (gunicorn, systemd), what reaches the kernel is
reset and reported, rather than left in a queue that nobody empties. With the host stack the two
cannot listen at once: the process lets go of the kernel's socket, and it is an error when another
process holds on to it.
"""

import errno
import os
import socket
import stat
import sys
import weakref
from typing import Any

from .._session.carrying import OptionRefused, StaysOnKernel
from .._session.configuration import Config
from .._session.log import log
from .._session.routing import Router, same_kernel
from .._session.session import stands_for
from ..errors import ConfigError
from .bridge import RESET_ON_CLOSE, bridged
from .promoted import adopt, close_with, inet_family

_BYPASSES = ("aiofastnet",)  # libraries with transports of their own on raw descriptors


class Inherited:
    """The option of one loop, and the messages that it has logged."""

    def __init__(self, stack: str, config: Config, routes: Router) -> None:
        policy = config.kernel_sockets
        self._stack = stack
        self._apart = not same_kernel(stack)  # each has ports of its own
        self._asked = policy is not None
        apart = "both" if config.dual_listen else "adopt"
        self._policy = policy or (apart if self._apart else "kernel")
        self._routes = routes
        self._said: set[str] = set()
        self._kept: weakref.WeakSet[Any] = weakref.WeakSet()

    # ---- sockets to listen on ----

    def to_serve(self, loop: Any, sock: Any) -> list[Any]:
        """create_server's sockets for the kernel socket `sock`. Raises OSError, RuntimeError."""
        fate = self._fate(sock, "create_server()")
        if fate == "kernel":
            return [sock]
        if type(sock) is socket.socket:
            served = self._adopt(loop, sock, fate)
            return [sock] if served is None else served
        plain = socket.socket(fileno=os.dup(sock.fileno()))  # gunicorn has a wrapper
        try:
            served = self._adopt(loop, plain, fate)
        except BaseException:
            plain.close()
            raise
        if served is None:
            plain.close()
            return [sock]
        close_with(plain, sock)
        return served

    def to_accept(self, loop: Any, sock: Any) -> bool:
        """sock_accept's: whether `sock`, a kernel socket so far, is now the stack's. Where the
        kernel's connections are to be taken too, their socket is among its followers."""
        if sock in self._kept or not _listens(sock):
            return False
        fate = self._fate(sock, "sock_accept()")
        if fate != "kernel" and type(sock) is not socket.socket:
            self._say(f"{sock!r} is of a class of its own: the kernel serves it", warn=True)
            fate = "kernel"
        served = None if fate == "kernel" else self._adopt(loop, sock, fate)
        if served is None:
            self._kept.add(sock)
            return False
        for kernel in served[1:]:
            close_with(sock, kernel)
        sock.listen()
        return True

    def to_receive(self, loop: Any, sock: Any) -> None:
        """create_datagram_endpoint's: makes the kernel socket `sock` the stack's, or leaves it."""
        family = inet_family(sock, socket.SOCK_DGRAM)
        if family is None or _connected(sock):
            self.connected(sock, "create_datagram_endpoint()", socket.SOCK_DGRAM)
            return
        fate = self._fate(sock, "create_datagram_endpoint()", socket.SOCK_DGRAM)
        if fate == "kernel":
            return
        if type(sock) is socket.socket:
            self._adopt(loop, sock, "adopt")
        else:
            self._say(f"{sock!r} is of a class of its own: it stays on the kernel", warn=True)

    def _fate(self, sock: Any, what: str, kind: int = socket.SOCK_STREAM) -> str:
        family = inet_family(sock, kind)
        if family is None:
            return "kernel"  # unix sockets and the like: nobody would look for them on the stack
        address = sock.getsockname()
        handed = f"{what} was handed the kernel's socket at {address}"
        if not self._routes.on_stack(family, address):
            self._say(f"{handed}: the kernel serves it, by the routes")
            return "kernel"
        if self._policy == "error":
            raise RuntimeError(
                f"{handed}, and kernel_sockets='error': give it a host and a port, or choose "
                f"'adopt', 'both' or 'kernel'"
            )
        if self._policy == "both" and not self._apart:
            raise ConfigError(
                "kernel_sockets='both' with the host stack, which is this kernel: "
                "choose 'adopt' or 'kernel'"
            )
        if self._policy == "kernel":
            self._say(f"{handed}: the kernel serves it (kernel_sockets='kernel')")
        return self._policy

    def _adopt(self, loop: Any, sock: socket.socket, fate: str) -> list[Any] | None:
        # The sockets to serve: `sock`, which is now the stack's, and with "both" the kernel's. None
        # where it stays on the kernel.
        address = sock.getsockname()
        listens = _listens(sock)
        streams = inet_family(sock) is not None
        session = loop._live_session()
        reaches = listens or fate == "both" or not streams  # the kernel would not refuse
        kernel = sock.dup() if self._apart and reaches else None
        try:
            # Two listeners of one kernel would split the connections between them: with the host
            # stack, only sockets that nobody listens on yet may be shared.
            inner = adopt(sock, session, share=self._apart or not listens, keep=self._apart)
        except StaysOnKernel:
            return None  # `kernel` is None: the stack is not apart
        except OSError as exc:
            if kernel is not None:
                kernel.close()
            if isinstance(exc, OptionRefused):
                raise
            if exc.errno == errno.EADDRNOTAVAIL and not self._asked:
                self._say(
                    f"{address} is no address of the {self._stack} stack: the kernel serves it",
                    warn=True,
                )
                return None
            raise OSError(exc.errno, self._cannot_adopt(address, exc)) from exc
        inner._ep().nodelay = True
        also = " too" if fate == "both" else " in the kernel's place"
        self._say(f"{address} was the kernel's socket: the {self._stack} stack listens there{also}")
        if kernel is None:
            return [sock]
        kernel.setblocking(False)
        if fate == "both":
            return [sock, kernel]
        close_with(sock, _Gate(loop, kernel, _refuse if streams else _drop))
        return [sock]

    def _cannot_adopt(self, address: Any, exc: OSError) -> str:
        reason = (exc.strerror or str(exc)).lower()
        message = (
            f"cannot adopt the kernel's socket at {address}: {reason} on the {self._stack} stack"
        )
        if exc.errno == errno.EADDRINUSE and not self._apart:
            message += (
                ", which is this kernel: another process holds the address (the server's parent, "
                "systemd); kernel_sockets='kernel' serves the socket as it is"
            )
        return message

    # ---- others ----

    def connected(self, sock: Any, what: str, kind: int = socket.SOCK_STREAM) -> None:
        """A connected kernel socket is to get a transport. Raises RuntimeError ("error")."""
        family = inet_family(sock, kind)
        if family is None:
            return
        try:
            peer = sock.getpeername()
        except OSError:
            return  # the transport will say
        routed = self._routes.on_stack(family, peer)
        message = f"{what} was handed the kernel's connection with {peer}"
        if routed and self._policy == "error":
            raise RuntimeError(f"{message}, and kernel_sockets='error'")
        self._say(f"{message}: it stays on the kernel", warn=routed and self._apart, key=what)

    def bypassed(self) -> bool:
        """Whether the caller's caller is a library that would use a socket's descriptor itself:
        its connections stay on the kernel, or it would read from what only shows readiness."""
        library = sys._getframe(2).f_globals.get("__name__", "").partition(".")[0]
        if library not in _BYPASSES:
            return False
        message = f"{library} puts transports of its own on raw descriptors"
        if self._policy == "error":
            raise RuntimeError(f"{message}, and kernel_sockets='error'")
        self._say(f"{message}: its connections are the kernel's, not the stack's", warn=True)
        return True

    def watched(self, fd: Any, callback: Any) -> None:
        """add_reader or add_writer of user code: notes who goes past the stack. Raises RuntimeError
        where that could never work."""
        owner = getattr(callback, "__self__", None)
        transport = owner is not None and hasattr(owner, "get_extra_info")
        if not transport and not self._apart and self._policy != "error":
            return
        who = f" ({type(owner).__module__}.{type(owner).__qualname__})" if transport else ""
        try:
            number = fd if isinstance(fd, int) else fd.fileno()
            is_socket = stat.S_ISSOCK(os.fstat(number).st_mode)
        except (AttributeError, OSError, TypeError, ValueError):
            return  # it is no descriptor: the loop says so
        if stands_for(number) is not None:
            if transport:
                raise RuntimeError(
                    f"a library's own transport{who} on the descriptor of a stack socket, which "
                    "shows readiness and carries no data: let the loop make the transport"
                )
        elif is_socket:
            self._watched_kernel(number, who)

    def _watched_kernel(self, number: int, who: str) -> None:
        with socket.socket(fileno=os.dup(number)) as sock:
            family = inet_family(sock)
            if family is None:
                return
            address = sock.getsockname()
        if bridged(address):
            return
        message = f"add_reader() or add_writer(){who} on the kernel's TCP socket at {address}"
        if self._policy == "error":
            raise RuntimeError(f"{message}, and kernel_sockets='error'")
        self._say(f"{message}: that is the kernel's network, not the stack's", warn=True, key=who)

    def _say(self, message: str, *, warn: bool = False, key: str | None = None) -> None:
        key = message if key is None else key
        if key not in self._said:
            self._said.add(key)
            log.warning("%s", message) if warn else log.info("%s", message)


def _listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


class _Gate:
    """Turns away what reaches the kernel at an address where the stack serves in its place, and
    reports the first. `turn_away` takes one: what it was, who it was from, and what became of it.
    """

    def __init__(self, loop: Any, sock: socket.socket, turn_away: Any) -> None:
        self._loop = loop
        self._sock = sock
        self._turn_away = turn_away
        self._said = False
        loop._add_reader(sock.fileno(), self._ready)

    def close(self) -> None:
        self._loop._remove_reader(self._sock.fileno())
        self._sock.close()

    def _ready(self) -> None:
        try:
            what, peer, became = self._turn_away(self._sock)
        except OSError:
            return  # another process took it, or it went; a lack of descriptors: the next time
        if not self._said:
            self._said = True
            log.warning(
                "a %s from %s reached the kernel at %s, where the stack serves in its place: it "
                "was %s, as later ones are (kernel_sockets='both' serves connections)",
                what,
                peer,
                self._sock.getsockname(),
                became,
            )


def _refuse(listener: socket.socket) -> tuple[str, Any, str]:
    connection, peer = listener.accept()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    connection.close()
    return "connection", peer, "reset"


def _drop(sock: socket.socket) -> tuple[str, Any, str]:
    return "datagram", sock.recvfrom(1)[1], "dropped"
