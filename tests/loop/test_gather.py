"""The writes of one callback to one transport: all but the first may wait for its end.

In direct mode those of many callbacks wait for the end of the iteration.
"""

import asyncio
import contextlib
import os
import socket
import time

import pytest

import ffloop

from .util import Log, pair

PIECES = (b"head ", b"body ", b"tail.")


def submitted():
    return asyncio.get_running_loop().ffloop_stats()["submitted"]


@contextlib.asynccontextmanager
async def crowd():
    """Connections to each of which a callback has just written, as those of a busy server: their
    clients and servers."""
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        pairs = [await stack.enter_async_context(pair()) for _ in range(8)]
        for client, _server in pairs:
            loop.call_soon(client.transport.write, b"first ")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        yield pairs


alone_or_not = pytest.mark.parametrize("around", [contextlib.nullcontext, crowd])


class InPieces(Log):
    """Answers whatever comes."""

    def data_received(self, data):
        super().data_received(data)
        for piece in PIECES:
            self.transport.write(piece)


def test_who_answers_in_pieces_sends_once(run_ff):
    """From the second answer on: client and server send once each."""
    sends = []

    async def main():
        async with pair(InPieces) as (client, _server):
            for size in range(15, 61, 15):
                before = submitted()
                client.transport.write(b"?")
                await client.got(size)
                sends.append(submitted() - before)
            assert client.data == b"head body tail." * 4

    run_ff(main())
    assert sends == [3, 2, 2, 2]


def test_the_first_write_goes_out_at_once(run_ff):
    async def main():
        async with pair() as (client, server):
            for _ in range(3):
                before = submitted()
                client.transport.write(b"at once")
                assert submitted() == before + 1
                await asyncio.sleep(0)
                assert submitted() == before + 1
            assert await server.got(21) == b"at once" * 3

    run_ff(main())


def test_the_others_go_out_when_the_callback_ends(run_ff):
    async def main():
        async with pair() as (client, server):
            before = submitted()
            for piece in PIECES:
                client.transport.write(piece)
            assert submitted() == before + 1
            await asyncio.sleep(0)
            assert submitted() == before + 2
            assert await server.got(15) == b"head body tail."

    run_ff(main())


def test_no_more_waits_than_the_high_water_mark(run_ff):
    async def main():
        async with pair() as (client, server):
            client.transport.set_write_buffer_limits(high=9)
            before = submitted()
            for piece in PIECES:
                client.transport.write(piece)
            assert submitted() == before + 2
            client.transport.set_write_buffer_limits(high=0)
            for sent, piece in enumerate(PIECES, 3):
                client.transport.write(piece)
                assert submitted() == before + sent
            assert await server.got(30) == b"head body tail." * 2

    run_ff(main())


FOLLOWING = {
    "eof": lambda transport: transport.write_eof(),
    "close": lambda transport: transport.close(),
    "abort": lambda transport: transport.abort(),
    "shutdown": lambda transport: transport.get_extra_info("socket").shutdown(socket.SHUT_WR),
}


@alone_or_not
@pytest.mark.parametrize("following", FOLLOWING)
def test_the_end_stays_behind(run_std, following, around):
    async def main():
        async with pair() as (client, server), around():
            for piece in PIECES:
                client.transport.write(piece)
            FOLLOWING[following](client.transport)
            await server.lost
            assert server.data == b"head body tail."

    run_std(main())


@alone_or_not
def test_other_ways_of_writing_stay_behind(run_std, tmp_path, around):
    path = tmp_path / "file"
    path.write_bytes(b"file ")

    async def main():
        async with pair() as (client, server), around():
            transport, expected = client.transport, bytearray()
            ways = (bytearray, memoryview, lambda data: [data, b"x" * 100_000])
            for way in ways:
                for piece in PIECES:
                    transport.write(piece)
                data = way(b"this ")
                (transport.writelines if type(data) is list else transport.write)(data)
                expected += b"head body tail." + (b"".join(data) if type(data) is list else data)
            transport.write(b"then ")
            with path.open("rb") as file:
                await asyncio.get_running_loop().sendfile(transport, file)
            expected += b"then file "
            assert await server.got(len(expected)) == expected

    run_std(main())


def test_two_transports_of_one_callback(run):
    async def main():
        async with pair() as (one, of_one), pair() as (two, of_two):
            for piece in PIECES:
                one.transport.write(piece)
                two.transport.write(piece.upper())
            assert await of_one.got(15) == b"head body tail."
            assert await of_two.got(15) == b"HEAD BODY TAIL."

    run(main())


