"""Arguments and states that asyncio refuses: the same exceptions, in asyncio's words."""

import asyncio
import errno
import os
import socket
import ssl

import pytest

from .util import HOST, Log, pair, serve

pytestmark = [  # asyncio leaves sockets of what fails to the collector
    pytest.mark.usefixtures("collected"),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

NOT_SOCKETS = [1, "x", object(), -1.5]


async def refused(awaitable):
    """The exception, which is of the call and not a time-out."""
    with pytest.raises(Exception) as caught:
        await awaitable
    return caught.value


def test_what_is_no_socket_is_not_asked(run_std):
    async def main():
        loop = asyncio.get_running_loop()
        for sock in NOT_SOCKETS:
            exc = await refused(loop.create_connection(Log, HOST, 1, sock=sock))
            assert type(exc) is ValueError
            assert str(exc) == "host/port and sock can not be specified at the same time"
            for call in (
                loop.create_connection(Log, sock=sock),
                loop.connect_accepted_socket(Log, sock),
            ):
                exc = await refused(call)
                assert type(exc) is AttributeError
                assert str(exc).endswith("has no attribute 'type'")

    run_std(main())


class Number:
    """A file object of some descriptor."""

    def __init__(self, number):
        self.number = number

    def __repr__(self):
        return "<number>"

    def fileno(self):
        return self.number


@pytest.mark.parametrize("call", ["add_reader", "add_writer", "remove_reader", "remove_writer"])
def test_what_is_no_descriptor(run_std, call):
    async def main():
        loop = asyncio.get_running_loop()
        more = (print,) if call.startswith("add") else ()
        closed = socket.socket()
        closed.close()
        left = open(os.devnull)  # noqa: SIM115
        left.close()
        for fd, words in (
            (-1, "Invalid file descriptor: -1"),
            (Number(-3), "Invalid file descriptor: -3"),
            (closed, "Invalid file descriptor: -1"),
            (left, f"Invalid file object: {left!r}"),
            ("x", "Invalid file object: 'x'"),
            (Number("one"), "Invalid file object: <number>"),
            (None, "Invalid file object: None"),
        ):
            with pytest.raises(ValueError) as caught:
                getattr(loop, call)(fd, *more)
            assert (fd, str(caught.value)) == (fd, words)

    run_std(main())


def test_a_watched_object_that_was_closed_is_forgotten(run_std):
    async def main():
        loop = asyncio.get_running_loop()
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        loop.add_reader(reader, print)
        reader.close()
        assert loop.remove_reader(reader) is True
        with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
            loop.remove_reader(reader)
        writer.close()

    run_std(main())


def test_start_tls_without_a_context(run_std):
    async def main():
        async with pair() as (client, _):
            loop = asyncio.get_running_loop()
            for context in (None, True, "x"):
                exc = await refused(loop.start_tls(client.transport, client, context))
                assert type(exc) is TypeError
                assert str(exc) == (
                    f"sslcontext is expected to be an instance of ssl.SSLContext, got {context!r}"
                )

    run_std(main())


def test_what_is_no_protocol(run_ff):
    """asyncio says the same, and leaves its socket to the collector."""

    async def main():
        loop = asyncio.get_running_loop()
        async with serve() as (_, address):
            exc = await refused(loop.create_connection(lambda: None, *address))
            assert type(exc) is AttributeError
            assert str(exc) == "'NoneType' object has no attribute 'connection_made'"

    run_ff(main())


def test_a_closed_loop_serves_nothing(run_ff):
    loop = run_ff.factory()
    loop.close()
    left, right = socket.socketpair()
    left.setblocking(False)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    calls = [loop.create_server(asyncio.Protocol, sock=listener)]
    if not run_ff.by_ring:  # there asyncio's own transport serves a unix socket
        calls.append(loop.connect_accepted_socket(asyncio.Protocol, left))
    with left, right, listener:
        for call in calls:
            with pytest.raises(RuntimeError, match="Event loop is closed"):
                call.send(None)
            call.close()


def test_an_address_family_that_has_no_route(run_std):
    """What connect() itself refuses has its words, not those of a connect that was under way."""

    async def main():
        loop = asyncio.get_running_loop()
        connect = loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("255.255.255.255", 9)
        )
        exc = await refused(connect)
        assert (type(exc), str(exc)) == (PermissionError, "[Errno 13] Permission denied")
        exc = await refused(loop.create_connection(Log, "255.255.255.255", 9))
        assert exc.errno == errno.ENETUNREACH
        assert str(exc) == "[Errno 101] Network is unreachable"

    run_std(main())


def test_flags_that_getaddrinfo_refuses(run_std):
    async def main():
        exc = await refused(asyncio.get_running_loop().getaddrinfo(HOST, 80, flags=-1))
        assert (type(exc), exc.errno) == (socket.gaierror, socket.EAI_BADFLAGS)

    run_std(main())


def test_tls_needs_a_name(run_std):
    async def main():
        loop = asyncio.get_running_loop()
        context = ssl.create_default_context()
        for how, words in (
            (
                {"sock": 1, "ssl": context},
                "You must set server_hostname when using ssl without a host",
            ),
            ({"server_hostname": "x", "sock": 1}, "server_hostname is only meaningful with ssl"),
        ):
            exc = await refused(loop.create_connection(Log, **how))
            assert (type(exc), str(exc)) == (ValueError, words)

    run_std(main())
