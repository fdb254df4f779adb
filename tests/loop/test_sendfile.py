"""What direct mode sends: pieces in order, files by the kernel."""

import asyncio
import gc
import os
import socket

import pytest

import ffloop

from .util import HOST, Log, pair


def test_pieces_go_out_in_order(run_direct):
    """More pieces than one call takes, and more bytes than the kernel does."""

    async def main():
        async with pair() as (client, server):
            pieces = [bytes([i % 251]) * 40_000 for i in range(200)]
            client.transport.writelines([bytearray(pieces[0]), *map(memoryview, pieces[1:])])
            assert client.transport.get_write_buffer_size() > 0
            assert await server.got(200 * 40_000) == b"".join(pieces)

    run_direct(main())


def test_a_file_is_sent_by_the_kernel(run_direct, tmp_path):
    (tmp_path / "file").write_bytes(os.urandom(3_000_000))

    async def main():
        loop = asyncio.get_running_loop()
        async with pair() as (client, server):
            client.transport.write(b"head")
            with (tmp_path / "file").open("rb") as file:
                sending = loop.create_task(loop.sendfile(client.transport, file, fallback=False))
                await asyncio.sleep(0)
                with pytest.raises(RuntimeError, match="sendfile is in progress"):
                    client.transport.write(b"within")
                assert await sending == 3_000_000
            client.transport.write(b"tail")
            expected = b"head" + (tmp_path / "file").read_bytes() + b"tail"
            assert await server.got(len(expected)) == expected

    run_direct(main())


def test_a_sendfile_whose_connection_ends_logs_nothing(run_direct, tmp_path):
    """Also where asyncio, as we, leaves it waiting."""

    async def main():
        loop = asyncio.get_running_loop()
        told = []
        loop.set_exception_handler(lambda _, context: told.append(context))
        async with pair() as (client, server):
            server.transport.pause_reading()
            with (tmp_path / "file").open("wb+") as file:
                file.truncate(64 << 20)
                sending = loop.create_task(loop.sendfile(client.transport, file, fallback=False))
                for _ in range(10):
                    await asyncio.sleep(0)
                client.transport.abort()
                await client.lost
                sending.cancel()
                await asyncio.wait([sending])
            del sending
            gc.collect()
            await asyncio.sleep(0)
            assert told == []

    run_direct(main())


@pytest.mark.parametrize("run_ff", ["direct"], indirect=True)
def test_a_sendfile_is_told_also_where_the_socket_cannot_be_closed(run_ff, tmp_path):
    """It waits for what was written before it. What close() raises is reported."""
    (tmp_path / "file").write_bytes(b"bytes")

    class Stuck(socket.socket):
        def close(self):
            super().close()
            raise OSError("not today")

    async def main():
        loop = asyncio.get_running_loop()
        told = []
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
        with socket.create_server((HOST, 0)) as listener:
            sock = Stuck()
            sock.setblocking(False)
            await loop.sock_connect(sock, listener.getsockname())
            transport, protocol = await loop.create_connection(Log, sock=sock)
            transport.write(bytes(32 << 20))
            with (tmp_path / "file").open("rb") as file:
                sending = loop.create_task(loop.sendfile(transport, file))
                for _ in range(10):
                    await asyncio.sleep(0)
                transport.abort()
                with pytest.raises(ConnectionError):
                    await sending
            await protocol.lost
        assert [str(exc) for exc in told] == ["not today"]

    run_ff(main())


@pytest.mark.parametrize("run_std", ["asyncio", "direct", "ring"], indirect=True)
@pytest.mark.parametrize("reads_on", [False, True])
def test_reading_is_paused_and_resumed_while_a_file_is_sent(run_std, tmp_path, reads_on):
    """Both count from when it has been sent, and neither holds it up."""
    (tmp_path / "file").write_bytes(bytes(3_000_000))

    async def main():
        loop = asyncio.get_running_loop()
        async with pair() as (client, server):
            server.transport.pause_reading()
            with (tmp_path / "file").open("rb") as file:
                sending = loop.create_task(loop.sendfile(client.transport, file, fallback=False))
                for _ in range(10):
                    await asyncio.sleep(0)
                client.transport.pause_reading()
                if reads_on:
                    client.transport.resume_reading()
                server.transport.resume_reading()
                assert await sending == 3_000_000
            if isinstance(loop, ffloop.Loop):  # asyncio reads on in either case
                assert client.transport.is_reading() is reads_on
            await server.got(3_000_000)
            if not reads_on:
                client.transport.resume_reading()
            server.transport.write(b"answer")
            assert await client.got(6) == b"answer"

    run_std(main())
