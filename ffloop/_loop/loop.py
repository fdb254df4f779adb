"""Loop: asyncio's selector event loop, its queues and its hot path compiled.

Tasks, subprocesses, signals, pipes and executors are asyncio's own code, unchanged. Each Loop is a
DirectLoop, whose sockets are the kernel's, or a SessionLoop, whose TCP and UDP are on an instance's
stack.
"""

import asyncio
import contextlib
import contextvars
import importlib
import itertools
import os
import signal
import socket
import ssl as ssl_module
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self, Unpack, cast

from .._session import choice, configuration
from .._session.address import look_up_literal
from .._session.options import LoopOptions
from ..errors import ConfigError
from . import worker
from .asyncio_private import Server, failure, logger, typed_as
from .kernel_datagram import KernelDatagramTransport
from .kernel_sock_calls import KernelSockCalls
from .pipes import ReadPipeTransport, WritePipeTransport
from .serving import Binding, check_given, check_tls
from .tls import SSLProtocol
from .transport import SocketTransport, set_nodelay

if TYPE_CHECKING:
    from .._net.sockets import StackSocket

    AnySocket = socket.socket | StackSocket


class LoopLag(NamedTuple):
    """`seconds`: the work of all iterations. `iterations`: a histogram of their work, {bound: how
    many worked for less than `bound` seconds, and not less than the bound before}; the last bound
    is infinite."""

    seconds: float
    iterations: dict[float, int]


