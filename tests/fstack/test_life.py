"""Applications and instances that are killed; applications that share an instance."""

import asyncio
import contextlib
import errno
import logging
import os
import pathlib
import signal
import socket

import pytest
from loop.util import Log, until

from fstack import net

PORT = 8081
KILLS = 5


class Pump(asyncio.Protocol):
    """A peer that always has an echo under way."""

    def __init__(self):
        self.echoed = 0
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        transport.write(b"x" * 16384)

    def data_received(self, data):
        self.echoed += len(data)
        self.transport.write(data)

    def connection_lost(self, exc):
        self.lost.set_result(exc)


@pytest.mark.timeout(90)
def test_killed_applications_leave_nothing(fstack):
    async def load_and_kill(process):
        loop = asyncio.get_running_loop()
        pumps = [(await loop.create_connection(Pump, net.STACK, PORT))[1] for _ in range(16)]
        await until(lambda: all(pump.echoed > 65536 for pump in pumps))
        assert fstack.stats().open_sockets >= 16
        process.kill()
        await asyncio.gather(*(pump.lost for pump in pumps))

    began = fstack.stats()
    for _ in range(KILLS):
        with net.example("protocol_echo.py", fstack, PORT) as process:
            with (
                net.within(fstack.net.peer),
                asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner,
            ):
                runner.run(load_and_kill(process))
            net.drained(fstack)
    ended = fstack.stats()
    assert ended.pid == began.pid == fstack.process.pid
    grown = {name: n - began.totals[name] for name, n in ended.totals.items()}
    assert grown["sessions_total"] == KILLS
    assert grown["sessions_killed"] == 0  # none broke the protocol


def test_killed_instance_comes_back(fstack, on_fstack, caplog):
    """The application is told at once, waits, and serves again at the same address."""
    import ffloop

    def ask(addr):
        with socket.create_connection(addr, 10) as sock:
            sock.sendall(b"question")
            return sock.recv(100)

    async def main():
        loop = asyncio.get_running_loop()
        made = []

        class Answer(Log):
            def data_received(self, data):
                super().data_received(data)
                self.transport.write(b"answer")

        server = await loop.create_server(lambda: made.append(Answer()) or made[-1], net.STACK, 0)
        addr = server.sockets[0].getsockname()
        assert await asyncio.to_thread(ask, addr) == b"answer"
        peer = socket.create_connection(addr, 10)
        await until(lambda: len(made) == 2)
        fstack.kill()
        exc = await made[1].lost
        assert isinstance(exc, ffloop.InstanceGone)
        assert isinstance(exc, ConnectionResetError)
        with pytest.raises(ConnectionResetError, match="instance ended"):
            await loop.create_connection(Log, net.PEER, 9)
        fstack.start()  # (not in a thread: it would end with the thread that started it)
        while True:
            try:
                assert await asyncio.to_thread(ask, addr) == b"answer"
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
        # The new stack knows nothing of the old connection, and says so.
        peer.sendall(b"still there?")
        with peer, pytest.raises(ConnectionResetError):
            await asyncio.to_thread(peer.recv, 1)
        assert loop.instance.pid == fstack.process.pid
        server.close()

    with caplog.at_level(logging.INFO, "ffloop"):
        ffloop.run(main())
    assert "ended" in caplog.text
    assert "listening again" in caplog.text


def test_two_applications(fstack, on_fstack):
    """One instance, two applications: a port has one owner, and one's end is not the other's."""
    import ffloop

    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(OSError) as caught:
            await loop.create_server(Log, net.STACK, PORT)
        assert caught.value.errno == errno.EADDRINUSE
        made = []
        server = await loop.create_server(lambda: made.append(Log()) or made[-1], net.STACK, 0)
        addr = server.sockets[0].getsockname()
        with socket.create_connection(addr, 10) as sock:
            await until(lambda: made)
            mine = loop.ffloop_stats()
            # Its sockets are in the instance's count, not in mine.
            assert mine["app_sockets"] == mine["inst_sockets"] == 2
            assert fstack.stats().open_sockets > 2
            assert len(fstack.stats().sessions) == 2
            process.kill()
            while len(fstack.stats().sessions) > 1:
                await asyncio.sleep(0)
            sock.sendall(b"all is well")
            assert await made[0].got(11) == b"all is well"
            made[0].transport.abort()
            await made[0].lost
        taken = await loop.create_server(Log, net.STACK, PORT)  # its port is free again
        taken.close()
        server.close()

    with net.example("protocol_echo.py", fstack, PORT) as process:
        ffloop.run(main())
    net.drained(fstack)


def test_idle_sleep(fstack, on_fstack):
    """An idle instance takes little of its CPU, and serves all the same."""
    import ffloop

    def cpu(pid):
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def main(pid):
        server = await asyncio.start_server(lambda _, w: w.close(), net.STACK, PORT)
        reader, writer = await asyncio.open_connection(net.STACK, PORT)
        assert await reader.read() == b""
        writer.close()
        before = cpu(pid)
        await asyncio.sleep(1)
        server.close()
        return cpu(pid) - before

    fstack.close()
    try:
        with contextlib.closing(
            net.Instance(fstack.net, *net.SHORT_FORM, "--idle-sleep", "1000", name="sleepy")
        ) as sleepy:
            used = ffloop.run(main(sleepy.process.pid), instance=sleepy.path)
    finally:
        fstack.start()
    assert used < 0.3, f"{used} s of CPU in a second of idleness"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
def test_an_orderly_end(fstack, on_fstack, how):
    """Peers are told, the application is told, the exit status is 0."""
    import ffloop

    async def main():
        loop = asyncio.get_running_loop()
        made = []
        await loop.create_server(lambda: made.append(Log()) or made[-1], net.STACK, PORT)
        with socket.create_connection((net.STACK, PORT), 10) as sock:
            await until(lambda: made)
            fstack.close(how)
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
        assert isinstance(await made[0].lost, ffloop.InstanceGone)

    try:
        ffloop.run(main(), reconnect=False)
    finally:
        if fstack.process.poll() is not None:
            fstack.start()
