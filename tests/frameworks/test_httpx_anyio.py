"""httpx, and anyio underneath it: its asyncio backend on ffloop."""

import asyncio
import ssl
import subprocess
import sys

import pytest
from loop.util import BIND, HOST, PEER

import ffloop

from .util import EXAMPLES, on_stack

anyio = pytest.importorskip("anyio")
from anyio.streams.tls import TLSListener, TLSStream  # noqa: E402

answering: set[asyncio.Task[None]] = set()


async def answered():
    """Until every answer() is done: CPython 3.11.7 reports handlers that asyncio.run cancels."""
    while answering:
        await asyncio.wait(answering)


async def answer(reader, writer):
    """HTTP/1.1 with kept-alive connections; /close closes after the answer, /big is 1 MiB."""
    task = asyncio.current_task()
    answering.add(task)
    task.add_done_callback(answering.discard)
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split()[1].decode()
            body = b"x" * (1 << 20) if path == "/big" else path.encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()
            if path == "/close":
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


def test_httpx(run_ff, tls):
    httpx = pytest.importorskip("httpx")
    server_tls, client_tls = tls

    async def main():
        for scheme, server_ssl in (("http", None), ("https", server_tls)):
            server = await asyncio.start_server(answer, HOST, 0, ssl=server_ssl)
            base = f"{scheme}://{HOST}:{server.sockets[0].getsockname()[1]}"
            async with httpx.AsyncClient(base_url=base, verify=client_tls, timeout=None) as client:
                answers = await asyncio.gather(*(client.get(f"/{i}") for i in range(50)))
                assert [a.text for a in answers] == [f"/{i}" for i in range(50)]
                stream = answers[0].extensions["network_stream"]
                sock = stream.get_extra_info("socket")._sock
                assert type(sock).__module__.startswith("ffloop._net.") is run_ff.by_ring
                assert len((await client.get("/big")).content) == 1 << 20
                # The server closes a kept-alive connection: httpx must see it before it reuses it.
                # (It does not see a TLS connection's, on asyncio either: the loop has read it.)
                for _ in range(5 if server_ssl is None else 0):
                    closed = await client.get("/close")
                    assert closed.text == "/close"
                    stream = closed.extensions["network_stream"]
                    while not stream.get_extra_info("is_readable"):
                        await asyncio.sleep(0.001)
            server.close()
            await answered()

    run_ff(main())


def test_anyio_streams(run_ff):
    """anyio makes its own kernel sockets; those that connect become the stack's."""

    async def serve(stream):
        async with stream:
            async for data in stream:
                await stream.send(data)
            await stream.send(b"end")

    async def main():
        server = await asyncio.start_server(answer, HOST, 0)
        port = server.sockets[0].getsockname()[1]
        async with await anyio.connect_tcp(HOST, port) as stream:
            assert on_stack(stream._transport)
            assert stream.extra(anyio.abc.SocketAttribute.remote_address) == (HOST, port)
            await stream.send(b"GET /anyio HTTP/1.1\r\n\r\n")
            assert (await stream.receive()).endswith(b"/anyio")
            with anyio.move_on_after(0.01) as scope:
                await stream.receive()
            assert scope.cancelled_caught
        server.close()
        await answered()
        with pytest.raises(OSError):
            await anyio.connect_tcp(HOST, port)

    run_ff(main())


@pytest.mark.parametrize("secure", [False, True])
def test_anyio_listeners(stack, tls, secure):
    """They listen on kernel sockets: the kernel serves them with the host stack, and the stack does
    where they are adopted."""
    server_tls, client_tls = tls

    async def serve(stream):
        async with stream:
            async for data in stream:
                await stream.send(data)

    async def main(host):
        listener = await anyio.create_tcp_listener(local_host=BIND)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        if secure:
            listener = TLSListener(listener, server_tls)
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, serve)
            await anyio.wait_all_tasks_blocked()  # adopted with the first accept
            for number in range(5):
                stream = await anyio.connect_tcp(host, port)
                if secure:
                    stream = await TLSStream.wrap(
                        stream, hostname="localhost", ssl_context=client_tls
                    )
                async with stream:
                    await stream.send(b"%d" % number)
                    assert await stream.receive() == b"%d" % number
            group.cancel_scope.cancel()
        await listener.aclose()
        return type(asyncio.get_running_loop())

    for policy, host in (("kernel", PEER), ("adopt", HOST)):
        loop = anyio.run(
            main,
            host,
            backend_options={"loop_factory": lambda: ffloop.Loop(kernel_sockets=policy)},  # noqa: B023
        )
        assert issubclass(loop, ffloop.Loop)


def test_example():
    done = subprocess.run([sys.executable, "-P", EXAMPLES / "anyio_echo.py"], stdout=-1, check=True)
    assert done.stdout.startswith(b"echoed: hello through InstanceInfo(")


def test_tls_over_a_stream_that_ends_badly(run_ff, tls):
    server_tls, client_tls = tls

    async def cut(reader, writer):
        writer.transport.abort()

    async def main():
        server = await asyncio.start_server(cut, HOST, 0, ssl=server_tls)
        port = server.sockets[0].getsockname()[1]
        stream = await anyio.connect_tcp(HOST, port)
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream, ssl.SSLError)):
            stream = await TLSStream.wrap(stream, hostname="localhost", ssl_context=client_tls)
            await stream.receive()
        await anyio.aclose_forcefully(stream)
        server.close()

    run_ff(main())
