"""DPDK's drivers for an interface of the kernel's; the other tests are all on af_packet."""

import asyncio
import contextlib
import hashlib
import pathlib
import socket

import pytest

import ffloop
from ffloop._session.discovery import executable
from fstack import net

PORT, SIZE = 8094, 1_000_000
AF_XDP = 44  # which Python does not name


def without_xdp():
    """Why AF_XDP cannot be tested here, or None."""
    if b"net_af_xdp" not in pathlib.Path(executable()).read_bytes():
        return "DPDK was built without net_af_xdp (it needs libxdp and libbpf)"
    try:
        socket.socket(AF_XDP, socket.SOCK_RAW).close()
    except OSError as exc:
        return f"this kernel has no AF_XDP: {exc.strerror}"
    return None


@pytest.fixture
def over_xdp(fstack, on_fstack):
    """Replaces the instance by one over net_af_xdp, which has not been started."""
    if reason := without_xdp():
        pytest.skip(reason)
    fstack.close()
    made = net.Instance(fstack.net, *net.SHORT_FORM, "--driver", "af_xdp", name="xdp", up=False)
    yield made
    if made.process.poll() is None:
        made.close()
    fstack.start()


def upload_and_download():
    """SIZE bytes from a Linux peer, and back."""
    sent = bytes(range(256)) * (SIZE // 256)

    def peer():
        with socket.create_connection((net.STACK, PORT), 10) as sock:
            sock.sendall(sent)
            sock.shutdown(socket.SHUT_WR)
            return hashlib.file_digest(sock.makefile("rb"), "sha256").digest()

    async def turn(reader, writer):
        writer.write(await reader.read())
        await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(turn, net.STACK, PORT)
        assert await asyncio.to_thread(peer) == hashlib.sha256(sent).digest()
        server.close()

    ffloop.run(main(), reconnect=False)


def test_af_xdp(over_xdp, monkeypatch):
    """Serves; a killed instance's successor does, on the interface that has its program still; and
    so does one over af_packet (which the next test's is)."""
    monkeypatch.setenv("FFLOOP_INSTANCE", over_xdp.path)
    for end in (over_xdp.kill, over_xdp.close):
        over_xdp.start()
        assert b"on stack0" in over_xdp.ready
        upload_and_download()
        end()
    with contextlib.closing(net.Instance(over_xdp.net, *net.SHORT_FORM, name="packet")) as packet:
        monkeypatch.setenv("FFLOOP_INSTANCE", packet.path)
        upload_and_download()
