"""Client: the calls of client.h for Python.

`-errno` becomes an OSError subclass here, once. A Client is attached once and belongs to a Session
(session.py), which decides about threads and its end. `raw_*` are C calls of the hot path, for
_loop/stream.py: their first argument is `Client.c`, and they return a count or -errno.
"""

import contextlib
import errno
import mmap
import os
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from ..errors import attach_error, error, gone
from .address import ADDR_SIZE, ADDRESSES_SIZE, SockAddr, decode, encode
from .configuration import Config
from .native import ffi, lib

ABI_VERSION: int = lib.FFL_ABI_VERSION

EV_DATA: int = lib.FFL_EV_DATA
EV_EOF: int = lib.FFL_EV_EOF
EV_ERROR: int = lib.FFL_EV_ERROR
EV_ACCEPT: int = lib.FFL_EV_ACCEPT
EV_CONNECT: int = lib.FFL_EV_CONNECT
EV_READABLE: int = lib.FFL_EV_READABLE
EV_WRITABLE: int = lib.FFL_EV_WRITABLE
EV_CLOSED: int = lib.FFL_EV_CLOSED
EV_FD: int = lib.FFL_EV_FD
EV_LOST: int = lib.FFL_EV_LOST

READ, WRITE = 1, 2
WINDOW_MAX = 1024

PEER: Any = object()  # sendto()'s address that the socket is connected to

CTL_MAX: int = lib.FFL_CTL_MAX  # bytes of control messages with a datagram

raw_send = lib.ffl_client_send
raw_push = lib.ffl_client_push
raw_unread = lib.ffl_client_unread
raw_untake = lib.ffl_client_untake

_EVENTS = 512  # a batch; more wait for the next call
EVENT_SIZE = 16

_new_uncleared = ffi.new_allocator(should_clear_after_alloc=False)

Event = tuple[int, int, int, int]  # kind, handle, arg, off (see client.h)


class Receiver(Protocol):
    """The owner of a handle. One method per kind of event; CLOSED needs none."""

    def on_data(self, off: int, size: int) -> None: ...
    def on_eof(self) -> None: ...
    def on_error(self, code: int) -> None: ...
    def on_accept(self, handle: int, off: int) -> None: ...
    def on_connect(self, code: int) -> None: ...
    def on_readable(self) -> None: ...
    def on_writable(self) -> None: ...
    def on_lost(self) -> None: ...  # the session was lost; its gone() says why
    def on_detach(self) -> None: ...  # it is closed: nobody is to be called


def _addr(packed: bytes) -> Any:
    p = ffi.new("struct ffl_addr *")
    ffi.memmove(p, packed, ADDR_SIZE)
    return p


