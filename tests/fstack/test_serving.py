"""Serving from F-Stack to kernel peers over the wire. FFLOOP_FSTACK_FULL=1: a release's sizes."""

import asyncio
import collections
import contextlib
import errno
import hashlib
import http.client
import random
import re
import shutil
import socket
import subprocess
import threading
import time

import pytest

from fstack import net

PORT = 8080
BODY = random.Random(3).randbytes(1 << 20)
MEGABYTES = 100 if net.FULL else 8
SECONDS = 60 if net.FULL else 2


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_aiohttp_under_load(fstack):
    """The unmodified example, 64 connections: every request is answered."""
    pytest.importorskip("aiohttp")
    with net.example("aiohttp_server.py", fstack, PORT), net.within(fstack.net.peer):
        said = net.run(
            "wrk", "-t1", "-c64", f"-d{SECONDS}s", "--timeout", "60s", f"http://{net.STACK}:{PORT}/"
        )
    assert "Socket errors" not in said, said
    assert "Non-2xx" not in said, said
    assert int(re.search(r"(\d+) requests in", said)[1]) > SECONDS * 100, said
    net.drained(fstack)


@pytest.mark.timeout(60 + MEGABYTES)
@pytest.mark.parametrize("host", [net.STACK, net.STACK6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_large_bodies_are_exact(on_fstack, tls, host, secure):
    """Up and down, between FreeBSD's TCP and this kernel's."""
    import ffloop

    pytest.importorskip("aiohttp")
    from aiohttp import web

    expected = hashlib.sha256(BODY * MEGABYTES).hexdigest()
    server_tls, client_tls = tls if secure else (None, None)

    async def up(request):
        digest = hashlib.sha256()
        async for chunk in request.content.iter_any():
            digest.update(chunk)
        return web.Response(text=digest.hexdigest())

    async def down(request):
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(MEGABYTES):
            await response.write(BODY)
        return response

    def client(port):
        if secure:
            peer = http.client.HTTPSConnection(host, port, timeout=30, context=client_tls)
        else:
            peer = http.client.HTTPConnection(host, port, timeout=30)
        peer.request("POST", "/", (BODY for _ in range(MEGABYTES)))
        assert peer.getresponse().read().decode() == expected
        peer.request("GET", "/")
        response, digest = peer.getresponse(), hashlib.sha256()
        while chunk := response.read(1 << 18):
            digest.update(chunk)
        assert digest.hexdigest() == expected
        peer.close()

    async def main():
        app = web.Application(client_max_size=0)
        app.add_routes([web.post("/", up), web.get("/", down)])
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, host, 0, ssl_context=server_tls)
        await site.start()
        await asyncio.to_thread(client, runner.addresses[0][1])
        await runner.cleanup()

    ffloop.run(main())


@pytest.mark.timeout(SECONDS * 3 + 60)
def test_short_connections(fstack):
    """1,000 per second, each with one request; none is lost."""
    pytest.importorskip("aiohttp")
    total = 1000 * SECONDS
    request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    async def one(ahead):
        async with ahead:
            reader, writer = await asyncio.open_connection(net.STACK, PORT)
            writer.write(request)
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            assert answer.endswith(b"hello, world\n"), answer

    async def main():
        ahead = asyncio.Semaphore(500)  # a slow machine is not to run out of descriptors
        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for i in range(total):
                if (early := start + i / 1000 - time.monotonic()) > 0:
                    await asyncio.sleep(early)
                group.create_task(one(ahead))
        return time.monotonic() - start

    with net.example("aiohttp_server.py", fstack, PORT), net.within(fstack.net.peer):
        accepted = fstack.stats().totals["accepts"]
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            took = runner.run(main())
        # The connection that asked whether it serves may be accepted late.
        assert fstack.stats().totals["accepts"] - total in (accepted, accepted + 1)
    if net.FULL:
        assert took < SECONDS * 1.05, f"{total / took:.0f} a second"
    net.drained(fstack)


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_workers_share_a_port(on_fstack, workers):
    """SO_REUSEPORT inside an instance shares connections out. (FreeBSD's SO_REUSEPORT_LB by
    itself leads Linux's ports, which are even, to every second listener.)"""
    import ffloop

    async def main():
        loop = asyncio.get_running_loop()
        seen = collections.Counter()

        def worker(name):
            class Count(asyncio.Protocol):
                def connection_made(self, transport):
                    seen[name] += 1
                    transport.close()

            return loop.create_server(Count, net.STACK, PORT, reuse_port=True)

        servers = [await worker(i) for i in range(workers)]
        with pytest.raises(OSError) as caught:  # somebody who does not share stays outside
            await loop.create_server(asyncio.Protocol, net.STACK, PORT)
        assert caught.value.errno == errno.EADDRINUSE
        with ffloop.socket() as sock, pytest.raises(OSError) as caught:
            sock.bind((net.STACK, PORT))
        assert caught.value.errno == errno.EADDRINUSE

        def connect(n):
            for _ in range(n):
                with socket.create_connection((net.STACK, PORT), 10) as sock:
                    assert sock.recv(1) == b""

        await asyncio.to_thread(connect, 300)
        assert sum(seen.values()) == 300
        assert len(seen) == workers
        assert min(seen.values()) > 300 / workers / 2, seen  # near to even: who takes first has it
        for server in servers:
            server.close()

    ffloop.run(main())


@pytest.mark.parametrize("port", [PORT, PORT + 1])  # one of them is led there
def test_a_listener_that_comes_refuses_nobody(on_fstack, port):
    """FreeBSD leads SYNs to a socket that is bound (SO_REUSEPORT_LB) and does not listen yet."""
    import ffloop

    def connect(stop):
        while not stop.is_set():
            with socket.create_connection((net.STACK, port), 10) as sock:
                assert sock.recv(1) == b""

    async def main():
        loop = asyncio.get_running_loop()
        stop = threading.Event()
        with ffloop.socket() as coming:
            coming.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            server = await asyncio.start_server(
                lambda _, writer: writer.close(), "0.0.0.0", port, reuse_port=True
            )
            asking = loop.run_in_executor(None, connect, stop)
            coming.bind(("0.0.0.0", port))
            assert coming.getsockname() == ("0.0.0.0", port)
            accepts = loop.ffloop_stats()["accepts"]
            while loop.ffloop_stats()["accepts"] < accepts + 200 and not asking.done():
                await asyncio.sleep(0)
            coming.listen()
        stop.set()
        await asking
        server.close()

    ffloop.run(main())


def test_datagrams(on_fstack):
    """UDP with a kernel peer, both ways: sizes, order, addresses, IPv4 and IPv6."""
    import ffloop

    def client(addr):
        family = socket.AF_INET6 if ":" in addr[0] else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(10)
            sock.connect(addr)
            # (net_af_packet cuts IPv4's larger ones to one of its frames: docs/fstack.md)
            for size in (1, 0, 100, 1472, 9000 if family == socket.AF_INET6 else 1940):
                sock.send(b"u" * size)
                assert sock.recv(65536) == b"u" * size
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(10)
            sock.connect(addr[:1] + (9,) + addr[2:])
            sock.send(b"to nobody")
            with pytest.raises(ConnectionRefusedError):
                sock.recv(1)

    async def refused(family, host):
        loop = asyncio.get_running_loop()
        with ffloop.socket(family, socket.SOCK_DGRAM) as sock:
            await loop.sock_connect(sock, (host, 9))
            await loop.sock_sendall(sock, b"to nobody")
            with pytest.raises(ConnectionRefusedError):
                await loop.sock_recv(sock, 1)

    async def echo(sock):
        loop = asyncio.get_running_loop()
        while True:
            data, peer = await loop.sock_recvfrom(sock, 65536)
            assert peer[0] in (net.PEER, net.PEER6)
            await loop.sock_sendto(sock, data, peer)

    async def main():
        for family, host in ((socket.AF_INET, net.STACK), (socket.AF_INET6, net.STACK6)):
            with ffloop.socket(family, socket.SOCK_DGRAM) as sock:
                sock.bind((host, 0))
                echoing = asyncio.create_task(echo(sock))
                await asyncio.to_thread(client, sock.getsockname())
                echoing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await echoing
            await refused(family, net.PEER6 if family == socket.AF_INET6 else net.PEER)

    ffloop.run(main())


def test_client_in_the_loop(on_fstack, tmp_path):
    """aiohttp's client, from the stack to a kernel server."""
    aiohttp = pytest.importorskip("aiohttp")
    import sys

    import ffloop

    (tmp_path / "file").write_bytes(BODY)
    command = [sys.executable, "-u", "-m", "http.server", "--bind", net.PEER, "0"]

    async def main(port):
        async with aiohttp.ClientSession(f"http://{net.PEER}:{port}") as session:

            async def get():
                async with session.get("/file") as response:
                    assert await response.read() == BODY

            await asyncio.gather(*(get() for _ in range(10)))
        assert asyncio.get_running_loop().ffloop_stats()["bytes_received"] > 10 * len(BODY)

    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=-3) as server:
        try:
            port = int(re.search(rb"port (\d+)", server.stdout.readline())[1])
            ffloop.run(main(port))
        finally:
            server.terminate()


@pytest.mark.parametrize("first", [socket.AF_INET, socket.AF_INET6], ids=["4", "6"])
def test_the_wildcards_of_both_families(on_fstack, first):
    """A socket of `::` is IPv4's too, unless it says IPV6_V6ONLY: as on Linux."""
    import ffloop

    wildcard = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
    second = ({*wildcard} - {first}).pop()

    def listen(family, only):
        sock = ffloop.socket(family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        try:
            sock.bind((wildcard[family], PORT))
            sock.listen()
        except OSError:
            sock.close()
            raise
        return sock

    for only in (False, True):
        with listen(first, only), contextlib.ExitStack() as stack:
            if not only:
                stack.enter_context(pytest.raises(OSError, match="in use"))
            listen(second, only).close()
