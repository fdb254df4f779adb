"""A user's tests, written for asyncio."""

import asyncio

import pytest
import pytest_asyncio

import ffloop

pytestmark = pytest.mark.asyncio


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read())
    writer.close()


@pytest_asyncio.fixture
async def address():
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()


async def test_echo(address):
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"hello")
    writer.write_eof()
    assert await reader.read() == b"hello"
    writer.close()
    await writer.wait_closed()


async def test_the_loop():
    assert isinstance(asyncio.get_running_loop(), ffloop.Loop)