class Loop(KernelSockCalls):
    """An event loop. Its TCP and UDP are the kernel's, in its own thread (direct mode); or, where
    an ffloop instance is named or runs at its usual place, that instance's.

    Keyword arguments are LoopOptions. With an instance the loop attaches at once: raises
    InstanceError (an OSError) when there is none, and ConfigError (a ValueError) for an option that
    cannot be.
    """

    _listeners: dict[Any, Any]  # what it accepts at; by socket

    _config: configuration.Config
    _found: Any  # the client of an instance that was found running, if one was
    _poller: Any
    _lag: Callable[[], tuple[float, list[tuple[float, int]]]]  # the Scheduler's

    def __new__(cls, **options: Unpack[LoopOptions]) -> Self:
        config = configuration.load(**options)
        kind, client = _kind(config)
        if not issubclass(cls, kind):
            cls = kind if cls is Loop else type(cls.__name__, (cls, kind), {})
        self: Self = super().__new__(cls)
        self._config, self._found = config, client
        return self

    def __init__(self, **options: Unpack[LoopOptions]) -> None:
        raise NotImplementedError

    @property
    def instance(self) -> choice.InstanceInfo:
        """The instance that this loop is attached to; in direct mode, this process. Raises
        InstanceError while there is none."""
        raise NotImplementedError

    def ffloop_stats(self) -> dict[str, int]:
        """Counters so far, in each mode the same: of this loop's sockets; with an instance, of its
        session, which ends with the instance. docs/operations.md says what each counts."""
        raise NotImplementedError

    def ffloop_lag(self) -> LoopLag:
        """The work of the loop's iterations so far, seconds: an event that came during one waited
        for its end. Any thread may call it. Iterations in debug mode are not counted."""
        seconds, iterations = self._lag()
        return LoopLag(seconds, dict(iterations))

    if TYPE_CHECKING:  # asyncio's own take no stack socket

        async def sock_recv(self, sock: AnySocket, n: int) -> bytes: ...
        async def sock_recv_into(self, sock: AnySocket, buf: Any) -> int: ...
        async def sock_recvfrom(self, sock: AnySocket, bufsize: int) -> tuple[bytes, Any]: ...
        async def sock_recvfrom_into(
            self, sock: AnySocket, buf: Any, nbytes: int = 0
        ) -> tuple[int, Any]: ...
        async def sock_sendall(self, sock: AnySocket, data: Any) -> None: ...
        async def sock_sendto(self, sock: AnySocket, data: Any, address: Any) -> int: ...
        async def sock_accept(self, sock: AnySocket) -> tuple[Any, Any]: ...
        async def sock_connect(self, sock: AnySocket, address: Any) -> None: ...

    def _begin(self, poller: Any) -> None:
        # The rest of __init__, with the selector that the subclass has made.
        self._poller = self._watchers = poller
        super().__init__(poller)
        self._batches, self._wake_fd = poller.batch, poller.wake_fd

    def run_forever(self) -> None:
        """As asyncio's. While it runs, the loop's sockets belong to this thread."""
        self._check_closed()
        self._check_running()
        self._own_thread()
        self._wake_on_signals(self._csock.fileno())
        self._forever = True
        try:
            super().run_forever()
        finally:
            self._forever = False
            if not self._signal_handlers:
                self._wake_on_signals(-1)

    def remove_signal_handler(self, sig: int) -> bool:
        """As asyncio's."""
        removed = super().remove_signal_handler(sig)  # after the last one nothing is woken
        if self.is_running():
            self._wake_on_signals(self._csock.fileno())
        return removed

    def _wake_on_signals(self, fd: int) -> None:
        # Python runs its handlers between two instructions: a wait that begins just then, or of a
        # stack that polls, would not end for a signal.
        try:
            before = signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
        except ValueError:  # another thread's loop: the main one has them
            return
        if before not in (-1, self._csock.fileno()):  # the program's own, or another loop's
            with contextlib.suppress(OSError, ValueError):  # it is closed by now, or blocks
                signal.set_wakeup_fd(before, warn_on_full_buffer=False)

    def _own_thread(self) -> None:
        """The loop's sockets are this thread's."""
        raise NotImplementedError

    def _let_go(self) -> None:
        """Called before the loop closes: ends the events of its sockets."""
        raise NotImplementedError

    def close(self) -> None:
        """Closes the loop, and with an instance ends its session. Idempotent."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        self._let_go()
        # asyncio's close() does so only after it has closed the pipe that signals are written to.
        for sig in () if sys.is_finalizing() else list(self._signal_handlers):
            self.remove_signal_handler(sig)
        super().close()
        self._wake_fd = -1
        self._batches = None

    # ---- events ----

    def _process_events(self, event_list: Any) -> None:
        for fd, events in event_list:
            self._watched(fd, events)
        poller = self._poller
        if poller.pending:  # in debug mode; else the Scheduler hands the batch out
            for taken in poller.take_batch():
                self._queue_event(contextvars.Context(), poller.dispatch_one, *taken)

    # The rare ways of the compiled Scheduler.

    def _poll(self, wait_ns: int) -> None:
        self._process_events(self._poller.select(None if wait_ns < 0 else wait_ns / 1e9))

    def _failed(self, exc: BaseException, handle: Any) -> None:
        self.call_exception_handler(failure(handle, exc))

    @property
    def _nest_patched(self) -> bool:
        # nest_asyncio asks for this first, and would put iterations of its own in the loop's place.
        raise ValueError("nest_asyncio cannot nest an ffloop loop; run that code in another thread")

    # ---- transports ----

    def _make_datagram_transport(self, sock: Any, *args: Any, **more: Any) -> Any:
        if not KernelDatagramTransport.serves(sock):
            return super()._make_datagram_transport(sock, *args, **more)
        self._ensure_fd_no_transport(sock)
        return KernelDatagramTransport(self, sock, *args, **more)

    def _make_read_pipe_transport(self, *args: Any, **more: Any) -> Any:
        return ReadPipeTransport(self, *args, **more)

    def _make_write_pipe_transport(self, *args: Any, **more: Any) -> Any:
        return WritePipeTransport(self, *args, **more)

    def _make_ssl_transport(
        self,
        rawsock: Any,
        protocol: Any,
        sslcontext: Any,
        waiter: Any = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        **more: Any,
    ) -> Any:
        tls = SSLProtocol(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        self._make_socket_transport(rawsock, tls, **more)
        return tls._app_transport

    def _make_socket_transport(self, sock: Any, *args: Any, **how: Any) -> Any:
        set_nodelay(sock)
        return super()._make_socket_transport(sock, *args, **how)

    @typed_as(asyncio.SelectorEventLoop.start_tls)
    async def start_tls(
        self,
        transport: Any,
        protocol: Any,
        sslcontext: Any,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> Any:
        """As asyncio's newest: bytes that a server's StreamReader has read ahead belong to the
        handshake."""
        if not isinstance(sslcontext, ssl_module.SSLContext):
            raise TypeError(
                f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}"
            )
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        waiter = self.create_future()
        tls = SSLProtocol(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            call_connection_made=False,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        transport.pause_reading()  # nothing comes before connection_made
        if server_side:
            tls.take_read_ahead(protocol)
        transport.set_protocol(tls)
        steps = (
            self.call_soon(tls.connection_made, transport),
            self.call_soon(transport.resume_reading),
        )
        try:
            await waiter
        except BaseException:
            transport.close()
            for step in steps:
                step.cancel()
            raise
        finally:
            del waiter  # its exception has this frame
        return tls._app_transport

    async def _sendfile_native(
        self, transp: Any, file: Any, offset: int, count: Any, **more: Any
    ) -> Any:
        if not isinstance(transp, SocketTransport):
            return await super()._sendfile_native(transp, file, offset, count, **more)
        async with transp._alone():
            return await transp._send_file(file, offset, count)

    async def _sendfile_fallback(
        self, transp: Any, file: Any, offset: int, *args: Any, **more: Any
    ) -> Any:
        if isinstance(transp, SocketTransport):  # whose native sendfile checks them
            self._check_sendfile_params(transp.get_extra_info("socket"), file, offset, *args)
        to_offset(file, offset)
        # asyncio gives the protocol back as if writing went on. Where the last bytes still wait,
        # the protocol would be told to resume what nobody told it to pause.
        try:
            return await super()._sendfile_fallback(transp, file, offset, *args, **more)
        finally:
            if isinstance(transp, SocketTransport):
                transp.tell_paused()

    async def _sock_sendfile_fallback(
        self, sock: Any, file: Any, offset: int, *args: Any, **more: Any
    ) -> Any:
        to_offset(file, offset)
        return await super()._sock_sendfile_fallback(sock, file, offset, *args, **more)

    @typed_as(asyncio.SelectorEventLoop.getaddrinfo)
    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """As asyncio's. Numeric addresses are answered at once, names looked up in the executor."""
        found = None if self._debug else look_up_literal(host, port, family, type, proto, flags)
        if found is not None:
            return found
        return await super().getaddrinfo(
            host, port, family=family, type=type, proto=proto, flags=flags
        )

    # ---- servers ----

    async def create_server(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        *,
        family: int = socket.AF_UNSPEC,
        flags: int = socket.AI_PASSIVE,
        sock: "socket.socket | StackSocket | None" = None,
        backlog: int = 100,
        ssl: ssl_module.SSLContext | bool | None = None,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
        keep_alive: bool | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
        dual_listen: bool | None = None,
    ) -> asyncio.Server:
        """As asyncio's. Addresses that the router gives to the stack are served there; with
        `dual_listen` (default: the loop's option) the same port is served on the kernel too, at
        the wildcard address or else on loopback."""
        check_tls(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if host is None and port is None:
            check_given(sock)
            sockets = self._given_to_serve(sock)
        elif sock is not None:
            raise ValueError("host/port and sock can not be specified at the same time")
        else:
            sockets = self._bind_sockets(
                await self._addresses(host, port, family, flags),
                Binding(
                    reuse_address=reuse_address is None or reuse_address,
                    reuse_port=bool(reuse_port) or self._config.reuse_port,
                    keep_alive=bool(keep_alive),
                    dual=self._dual(dual_listen),
                    debug=self._debug,
                ),
            )
        for one in sockets:
            one.setblocking(False)
        server = Server(
            self,
            sockets,
            protocol_factory,
            ssl,
            backlog,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
        )
        if start_serving:
            try:
                server._start_serving()
            except BaseException:
                server.close()
                raise
            await asyncio.sleep(0)
        if self._debug:
            logger.info("%r is serving", server)
        return cast(asyncio.Server, server)

    def _dual(self, asked: bool | None) -> bool:
        """Whether a server's ports are served on the kernel too."""
        raise NotImplementedError

    def _bind_sockets(self, infos: list[Any], how: Binding) -> list[Any]:
        """Bound, not yet listening, sockets for getaddrinfo's answers."""
        raise NotImplementedError

    def _start_serving(
        self,
        protocol_factory: Any,
        sock: Any,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        *more: Any,
        context: contextvars.Context | None = None,
        **named: Any,
    ) -> None:
        how = (sslcontext, server, backlog, ssl_handshake_timeout, ssl_shutdown_timeout)
        if not self._accept_at(sock, protocol_factory, *how, context):
            if context is not None:
                named["context"] = context
            super()._start_serving(protocol_factory, sock, *how, *more, **named)
        worker.serving(self)

    def _accept_at(self, sock: Any, *how: Any) -> bool:
        """Accepts at `sock` from now on; `how`: Accepting's arguments. False: asyncio's code is
        to."""
        raise NotImplementedError

    def _retire(self) -> None:
        """Closes the listeners; connections that wait in them go to listeners that share their
        addresses. Servers are not told; their connections go on."""
        for sock in list(self._listeners):
            self._stop_serving(sock)

    def _given_to_serve(self, sock: Any) -> list[Any]:
        return [sock]

    async def _addresses(self, host: Any, port: Any, family: int, flags: int) -> list[Any]:
        if host == "":
            hosts: list[Any] = [None]
        elif isinstance(host, str) or not isinstance(host, Iterable):
            hosts = [host]
        else:
            hosts = list(host)
        found = await asyncio.gather(
            *(self._create_server_getaddrinfo(h, port, family=family, flags=flags) for h in hosts)
        )
        return list(dict.fromkeys(itertools.chain.from_iterable(found)))


def _kind(config: configuration.Config) -> tuple[Any, Any]:
    # (the class, the client of a running instance that nobody has named). What a stack of its own
    # needs is only imported for one.
    client = None
    direct = choice.is_direct(config)
    if not direct and choice.may_be_direct(config):
        discovery: Any = importlib.import_module("ffloop._session.discovery")
        client = discovery.attach_running(config)
        direct = client is None
    if direct:
        return importlib.import_module("ffloop._loop.direct_loop").DirectLoop, None
    return importlib.import_module("ffloop._loop.session_loop").SessionLoop, client


def to_offset(file: Any, offset: int) -> None:
    """Seeks to sendfile's offset. asyncio's fallbacks do not seek for offset 0, and begin at the
    file's position; sendfile(2) ignores the position."""
    if not offset and getattr(file, "seekable", bool)():
        file.seek(0)


def pin(cpu: int | None) -> None:
    """Runs this thread on one CPU, as F-Stack's adapter does its workers."""
    if cpu is None:
        return
    try:
        os.sched_setaffinity(0, {cpu})
    except (OSError, OverflowError):
        allowed = sorted(os.sched_getaffinity(0))
        raise ConfigError(
            f"FF_INITIAL_LCORE_ID and FF_PROC_ID lead to CPU {cpu}; this machine has {allowed}"
        ) from None


def new_event_loop(**options: Unpack[LoopOptions]) -> Loop:
    """A new Loop, for `asyncio.Runner(loop_factory=...)` and whatever else takes a factory.
    Arguments and errors are Loop's."""
    return Loop(**options)