class Client:
    """The application's end of a session (client.h). Not to be used after close()."""

    c: Any = None  # until it is attached

    def __init__(self, path: str, config: Config, direct: Any = None) -> None:
        """Attaches; waits for the handshake. `direct`: the instance is in this thread, and ends
        with the client (direct.py). Raises an InstanceError."""
        self.path = path
        self.config = config
        self.embedded = False
        self._direct = direct
        self.thread = None if direct is None else threading.get_ident()  # whose alone it is
        c_path = ffi.new("char[]", os.fsencode(path))
        opts = ffi.new(
            "struct ffl_client_opts *",
            {
                "path": c_path,
                "timeout_ms": config.timeout_ms,
                "spin_us": config.spin_us,
                "max_sockets": config.max_sockets,
                "pool_kib": config.pool_kib,
                "tx_cap": config.tx_cap,
                "driver": ffi.NULL if direct is None else lib.ffl_direct_driver(direct),
            },
        )
        out = ffi.new("struct ffl_client **")
        why = ffi.new("char[]", 256)
        rc = lib.ffl_client_attach(out, opts, why, 256)
        if rc < 0:
            raise attach_error(-rc, path, ffi.string(why).decode(errors="replace"))
        self.c = out[0]
        self.pid = os.getpid()
        self.waits = False  # in a call that has let go of the interpreter
        self.address = int(ffi.cast("uintptr_t", self.c))  # for the compiled half
        try:
            self.mm = mmap.mmap(
                lib.ffl_client_memfd(self.c),
                lib.ffl_client_size(self.c),
                mmap.MAP_SHARED,
                mmap.PROT_READ,
            )
        except BaseException:
            c, self.c = self.c, None
            lib.ffl_client_detach(c)
            raise
        self.memory = memoryview(self.mm)
        self._events = ffi.new("struct ffl_event[]", _EVENTS)
        self.events = memoryview(ffi.buffer(self._events)).cast("B")
        self.stack: str = ffi.string(lib.ffl_client_stack(self.c)).decode()
        self.instance_pid: int = lib.ffl_client_instance_pid(self.c)

    # ---- session ----

    def close(self) -> None:
        """Ends the session. Idempotent. What was submitted is still sent by the instance."""
        if self.thread not in (None, threading.get_ident()):
            return  # collected elsewhere; the stack stays as it is
        c, self.c = self.c, None
        if c is not None:
            lib.ffl_client_detach(c)
            self.memory.release()
            self.mm.close()
            if self._direct is not None:
                lib.ffl_direct_stop(self._direct)

    @property
    def direct(self) -> bool:
        """Whether its instance is in this thread."""
        return self._direct is not None

    def __del__(self) -> None:
        # Attached for a loop that was closed meanwhile. Modules may be gone with the interpreter.
        try:
            self.close()
        except Exception:
            pass

    def _wait(self, call: Any, *args: Any) -> int:
        self.waits = True
        try:
            return int(call(self.c, *args))
        finally:
            self.waits = False

    @property
    def detached(self) -> int:
        """0, or the positive errno for which the session is lost (a fork included)."""
        return -int(lib.ffl_client_detached(self.c))

    def _check(self, rc: int) -> int:
        # A dead client's calls fail because of its end, whatever they were to do.
        if rc < 0:
            raise gone(self.reason()) if self.detached else error(-rc)
        return rc

    def reason(self) -> str:
        """Why the session is lost, for the log and for exceptions."""
        if os.getpid() != self.pid:
            return "this process is a fork, and sessions are not inherited"
        return f"{self.why() or os.strerror(self.detached)} (instance pid {self.instance_pid})"

    def why(self) -> str:
        """The reason of a lost session as far as it is known: "" or a sentence."""
        return str(ffi.string(lib.ffl_client_why(self.c)).decode(errors="replace"))

    def fds(self) -> tuple[int, int]:
        """(doorbell: EPOLLIN|EPOLLET, session socket: EPOLLIN|EPOLLRDHUP), for an epoll."""
        return lib.ffl_client_doorbell_fd(self.c), lib.ffl_client_session_fd(self.c)

    def ping(self) -> None:
        self._check(self._wait(lib.ffl_client_ping))

    def open_sockets(self) -> int:
        return int(lib.ffl_client_open_sockets(self.c))

    def stats(self) -> dict[str, int]:
        """The session's counters, both sides' (struct ffl_session_stats)."""
        out = ffi.new("struct ffl_session_stats *")
        lib.ffl_client_stats(self.c, out)
        return {name: int(getattr(out, name)) for name in dir(out)}

    def wait(self, epfd: int, timeout_ns: int) -> memoryview:
        """One C call: reap, spin, sleep in epfd. The events, valid until the next call."""
        n = self._wait(lib.ffl_client_wait, self._events, _EVENTS, epfd, timeout_ns)
        if n < 0 and n != -errno.EINTR:
            raise error(-n)
        return self.events[: max(n, 0) * EVENT_SIZE]

    # ---- sockets ----

    def open_socket(self, family: int, kind: int, proto: int = 0, nodelay: bool = False) -> int:
        flags = lib.FFL_F_NODELAY if nodelay else 0
        handle: int = lib.ffl_client_socket(self.c, family, kind, proto, flags)
        if handle == -errno.EMFILE:
            raise OSError(
                errno.EMFILE,
                "this session has all the sockets that its instance gives one: close some, or "
                "start the instance with a larger --max-sockets",
            )
        return self._check(handle)

    def close_socket(self, handle: int, abort: bool = False) -> None:
        """Frees the handle."""
        lib.ffl_client_close(self.c, handle, abort)

    def return_socket(self, handle: int) -> None:
        """Closes an accepted socket that nobody has used: another process that shares its listener
        gets it, with what came on it."""
        lib.ffl_client_return(self.c, handle)

    def bind(self, handle: int, family: int, address: Any) -> None:
        packed = _addr(encode(family, address, "bind"))
        result = self._wait(lib.ffl_client_bind, handle, packed)
        if result == -errno.EPERM:  # for its privileged ports a stack says EACCES
            raise PermissionError(
                errno.EPERM,
                f"the instance's port policy does not let user {os.geteuid()} bind port "
                f"{address[1]}: bind another, or start the instance with --ports that allow it",
            )
        self._check(result)

    def listen(self, handle: int, backlog: int, nodelay: bool) -> None:
        flags = lib.FFL_F_NODELAY if nodelay else 0
        self._check(self._wait(lib.ffl_client_listen, handle, backlog, flags))

    def accepting(self, handle: int, window: int, armed: bool = False) -> None:
        """Accepts ahead, `window` connections at most; 0 stops. armed: this session will read
        them."""
        flags = lib.FFL_F_ARM_NEW if armed else 0
        window = min(window, WINDOW_MAX)
        self._check(lib.ffl_client_accepting(self.c, handle, window, flags))

    def accept(self, handle: int) -> tuple[int, bytes]:
        """(new handle, its struct ffl_addresses). Raises BlockingIOError."""
        addresses = ffi.new("struct ffl_addresses *")
        new = self._check(lib.ffl_client_accept(self.c, handle, addresses))
        return new, bytes(ffi.buffer(addresses))

    def connect(self, handle: int, family: int, address: Any) -> None:
        """Starts it. Raises BlockingIOError (EINPROGRESS): an EV_CONNECT follows."""
        packed = encode(family, address, "connect")
        self._check(lib.ffl_client_connect(self.c, handle, _addr(packed)))

    def connect_now(self, handle: int, family: int, address: Any) -> None:
        """Connects a datagram socket. Waits."""
        with contextlib.suppress(BlockingIOError):
            self.connect(handle, family, address)
        self.ping()
        result = lib.ffl_client_connect_result(self.c, handle)
        if result != -errno.EAGAIN:  # a datagram socket may be connected again
            self._check(result)

    def addresses(self, handle: int) -> bytes:
        """The struct ffl_addresses of the socket. May wait."""
        addresses = ffi.new("struct ffl_addresses *")
        self._check(self._wait(lib.ffl_client_addresses, handle, addresses))
        return bytes(ffi.buffer(addresses))

    # ---- handing sockets to another session of this process ----

    @contextlib.contextmanager
    def ticket(self) -> Iterator[Any]:
        """A ticket, for give() and another client's take(). Raises an InstanceError."""
        ticket = _ticket(self.path)
        try:
            yield ticket
        finally:
            os.close(ticket.fd)

    def give(self, handle: int, ticket: Any) -> None:
        """Puts a reference to the socket into the ticket; gives back what was read ahead."""
        if lib.ffl_client_disarm(self.c, handle):
            self.ping()
            self._check(self._wait(lib.ffl_client_give_back, handle))
        self._check(self._wait(lib.ffl_client_export, handle, ticket))
        self.ping()

    def take(self, ticket: Any, handle: int, family: int, kind: int, proto: int) -> int:
        """Takes the socket that had this handle in the other session. Returns its handle here."""
        return self._check(self._wait(lib.ffl_client_import, ticket, handle, family, kind, proto))

    def push(self, handle: int, on: bool) -> None:
        self._check(raw_push(self.c, handle, on))

    def look(self, handle: int) -> None:
        """What has come on the socket until now is there; an error is the next call's. May wait,
        once until it is disarmed."""
        self._wait(lib.ffl_client_look, handle)

    def arm(self, handle: int) -> None:
        """As look, without waiting."""
        lib.ffl_client_arm(self.c, handle, 0)

    def unread(self, handle: int) -> None:
        """Puts the batch's data of this socket back at the head of its queue."""
        self._check(raw_unread(self.c, handle))

    def want(self, handle: int, filters: int) -> None:
        self._check(lib.ffl_client_want(self.c, handle, filters))

    def quiet(self, on: bool) -> None:
        """For a session without wait(), whose events nobody takes."""
        lib.ffl_client_quiet(self.c, on)

    def recv(self, handle: int, size: int, flags: int = 0) -> bytes:
        if size < 0:
            raise ValueError("negative buffersize in recv")
        data = _new_uncleared("char[]", max(size, 1))
        got = lib.ffl_client_recv(self.c, handle, data, size, flags, ffi.NULL, ffi.NULL)
        return bytes(ffi.buffer(data, self._check(got)))

    def recv_into(self, handle: int, buffer: Any, size: int = 0, flags: int = 0) -> int:
        return self.recvfrom_into(handle, buffer, size, flags)[0]

    def recvfrom(self, handle: int, size: int, flags: int = 0) -> tuple[bytes, SockAddr | None]:
        data, _, _, source = self.recvmsg(handle, size, flags)
        return data, source

    def recvmsg(
        self, handle: int, size: int, flags: int = 0
    ) -> tuple[bytes, bytes, int, SockAddr | None]:
        """(data, msg_control's bytes, MSG_TRUNC | MSG_CTRUNC | MSG_ERRQUEUE, sender)."""
        if size < 0:
            raise ValueError("negative buffersize in recvfrom")
        data = _new_uncleared("char[]", max(size, 1))
        d = ffi.new("struct ffl_dgram *", {"data": data, "len": size})
        got = self._check(lib.ffl_client_recvmsg(self.c, handle, d, flags))
        control = bytes(ffi.buffer(d.ctl.data, d.ctl.len))
        return (
            bytes(ffi.buffer(data, got)),
            control,
            d.flags,
            decode(bytes(ffi.buffer(ffi.addressof(d, "addr")))),
        )

    def recvfrom_into(
        self, handle: int, buffer: Any, size: int = 0, flags: int = 0
    ) -> tuple[int, SockAddr | None]:
        if size < 0:
            raise ValueError("negative buffersize in recv_into")
        with memoryview(buffer) as view, view.cast("B") as flat:
            if flat.readonly:
                raise TypeError(f"a read-write bytes-like object is required, not {buffer!r}")
            if size > len(flat):
                raise ValueError("buffer too small for requested bytes")
            addr = ffi.new("struct ffl_addr *")
            room = ffi.from_buffer("char[]", flat)
            try:
                got = lib.ffl_client_recv(
                    self.c, handle, room, size or len(flat), flags, addr, ffi.NULL
                )
            finally:
                ffi.release(room)
        return self._check(got), decode(bytes(ffi.buffer(addr)))

    def send(self, handle: int, data: Any) -> int:
        """Returns the bytes taken of a stream. Raises BlockingIOError for none."""
        if isinstance(data, bytes):
            return self._check(raw_send(self.c, handle, data, len(data)))
        with memoryview(data) as view, view.cast("B") as flat:
            return self._check(raw_send(self.c, handle, ffi.from_buffer(flat), len(flat)))

    def sendto(self, handle: int, family: int, data: Any, address: Any) -> int:
        """Sends one datagram whole to an address or PEER, or raises BlockingIOError."""
        to = ffi.NULL if address is PEER else _addr(encode(family, address, "sendto"))
        with memoryview(data) as view, view.cast("B") as flat:
            return self._check(
                lib.ffl_client_sendto(self.c, handle, ffi.from_buffer(flat), len(flat), to)
            )

    def sendmsg(self, handle: int, family: int, data: bytes, control: bytes, address: Any) -> int:
        """As sendto, with control messages."""
        held = ffi.from_buffer(data)
        d = ffi.new("struct ffl_dgram *", {"data": held, "len": len(data)})
        if address is not None:
            d.addr = _addr(encode(family, address, "sendmsg"))[0]
        d.ctl.len = len(control)
        ffi.memmove(d.ctl.data, control, len(control))
        return self._check(lib.ffl_client_sendmsg(self.c, handle, d))

    def zerocopy(self, handle: int) -> None:
        """Something was sent with MSG_ZEROCOPY."""
        lib.ffl_client_zerocopy(self.c, handle)

    def shutdown(self, handle: int, how: int) -> None:
        self._check(lib.ffl_client_shutdown(self.c, handle, how))

    def take_error(self, handle: int) -> int:
        return abs(int(lib.ffl_client_take_error(self.c, handle)))

    def placeholder(self, handle: int, fd: int) -> None:
        """The eventfd `fd`, which stays the caller's, is readable while something waits."""
        self._check(lib.ffl_client_placeholder(self.c, handle, fd))

    def getsockopt(self, handle: int, level: int, name: int, size: int = 0) -> int | bytes:
        """As socket.getsockopt: an int, or `size` bytes."""
        if level == socket.SOL_SOCKET and name == socket.SO_ERROR and not size:
            return self.take_error(handle)
        room = size or 4
        value = ffi.new("unsigned char[]", room)
        length = ffi.new("uint32_t *", room)
        self._check(self._wait(lib.ffl_client_getsockopt, handle, level, name, value, length))
        if size:
            return bytes(ffi.buffer(value, min(length[0], room)))
        return int.from_bytes(ffi.buffer(value, room), "little", signed=True)

    def setsockopt(self, handle: int, level: int, name: int, value: Any) -> None:
        packed = struct.pack("=i", value) if isinstance(value, int) else bytes(value)
        self._check(self._wait(lib.ffl_client_setsockopt, handle, level, name, packed, len(packed)))


