"""Options that were set before F-Stack took a socket's place, under the shim and with the loop."""

import asyncio
import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import ffloop
from fstack import net

LIBRARY = Path(ffloop.__path__[0], "_native", "libff_syscall.so")
SOL, TCP, IP = socket.SOL_SOCKET, socket.IPPROTO_TCP, socket.IPPROTO_IP
OPTIONS = [
    (TCP, socket.TCP_NODELAY, 1),
    (TCP, socket.TCP_KEEPIDLE, 33),
    (SOL, socket.SO_KEEPALIVE, 1),
    (SOL, socket.SO_RCVBUF, 65536),
    (IP, socket.IP_TTL, 33),
]
SAID = [2 * row[2] if row[1] == socket.SO_RCVBUF else row[2] for row in OPTIONS]  # as Linux


def shimmed(fstack, code, *args):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FFLOOP", "FF_"))}
    environ = {**kept, "LD_PRELOAD": str(LIBRARY), "FFLOOP_INSTANCE": fstack.path}
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, *args],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_under_the_shim(fstack):
    code = (
        "import json, socket, sys\n"
        "rows = json.loads(sys.argv[1])\n"
        "s = socket.socket()\n"
        "for row in rows: s.setsockopt(*row)\n"
        f"s.bind(({net.STACK!r}, 0))\n"
        "print([s.getsockopt(*row[:2]) for row in rows])\n"
        "t = socket.socket()\n"
        "t.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'lo')\n"
        f"print(t.connect_ex(({net.PEER!r}, 9)))\n"
    )
    with shimmed(fstack, code, json.dumps(OPTIONS)) as program:
        said, errors = program.communicate(timeout=30)
    assert said.splitlines() == [str(SAID), str(errno.ENOPROTOOPT)]
    assert "SO_BINDTODEVICE was set on the socket, and the fstack stack refuses it" in errors


def test_an_ipv6_wildcard_under_the_shim(fstack):
    """Serves IPv4 too, as on Linux: FreeBSD's default is another."""
    code = (
        "import socket\n"
        "s = socket.socket(socket.AF_INET6); s.bind(('::', 8093)); s.listen()\n"
        "print('listens', flush=True); input()\n"
    )
    with shimmed(fstack, code) as program, net.within(fstack.net.peer):
        assert program.stdout.readline() == "listens\n"
        for host in (net.STACK6, net.STACK):
            socket.create_connection((host, 8093), 10).close()
        program.communicate("\n", timeout=30)


def test_promoted(on_fstack):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server((net.PEER, 0)) as listener, socket.socket() as s:
            s.setblocking(False)
            for row in OPTIONS:
                s.setsockopt(*row)
            await loop.sock_connect(s, listener.getsockname())
            assert type(s) is not socket.socket
            for (level, name, _), said in zip(OPTIONS, SAID, strict=True):
                got = s.getsockopt(level, name)  # the buffer is made a whole number of segments
                assert got == said or (name == socket.SO_RCVBUF and said <= got < said + 3000)
        with socket.socket() as s, pytest.raises(OSError, match="SO_BINDTODEVICE"):
            s.setblocking(False)
            s.setsockopt(SOL, socket.SO_BINDTODEVICE, b"lo")
            await loop.sock_connect(s, (net.PEER, 9))

    ffloop.run(main())
