"""Transports of pipes: as asyncio's, on asyncio's own loop too."""

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest

import ffloop

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [
    asyncio.new_event_loop,
    lambda: ffloop.new_event_loop(instance="direct", stack="host"),
]


@pytest.fixture(params=LOOPS, ids=["asyncio", "ffloop"])
def run(request: Any) -> Any:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner.run


class Notes(asyncio.Protocol):
    """Keeps what it is told; data of b"?" makes it raise."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.told: list[Any] = []
        self.lost = asyncio.get_running_loop().create_future()
        self.got = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.told.append("made")

    def data_received(self, data: bytes) -> None:
        self.got.set()
        if data == b"?":
            raise RuntimeError("not this")
        self.data += data

    def eof_received(self) -> None:
        self.told.append("eof")

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.told.append(type(exc))
        self.lost.set_result(None)


async def ends() -> tuple[Any, Notes, Any, Notes]:
    """(the reading transport, its protocol, the writing one, its)."""
    loop = asyncio.get_running_loop()
    read, write = os.pipe()
    reading, reader = await loop.connect_read_pipe(Notes, os.fdopen(read, "rb", 0))
    writing, writer = await loop.connect_write_pipe(Notes, os.fdopen(write, "wb", 0))
    return reading, reader, writing, writer


def test_more_than_the_pipe_holds_arrives_in_order_and_ends(run: Any) -> None:
    async def main() -> None:
        _, reader, writing, writer = await ends()
        sent = b"".join(i.to_bytes(4, "big") for i in range(200_000))
        writing.write(sent[:10])
        writing.write(memoryview(sent)[10:700_000])  # the pipe takes a part
        writing.write(bytearray(sent[700_000:]))
        assert writing.get_write_buffer_size() > 0
        writing.close()
        await asyncio.gather(reader.lost, writer.lost)
        assert reader.data == sent
        assert reader.told == ["made", "eof", type(None)]
        assert writer.told == ["made", "pause", "resume", type(None)]

    run(main())


def test_a_write_is_cut_and_the_rest_follows(run: Any) -> None:
    async def main() -> None:
        reading, reader, writing, _ = await ends()
        reading.pause_reading()
        sent = os.urandom(100_000)  # more than the pipe's 64 KiB, in one write
        writing.write(sent)
        assert 0 < writing.get_write_buffer_size() < len(sent)
        reading.resume_reading()
        writing.close()
        await reader.lost
        assert reader.data == sent

    run(main())


def test_who_writes_hears_that_nobody_reads(run: Any) -> None:
    async def main() -> None:
        reading, reader, writing, writer = await ends()
        reading.close()
        await asyncio.gather(reader.lost, writer.lost)
        writing.write(b"lost")
        assert writing.is_closing()
        assert reader.told == ["made", type(None)]
        assert writer.told == ["made", type(None)]

    run(main())


def test_what_data_received_raises_is_told_and_reading_goes_on(run: Any) -> None:
    async def main() -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        reading, reader, writing, _ = await ends()
        writing.write(b"?")
        await reader.got.wait()
        reader.got.clear()
        writing.write(b"!")
        await reader.got.wait()
        assert [str(context["exception"]) for context in told] == ["not this"]
        assert reader.data == b"!"
        reading.close()
        writing.close()
        await reader.lost

    run(main())


def test_a_stream_reader_is_fed_and_may_be_a_subclass(run: Any) -> None:
    class Reader(asyncio.StreamReader):
        fed = 0

        def feed_data(self, data: bytes) -> None:
            self.fed += len(data)
            super().feed_data(data)

    async def main(kind: type[asyncio.StreamReader]) -> asyncio.StreamReader:
        loop = asyncio.get_running_loop()
        read, write = os.pipe()
        reader = kind()
        await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read, "rb", 0)
        )
        writing, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(write, "wb", 0))
        writing.write(b"line\nrest")
        assert await reader.readline() == b"line\n"
        writing.close()
        assert await reader.read() == b"rest"
        return reader

    run(main(asyncio.StreamReader))
    assert run(main(Reader)).fed == 9