class KernelCall(NamedTuple):
    """A call that instances and sessions stand on (see calls.h)."""

    name: str
    without: str  # what it is like without it; "": nothing works
    lacking: str  # why it is not there; "": it is


def kernel_calls() -> list[KernelCall]:
    """Each, tried here."""
    found = []
    for i in range(lib.FFL_CALLS):
        without, code = lib.ffl_call_without(i), lib.ffl_call_try(i)
        found.append(
            KernelCall(
                ffi.string(lib.ffl_call_name(i)).decode(),
                ffi.string(without).decode() if without else "",
                os.strerror(code) if code else "",
            )
        )
    return found


def keep_alive(path: str) -> int:
    """A descriptor: while a copy of it is open, an embedded instance stays. Raises an
    InstanceError."""
    return int(_ticket(path).fd)


def _ticket(path: str) -> Any:
    c_path = ffi.new("char[]", os.fsencode(path))
    opts = ffi.new("struct ffl_client_opts *", {"path": c_path})
    out = ffi.new("struct ffl_ticket *")
    why = ffi.new("char[]", 256)
    rc = lib.ffl_client_ticket(opts, out, why, 256)
    if rc < 0:
        raise attach_error(-rc, path, ffi.string(why).decode(errors="replace"))
    return out


def new_word() -> tuple[Any, int]:
    """An unsigned long for the compiled half to read: (it, as a list of one; its address)."""
    word = ffi.new("unsigned long *")
    return word, int(ffi.cast("uintptr_t", word))


def flat(data: Any) -> Any:
    """A C view of a bytes-like object that is not bytes, for raw_send."""
    return ffi.from_buffer(data)


def addresses(raw: bytes) -> tuple[SockAddr | None, SockAddr | None]:
    """A struct ffl_addresses: (local, peer), None where not known."""
    return decode(raw[:ADDR_SIZE]), decode(raw[ADDR_SIZE:ADDRESSES_SIZE])


decode_events = struct.Struct("=4I").iter_unpack  # a part of `Client.events`, to Events
