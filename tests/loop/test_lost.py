"""Of several who wait when a session is lost: each is told, by an exception of its own."""

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest
from common import instances

import ffloop

from .util import HOST, Log, until

pytestmark = pytest.mark.ring


@pytest.fixture
def instance(tmp_path) -> Iterator[tuple[str, object]]:
    """The path of an instance, and its process."""
    path = str(tmp_path / "instance.sock")
    with instances.running(path) as process:
        yield path, process


def depth(exc):
    """How many frames its traceback has."""
    trace, count = exc.__traceback__, 0
    while trace is not None:
        trace, count = trace.tb_next, count + 1
    return count


def test_each_has_an_exception_of_its_own(instance, tmp_path):
    """Each that raises one adds its traceback to it, and its context."""
    path, process = instance
    with (tmp_path / "file").open("wb") as file:
        file.truncate(64 << 20)  # more than the kernel's buffers

    async def sends_file(address):
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(Log, *address)
        with (tmp_path / "file").open("rb") as file:
            sending = asyncio.create_task(loop.sendfile(transport, file))
            await until(lambda: transport._flushing and not transport._flushing.done())
            waits.append(sending)
            await asyncio.wait([sending])

    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server((HOST, 0)) as listener, ffloop.socket() as sock:
            address = listener.getsockname()
            await loop.sock_connect(sock, address)
            waits.extend(asyncio.create_task(loop.sock_recv(sock, 1)) for _ in range(3))
            for _ in range(3):
                streams.append(await asyncio.open_connection(*address))
                waits.append(asyncio.create_task(streams[-1][0].read()))
            sending = [asyncio.create_task(sends_file(address)) for _ in range(3)]
            await until(lambda: len(waits) == 9)
            process.kill()
            told = await asyncio.gather(*waits, return_exceptions=True)
            await asyncio.wait(sending)
        assert {type(exc) for exc in told} == {ffloop.InstanceGone}
        assert len({id(exc) for exc in told}) == 9
        for exc in told:
            assert exc.__context__ is None
            assert depth(exc) < 9

    waits, streams = [], []
    ffloop.run(main(), instance=path, reconnect=False)


def test_what_fails_with_one_is_not_the_others(instance, caplog):
    """The program has closed a descriptor of the library's: nobody else pays for that."""
    path, process = instance

    async def main():
        loop = asyncio.get_running_loop()
        socks = [ffloop.socket() for _ in range(3)]
        with socket.create_server((HOST, 0)) as listener:
            for sock in socks:
                await loop.sock_connect(sock, listener.getsockname())
            waits = [asyncio.create_task(loop.sock_recv(sock, 1)) for sock in socks]
            _, protocol = await loop.create_connection(Log, *listener.getsockname())
            await asyncio.sleep(0)
            os.close(socks[0].fileno())
            process.kill()
            told = await asyncio.gather(*waits, return_exceptions=True)
            assert {type(exc) for exc in told} == {ffloop.InstanceGone}
            assert isinstance(await protocol.lost, ffloop.InstanceGone)
        await asyncio.to_thread(process.wait)
        with instances.running(path):
            await until(lambda: loop._session.attached)
        for sock in socks[1:]:
            sock.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            socks[0].close()

    ffloop.run(main(), instance=path)
    assert "could not be told that its session is lost" in caplog.text


@pytest.mark.parametrize("sends", [False, True])
def test_a_datagram_endpoint_that_finds_the_end(instance, sends):
    """It is told of it once, by connection_lost."""
    path, process = instance

    class Ends(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, address):
            process.kill()
            process.wait()
            with pytest.raises(ffloop.InstanceGone):
                while sends:
                    self.transport._endpoint.client().ping()
            self.transport.sendto(data, address)

        def error_received(self, exc):
            told.append(exc)

        def connection_lost(self, exc):
            lost.set_result(exc)

    async def main():
        nonlocal lost
        loop = asyncio.get_running_loop()
        lost = loop.create_future()
        transport, _ = await loop.create_datagram_endpoint(Ends, (HOST, 0))
        with socket.socket(type=socket.SOCK_DGRAM) as peer:
            peer.sendto(b"data", transport.get_extra_info("sockname"))
            assert isinstance(await lost, ffloop.InstanceGone)

    told, lost = [], None
    ffloop.run(main(), instance=path, reconnect=False)
    assert told == []