@pytest.mark.parametrize("way", ["fileno", "dup"])
def test_who_takes_the_descriptor_comes_behind(run_ff, way):
    async def main():
        async with pair() as (client, server):
            sock = client.transport.get_extra_info("socket")
            before = submitted()
            for piece in PIECES:
                client.transport.write(piece)
            taken = getattr(sock, way)()
            assert submitted() == before + 2
            if way == "dup":
                taken.close()
            assert await server.got(15) == b"head body tail."

    run_ff(main())


@alone_or_not
def test_nothing_is_unsent_when_that_is_asked(run_std, around):
    async def main():
        async with pair() as (client, server), around():
            for piece in PIECES:
                client.transport.write(piece)
                assert client.transport.get_write_buffer_size() == 0
            await server.got(15)

    run_std(main())


@alone_or_not
def test_a_callback_that_raises_has_written(run_std, around):
    async def main():
        async with pair() as (client, server), around():

            def fail():
                for piece in PIECES:
                    client.transport.write(piece)
                raise ValueError

            asyncio.get_running_loop().call_soon(fail)
            await server.got(15)

    run_std(main())
    assert [type(each["exception"]) for each in run_std.errors] == [ValueError]
    run_std.errors.clear()


def test_a_callback_that_ends_the_loop_has_written(run_ff):
    async def connect():
        connection = pair()
        return connection, *await connection.__aenter__()

    with asyncio.Runner(loop_factory=run_ff.factory) as runner:
        connection, client, server = runner.run(connect())
        loop = runner.get_loop()

        def leave():
            for piece in PIECES:
                client.transport.write(piece)
            raise SystemExit

        before = loop.ffloop_stats()["submitted"]
        loop.call_soon(leave)
        with pytest.raises(SystemExit):
            loop.run_forever()
        assert loop.ffloop_stats()["submitted"] == before + 2
        assert runner.run(server.got(15)) == b"head body tail."
        runner.run(connection.__aexit__(None, None, None))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # it has threads
def test_a_fork_has_nothing_to_send(run_ff):
    async def main():
        async with pair() as (client, server):
            before = submitted()
            for piece in PIECES:
                client.transport.write(piece)
            child = os.fork()
            if not child:
                os._exit(0)
            assert submitted() == before + 2
            os.waitpid(child, 0)
            assert await server.got(15) == b"head body tail."

    run_ff(main())


# ---- many callbacks write ------------------------------------------------------------------------


@pytest.fixture
def run_direct(monkeypatch):
    monkeypatch.setenv("FFLOOP_INSTANCE", "direct")
    return ffloop.run


def test_many_send_at_the_end_of_the_iteration(run_direct):
    """Unless they take long: on a busy machine more than one round may be needed."""

    async def main():
        loop = asyncio.get_running_loop()
        async with crowd() as pairs:
            seen, rounds = [], 0
            while seen[-2:] != [0, len(pairs)]:
                rounds += 1
                assert rounds < 1000
                before = submitted()
                for client, _server in pairs:
                    loop.call_soon(client.transport.write, b"second ")
                loop.call_soon(lambda before=before: seen.append(submitted() - before))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                seen.append(submitted() - before)
            for _client, server in pairs:
                data = await server.got(6 + 7 * rounds)
                assert data == b"first " + b"second " * rounds

    run_direct(main())


def test_a_long_callback_keeps_no_other_ones_data(run_direct):
    """Those before it have had their share of the time: the writes leave when it ends."""

    async def main():
        loop = asyncio.get_running_loop()
        async with crowd() as pairs:
            before, seen = submitted(), []
            for client, _server in pairs:
                loop.call_soon(client.transport.write, b"second ")
            loop.call_soon(time.sleep, 0.002)
            loop.call_soon(lambda: seen.append(submitted() - before))
            await asyncio.sleep(0)
            assert seen == [len(pairs)]

    run_direct(main())


def test_what_one_callback_writes_waits_among_many(run_direct):
    """Until somebody takes the descriptor."""

    async def main():
        async with crowd() as ((client, server), *_others):
            before = submitted()
            client.transport.write(b"second ")
            client.transport.write(b"third")
            assert submitted() == before
            client.transport.get_extra_info("socket").fileno()
            assert submitted() == before + 1
            assert await server.got(18) == b"first second third"

    run_direct(main())


def test_who_is_paused_writes_to_another(run_std):
    """What one is told while the others' writes are sent comes behind them."""

    async def main():
        async with crowd() as ((one, of_one), (two, of_two), *_others):

            class Tells(asyncio.Protocol):
                def pause_writing(self):
                    one.transport.write(b"third")

            two.transport.set_protocol(Tells())
            one.transport.write(b"second ")
            two.transport.write(b"x" * 10_000_000)
            assert await of_one.got(18) == b"first second third"
            assert len(await of_two.got(10_000_006)) == 10_000_006
            two.transport.set_protocol(two)

    run_std(main())
