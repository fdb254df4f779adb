"""What warns of what: a program whose warnings are errors, in development mode, is told nothing."""

import sys

import pytest
from common.processes import completed

PROGRAM = """
import asyncio, contextlib, gc, os, signal, socket
import ffloop

async def main(ends):
    loop = asyncio.get_running_loop()

    async def echo(reader, writer):
        with contextlib.suppress(ConnectionResetError):
            while data := await reader.read(1000):
                writer.write(data)
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    udp, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, server.sockets[0].getsockname())
    await loop.sock_sendall(sock, b"again")
    assert await loop.sock_recv(sock, 5) == b"again"
    if ends:
        os.kill(loop.instance.pid, signal.SIGKILL)
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
    sock.close()
    udp.close()
    writer.close()
    try:
        await writer.wait_closed()
    except ConnectionResetError:
        assert ends
    if echoes := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(echoes)
    server.close()
    await server.wait_closed()

ffloop.run(main(ENDS))
gc.collect()
"""


@pytest.mark.parametrize("ends", [False, pytest.param(True, marks=pytest.mark.ring)])
def test_nothing_is_warned_of(stack, monkeypatch, ends):
    """An echo server and its clients; also where the instance is lost beneath them."""
    monkeypatch.setenv("FFLOOP_RECONNECT", "0")
    done = completed(
        sys.executable, "-P", "-X", "dev", "-W", "error", "-c", PROGRAM.replace("ENDS", str(ends))
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert "Traceback" not in done.stderr
