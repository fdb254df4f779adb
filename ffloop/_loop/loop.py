"""Loop: asyncio's selector event loop with TCP and UDP on the stack.

What is not here is asyncio's own code, unchanged: scheduling, TLS, tasks, subprocesses, signals,
pipes, unix sockets, executors. Overridden are the places where a TCP socket is made, connected,
listened on or turned into a transport, and datagram endpoints.
"""

import asyncio
import contextvars
import itertools
import os
import socket
import ssl as ssl_module
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Unpack, cast

from .._net.inherited import Inherited
from .._net.promoted import number_of, stack_socket
from .._net.sockets import StackSocket
from .._session import configuration, discovery, ownership
from .._session.address import look_up_literal
from .._session.binding import Client
from .._session.discovery import InstanceInfo
from .._session.log import log
from .._session.options import LoopOptions
from .._session.routing import Router, same_kernel
from .._session.session import Session
from ..errors import ConfigError
from . import worker
from .asyncio_private import Handle, Server, SSLProtocol, failure, logger, typed_as
from .datagram import DatagramTransport, open_datagram
from .listener import Binding, Listener, bind_sockets
from .poller import Poller
from .reattach import Reattach
from .sock_calls import SockCalls, to_offset
from .stream import StreamTransport


class Loop(SockCalls):
    """An event loop whose TCP runs on an ffloop instance.

    Keyword arguments (LoopOptions; each has a variable too: docs/configuration.md): `instance`,
    the path of an instance's socket; `stack`, "host" or "fstack", to insist on one; `reconnect`,
    whether to attach and listen again when the instance ended; `routes`; `dual_listen`, whether
    what the stack serves is served on the kernel too; `kernel_sockets`, what becomes of those that
    the application hands in; `reuse_port`; `spin_us`; `pool_kib`; `tx_cap`; `max_sockets`;
    `timeout_ms`.

    Attaches at once: raises InstanceError (an OSError) when there is no instance, and ConfigError
    (a ValueError) for an option that cannot be.
    """

    def __init__(self, **options: Unpack[LoopOptions]) -> None:
        self._config = configuration.load(**options)
        self._index = discovery.next_index(self._config)
        _pin(self._config.cpu())
        session = ownership.take_over(self._config)
        if session is None:
            session = Session(discovery.attach(self._config, self._index), self)
        else:
            session.belongs_to(self)
        poller = None
        try:
            self._choose_routes(session.client.stack)
            self._poller = poller = Poller(session, self._session_lost, self._config.spin_us)
            super().__init__(poller)
        except BaseException:
            self._closed = True  # nothing is left to __del__
            if poller is not None:
                poller.detach()
                poller.close()
            session.close()
            raise
        self._session = session
        self._listeners: dict[StackSocket, Listener] = {}
        self._dispatch = Handle(poller.dispatch, (), self, contextvars.Context())
        self._batches, self._wake_fd = poller.batch, poller.wake_fd
        ownership.of_loop(session)
        self._say(session.client)

    def _choose_routes(self, stack: str) -> None:
        self._router = Router(stack, self._config.routes)
        self._inherited = Inherited(stack, self._config, self._router)

    @staticmethod
    def _say(client: Client) -> None:
        log.info(
            "using the %s instance at %s: stack %s, pid %d",
            "embedded" if client.embedded else "running",
            client.path,
            client.stack,
            client.instance_pid,
        )

    @property
    def instance(self) -> InstanceInfo:
        """The instance that this loop is attached to. Raises InstanceError while there is none."""
        client = self._live_session().client
        return InstanceInfo(client.path, client.stack, client.instance_pid, client.embedded)

    def ffloop_stats(self) -> dict[str, int]:
        """Counters of the session with the instance (see client.h, struct ffl_session_stats)."""
        return self._live_session().client.stats()

    def run_forever(self) -> None:
        """As asyncio's. The loop's sockets are this thread's meanwhile."""
        self._check_closed()
        self._check_running()
        self._session.run_by_this_thread()
        super().run_forever()

    def close(self) -> None:
        """Closes the loop and ends its session with the instance. Idempotent."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        self._session.check_thread()
        self._poller.detach()
        super().close()
        self._wake_fd = -1
        self._batches = self._dispatch = None
        self._listeners.clear()
        self._session.close()

    # ---- events ----

    def _process_events(self, event_list: Any) -> None:
        if event_list:
            super()._process_events(event_list)
        poller = self._poller
        if poller.pending:
            if self._debug:
                for taken in poller.take_batch():
                    self._ready.append(
                        Handle(poller.dispatch_one, taken, self, contextvars.Context())
                    )
            else:
                poller.batch.queued = 1
                self._ready.append(self._dispatch)

    # The rare ways of the compiled Scheduler.

    def _poll(self, wait_ns: int) -> None:
        self._process_events(self._poller.select(None if wait_ns < 0 else wait_ns / 1e9))

    def _kernel_ready(self, count: int) -> None:
        super()._process_events(self._poller.kernel_events(count))

    def _failed(self, handle: Any, exc: BaseException) -> None:
        self.call_exception_handler(failure(handle, exc))

    @typed_as(asyncio.SelectorEventLoop.add_reader)
    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        """As asyncio's. TCP sockets of the kernel's that are watched so are reported."""
        fd = number_of(fd)
        self._inherited.watched(fd, callback)
        super().add_reader(fd, callback, *args)

    @typed_as(asyncio.SelectorEventLoop.remove_reader)
    def remove_reader(self, fd: Any) -> Any:
        """As asyncio's."""
        return super().remove_reader(number_of(fd))

    @typed_as(asyncio.SelectorEventLoop.add_writer)
    def add_writer(self, fd: Any, callback: Any, *args: Any) -> None:
        """As add_reader."""
        fd = number_of(fd)
        self._inherited.watched(fd, callback)
        super().add_writer(fd, callback, *args)

    def remove_writer(self, fd: Any) -> bool:
        """As asyncio's."""
        return super().remove_writer(number_of(fd))

    @property
    def _nest_patched(self) -> bool:
        # nest_asyncio asks for this first, and would put iterations of its own in the loop's place.
        raise ValueError("nest_asyncio cannot nest an ffloop loop; run that code in another thread")

    # ---- transports ----

    def _make_socket_transport(
        self,
        sock: Any,
        protocol: Any,
        waiter: Any = None,
        *,
        extra: Any = None,
        server: Any = None,
        context: contextvars.Context | None = None,
        **more: Any,
    ) -> Any:
        stack = stack_socket(sock)
        if stack is None:
            if context is not None:
                more["context"] = context
            return super()._make_socket_transport(
                sock, protocol, waiter, extra=extra, server=server, **more
            )
        self._own_session(stack)
        transport = StreamTransport(self, stack._ep(), protocol, extra, server, context)
        transport.own(sock, stack)
        self.call_soon(transport.begin, waiter, context=context)
        return transport

    def _make_ssl_transport(
        self,
        rawsock: Any,
        protocol: Any,
        sslcontext: Any,
        waiter: Any = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: Any = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        **more: Any,
    ) -> Any:
        if stack_socket(rawsock) is None:
            return super()._make_ssl_transport(
                rawsock,
                protocol,
                sslcontext,
                waiter,
                server_side=server_side,
                server_hostname=server_hostname,
                extra=extra,
                server=server,
                ssl_handshake_timeout=ssl_handshake_timeout,
                ssl_shutdown_timeout=ssl_shutdown_timeout,
                **more,
            )
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
        self._make_socket_transport(rawsock, tls, extra=extra, server=server, **more)
        return tls._app_transport

    async def _sendfile_fallback(
        self, transp: Any, file: Any, offset: int, *args: Any, **more: Any
    ) -> Any:
        to_offset(file, offset)
        # asyncio gives the protocol back as if writing went on. Where the last bytes still wait,
        # the protocol would be told to resume what nobody told it to pause.
        try:
            return await super()._sendfile_fallback(transp, file, offset, *args, **more)
        finally:
            if isinstance(transp, StreamTransport):
                transp.tell_paused()

    # ---- clients ----

    def _live_session(self) -> Session:
        session = self._session
        if not session.attached:
            self._check_closed()
            raise session.gone()
        return session

    async def _connect_sock(
        self, exceptions: Any, addr_info: Any, local_addr_infos: Any = None, **more: Any
    ) -> Any:
        family, kind, proto, _, address = addr_info
        if kind != socket.SOCK_STREAM or not self._router.on_stack(family, address):
            return await super()._connect_sock(exceptions, addr_info, local_addr_infos, **more)
        mine: list[OSError] = []
        exceptions.append(mine)
        sock = None
        try:
            sock = StackSocket._open(self._live_session(), family, kind, proto, True)
            sock._ep().nodelay = True
            if local_addr_infos is not None:
                _bind_local(sock, family, local_addr_infos, mine)
            await self._connect(sock._ep(), address)
            return sock
        except OSError as exc:
            mine.append(exc)
            if sock is not None:
                sock.close()
            raise
        except BaseException:
            if sock is not None:
                sock.close()
            raise
        finally:
            exceptions = mine = None  # type: ignore[assignment]  # no cycle through the traceback

    @typed_as(asyncio.SelectorEventLoop.create_connection)
    async def create_connection(self, *args: Any, sock: Any = None, **kwargs: Any) -> Any:
        """As asyncio's. A kernel socket that is connected already stays on the kernel."""
        if sock is not None and stack_socket(sock) is None:
            self._inherited.connected(sock, "create_connection()")
        return await super().create_connection(*args, sock=sock, **kwargs)

    @typed_as(asyncio.SelectorEventLoop.connect_accepted_socket)
    async def connect_accepted_socket(self, protocol_factory: Any, sock: Any, **kwargs: Any) -> Any:
        """As asyncio's. A kernel socket stays on the kernel."""
        if stack_socket(sock) is None:
            self._inherited.connected(sock, "connect_accepted_socket()")
        return await super().connect_accepted_socket(protocol_factory, sock, **kwargs)

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
        """As asyncio's. Numbers are answered at once; names are looked up in the executor."""
        found = None if self._debug else look_up_literal(host, port, family, type, proto, flags)
        if found is not None:
            return found
        return await super().getaddrinfo(
            host, port, family=family, type=type, proto=proto, flags=flags
        )

    # ---- datagrams ----

    @typed_as(asyncio.SelectorEventLoop.create_datagram_endpoint)
    async def create_datagram_endpoint(  # type: ignore[override]
        self,
        protocol_factory: Any,
        local_addr: Any = None,
        remote_addr: Any = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: Any = None,
    ) -> Any:
        """As asyncio's. Addresses that the router gives to the stack are there, and so is a socket
        of AF_INET or AF_INET6 that is bound to none."""
        opened = None
        if sock is not None:
            modified = local_addr or remote_addr or family or proto or flags
            if not (modified or reuse_port or allow_broadcast or stack_socket(sock)):
                self._inherited.to_receive(self, sock)
        elif (local_addr or remote_addr or family) and family != socket.AF_UNIX:
            opened = await open_datagram(
                self,
                local_addr,
                remote_addr,
                family=family,
                proto=proto,
                flags=flags,
                reuse_port=bool(reuse_port),
                broadcast=bool(allow_broadcast),
            )
        if opened is None:
            return await super().create_datagram_endpoint(
                protocol_factory,
                local_addr,
                remote_addr,
                family=family,
                proto=proto,
                flags=flags,
                reuse_port=reuse_port,
                allow_broadcast=allow_broadcast,
                sock=sock,
            )
        stack, address = opened
        waiter: asyncio.Future[None] = self.create_future()
        try:
            protocol = protocol_factory()
        except BaseException:
            stack.close()
            raise
        transport = DatagramTransport(self, stack, protocol, address, waiter)
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol

    def _make_datagram_transport(
        self,
        sock: Any,
        protocol: Any,
        address: Any = None,
        waiter: Any = None,
        extra: Any = None,
        **more: Any,
    ) -> Any:
        stack = stack_socket(sock)
        if stack is None:
            return super()._make_datagram_transport(sock, protocol, address, waiter, extra, **more)
        self._own_session(stack)
        transport = DatagramTransport(self, stack, protocol, address, waiter)
        transport.own(sock)
        return transport

    # ---- servers ----

    async def create_server(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        *,
        family: int = socket.AF_UNSPEC,
        flags: int = socket.AI_PASSIVE,
        sock: socket.socket | StackSocket | None = None,
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
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        if ssl_handshake_timeout is not None and ssl is None:
            raise ValueError("ssl_handshake_timeout is only meaningful with ssl")
        if ssl_shutdown_timeout is not None and ssl is None:
            raise ValueError("ssl_shutdown_timeout is only meaningful with ssl")
        if host is None and port is None:
            sockets = self._given_to_serve(sock)
        elif sock is not None:
            raise ValueError("host/port and sock can not be specified at the same time")
        else:
            sockets = bind_sockets(
                self._live_session(),
                self._router,
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
        # The host stack is this kernel: nothing is left to serve.
        return (self._config.dual_listen if asked is None else asked) and not same_kernel(
            self._live_session().client.stack
        )

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

    def _given_to_serve(self, sock: Any) -> list[Any]:
        if sock is None:
            raise ValueError("Neither host/port nor sock were specified")
        if isinstance(sock, ssl_module.SSLSocket):
            raise TypeError("Socket cannot be of type SSLSocket")
        if sock.type != socket.SOCK_STREAM:
            raise ValueError(f"A Stream Socket was expected, got {sock!r}")
        stack = stack_socket(sock)
        if stack is None:
            return self._inherited.to_serve(self, sock)
        stack._ep().nodelay = True
        return [sock]

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
        stack = stack_socket(sock)
        if stack is None:
            if context is not None:
                named["context"] = context
            super()._start_serving(
                protocol_factory,
                sock,
                sslcontext,
                server,
                backlog,
                ssl_handshake_timeout,
                ssl_shutdown_timeout,
                *more,
                **named,
            )
            worker.serving(self)
            return
        self._own_session(stack)
        listener = Listener(
            self,
            stack._ep(),
            protocol_factory,
            sslcontext,
            server,
            backlog,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
            context,
        )
        listener.start()
        self._listeners[stack] = listener
        worker.serving(self)

    def _stop_serving(self, sock: Any, **more: Any) -> None:
        stack = stack_socket(sock)
        if stack is None:
            super()._stop_serving(sock, **more)
            return
        listener = self._listeners.pop(stack, None)
        if listener is not None:
            listener.stop()
        sock.close()

    def _retire(self) -> None:
        """Serves no new connection on the stack: the listeners are closed, what waits in them is
        for those that share their addresses. Servers do not know of it; connections go on."""
        for sock in list(self._listeners):
            self._stop_serving(sock)

    # ---- the instance goes and comes back ----

    def _session_lost(self, code: int) -> None:
        session = self._session
        self._poller.detach()
        self._batches = None
        if session.forked:
            self._poller.renew()
        session.lost()
        if self._listeners and (session.forked or not self._config.reconnect):
            why = (
                "a forked child leaves them to its parent" if session.forked else "reconnect is off"
            )
            log.error("%d listening sockets are not restored: %s", len(self._listeners), why)
        if self._config.reconnect:
            Reattach(self, session)

    def _serving(self) -> list[Listener]:
        return list(self._listeners.values())

    def _attached_again(self, client: Client) -> None:
        self._session.attach(client)
        self._choose_routes(client.stack)
        self._poller.attach(self._session)
        self._batches = self._poller.batch
        self._say(client)


def _pin(cpu: int | None) -> None:
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


def _bind_local(
    sock: StackSocket, family: int, local_addr_infos: Any, exceptions: list[OSError]
) -> None:
    """Binds to the first of the local addresses that can be; asyncio's messages when none."""
    for info in local_addr_infos:
        address = info[4]
        if info[0] != family:
            continue
        try:
            sock.bind(address)
            return
        except OSError as exc:
            reason = (exc.strerror or str(exc)).lower()
            message = f"error while attempting to bind on address {address!r}: {reason}"
            exceptions.append(OSError(exc.errno, message))
    if exceptions:
        raise exceptions.pop()
    raise OSError(f"no matching local address with {family=} found")


def new_event_loop(**options: Unpack[LoopOptions]) -> Loop:
    """A new Loop: for `asyncio.Runner(loop_factory=...)` and everything that takes a factory."""
    return Loop(**options)
