"""SessionLoop: a Loop with TCP and UDP on an instance's stack.

It overrides the methods that make, connect or listen on a TCP socket or turn it into a transport,
and those of datagram endpoints.
"""

import asyncio
import socket
from typing import Any, Unpack

from .._net.inherited import Inherited
from .._net.promoted import number_of, stack_socket
from .._net.sockets import StackSocket
from .._session import choice, discovery, ownership
from .._session.binding import Client
from .._session.choice import InstanceInfo
from .._session.log import log
from .._session.options import LoopOptions
from .._session.routing import Router, same_kernel
from .._session.session import Session
from .asyncio_private import typed_as
from .datagram import DatagramTransport, open_datagram
from .listener import Listener
from .loop import Loop, pin
from .poller import Poller
from .reattach import Reattach
from .serving import Binding, bind_sockets
from .sock_calls import SockCalls
from .stream import StreamTransport


class SessionLoop(SockCalls, Loop):
    """The Loop that `ffloop.Loop()` makes where an instance is named or runs. Attaches at once."""

    def __init__(self, **options: Unpack[LoopOptions]) -> None:
        self._index = choice.next_index(self._config)
        pin(self._config.cpu())
        session = ownership.take_over(self._config)
        if session is None:
            session = Session(self._found or discovery.attach(self._config, self._index), self)
        else:
            session.belongs_to(self)
        poller = None
        try:
            self._choose_routes(session.client.stack)
            self._poller = poller = Poller(session, self._session_lost, self._config.spin_us)
            self._begin(poller)
        except BaseException:
            self._closed = True  # nothing is left to __del__
            if poller is not None:
                poller.detach()
                poller.close()
            session.close()
            raise
        self._session = session
        self._listeners: dict[StackSocket, Listener] = {}
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
        """As Loop's: of the session (client.h, struct ffl_session_stats)."""
        return self._live_session().client.stats() | {"waits": self._batches.waits}

    def __repr__(self) -> str:
        client = self._session.client if self._session.attached else None
        stack = "none" if client is None else client.stack
        return (
            f"<{type(self).__name__} stack={stack} running={self.is_running()} "
            f"closed={self.is_closed()} debug={self.get_debug()}>"
        )

    def _own_thread(self) -> None:
        self._session.run_by_this_thread()

    def _let_go(self) -> None:
        self._session.check_thread()
        self._poller.detach()

    def close(self) -> None:
        """As Loop's; ends the session."""
        closed = self.is_closed()
        super().close()
        if not closed:
            self._listeners.clear()
            self._session.close()

    @typed_as(asyncio.SelectorEventLoop.add_reader)
    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        """As asyncio's. Warns of a kernel TCP socket that is watched, since it passes the stack
        by."""
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

    # ---- transports ----

    def _make_socket_transport(
        self, sock: Any, protocol: Any, waiter: Any = None, **how: Any
    ) -> Any:
        stack = stack_socket(sock)
        if stack is None:
            return super()._make_socket_transport(sock, protocol, waiter, **how)
        self._own_session(stack)
        _ = protocol.connection_made  # AttributeError for what is no protocol, as asyncio
        extra, server, context = map(how.get, ("extra", "server", "context"))
        transport = StreamTransport(self, stack._ep(), protocol, extra, server, context)
        transport.own(sock, stack)
        self.call_soon(transport.begin, waiter, context=context)
        return transport

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
        """As asyncio's. On the stack for addresses that the router gives to the stack, and for a
        socket of AF_INET or AF_INET6 without an address."""
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

    def _dual(self, asked: bool | None) -> bool:
        # The host stack is this kernel: nothing is left to serve.
        return (self._config.dual_listen if asked is None else asked) and not same_kernel(
            self._live_session().client.stack
        )

    def _bind_sockets(self, infos: list[Any], how: Binding) -> list[Any]:
        session = self._live_session()

        def make(family: int, kind: int, proto: int) -> StackSocket:
            sock = StackSocket._open(session, family, kind, proto, False)
            sock._ep().nodelay = True
            return sock

        return bind_sockets(
            infos, how, lambda info: make if self._router.on_stack(info[0], info[4]) else None
        )

    def _given_to_serve(self, sock: Any) -> list[Any]:
        stack = stack_socket(sock)
        if stack is None:
            return self._inherited.to_serve(self, sock)
        stack._ep().nodelay = True
        return [sock]

    def _accept_at(self, sock: Any, *how: Any) -> bool:
        stack = stack_socket(sock)
        if stack is None:
            return False
        self._own_session(stack)
        listener = Listener(self, stack._ep(), *how)
        listener.start()
        self._listeners[stack] = listener
        return True

    def _stop_serving(self, sock: Any, **more: Any) -> None:
        stack = stack_socket(sock)
        if stack is None:
            super()._stop_serving(sock, **more)
            return
        listener = self._listeners.pop(stack, None)
        if listener is not None:
            listener.stop()
        sock.close()

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


def _bind_local(
    sock: StackSocket, family: int, local_addr_infos: Any, exceptions: list[OSError]
) -> None:
    """Binds to the first local address that can be had. Raises OSError in asyncio's words."""
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
