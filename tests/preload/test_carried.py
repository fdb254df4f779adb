"""Options that were set before the stack took a socket's place hold there: by the shim (placed),
by sock_connect (promoted), by create_server (adopted). What the stack refuses is told.
"""

import asyncio
import ctypes
import functools
import json
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from common.processes import completed
from programs import need
from shim import Instance, python

import ffloop

PATH = ":".join(sys.path)  # of programs that import this module
SOL, TCP, IP, IP6 = (
    socket.SOL_SOCKET,
    socket.IPPROTO_TCP,
    socket.IPPROTO_IP,
    socket.IPPROTO_IPV6,
)
SO_MAX_PACING_RATE, SO_ATTACH_FILTER, IP_MINTTL, IPV6_MINHOPCOUNT = 47, 26, 21, 73
IP_MTU_DISCOVER, IPV6_DONTFRAG, IP_FREEBIND, SO_TIMESTAMPING = 10, 62, 15, 37

# What: level, name, value (an int, or bytes in hexadecimal).
STREAM: dict[str, tuple[int, int, Any]] = {
    "SO_REUSEADDR": (SOL, socket.SO_REUSEADDR, 1),
    "SO_REUSEPORT": (SOL, socket.SO_REUSEPORT, 1),
    "SO_KEEPALIVE": (SOL, socket.SO_KEEPALIVE, 1),
    "SO_OOBINLINE": (SOL, socket.SO_OOBINLINE, 1),
    "SO_DONTROUTE": (SOL, socket.SO_DONTROUTE, 1),
    "SO_SNDBUF": (SOL, socket.SO_SNDBUF, 30000),
    "SO_RCVBUF": (SOL, socket.SO_RCVBUF, 30000),
    "SO_RCVLOWAT": (SOL, socket.SO_RCVLOWAT, 3),
    "SO_LINGER": (SOL, socket.SO_LINGER, struct.pack("ii", 1, 3).hex()),
    "SO_PRIORITY": (SOL, socket.SO_PRIORITY, 5),
    "SO_MAX_PACING_RATE": (SOL, SO_MAX_PACING_RATE, 1 << 30),
    "SO_BINDTODEVICE": (SOL, socket.SO_BINDTODEVICE, b"lo\0".hex()),
    "TCP_NODELAY": (TCP, socket.TCP_NODELAY, 1),
    "TCP_MAXSEG": (TCP, socket.TCP_MAXSEG, 900),
    "TCP_KEEPIDLE": (TCP, socket.TCP_KEEPIDLE, 33),  # without SO_KEEPALIVE
    "TCP_KEEPINTVL": (TCP, socket.TCP_KEEPINTVL, 44),
    "TCP_KEEPCNT": (TCP, socket.TCP_KEEPCNT, 5),
    "TCP_CONGESTION": (TCP, socket.TCP_CONGESTION, b"reno".hex()),
    "TCP_USER_TIMEOUT": (TCP, socket.TCP_USER_TIMEOUT, 7000),
    "TCP_SYNCNT": (TCP, socket.TCP_SYNCNT, 2),
    "TCP_LINGER2": (TCP, socket.TCP_LINGER2, 7),
    "TCP_DEFER_ACCEPT": (TCP, socket.TCP_DEFER_ACCEPT, 3),
    "TCP_NOTSENT_LOWAT": (TCP, 25, 16000),
    "IP_TOS": (IP, socket.IP_TOS, 0x28),
    "IP_TTL": (IP, socket.IP_TTL, 50),
    "IP_MINTTL": (IP, IP_MINTTL, 3),
    "IP_MTU_DISCOVER": (IP, IP_MTU_DISCOVER, 3),
    "IP_FREEBIND": (IP, IP_FREEBIND, 1),
}
STREAM6: dict[str, tuple[int, int, Any]] = {
    "IPV6_V6ONLY": (IP6, socket.IPV6_V6ONLY, 1),
    "IPV6_TCLASS": (IP6, socket.IPV6_TCLASS, 0x28),
    "IPV6_UNICAST_HOPS": (IP6, socket.IPV6_UNICAST_HOPS, 50),
    "IPV6_MINHOPCOUNT": (IP6, IPV6_MINHOPCOUNT, 3),
    "IPV6_DONTFRAG": (IP6, IPV6_DONTFRAG, 1),
    "SO_KEEPALIVE, IPv6": (SOL, socket.SO_KEEPALIVE, 1),
}
TABLE = {what: (socket.AF_INET, *row) for what, row in STREAM.items()} | {
    what: (socket.AF_INET6, *row) for what, row in STREAM6.items()
}


def put(sock: Any, level: int, name: int, value: Any) -> None:
    sock.setsockopt(level, name, bytes.fromhex(value) if isinstance(value, str) else value)


def got(sock: Any, level: int, name: int, value: Any) -> Any:
    if isinstance(value, str):
        return sock.getsockopt(level, name, 16).rstrip(b"\0").hex()
    return sock.getsockopt(level, name)


def loopback(family: int) -> tuple[str, int]:
    return ("::1" if family == socket.AF_INET6 else "127.0.0.1", 0)


# For each row: what a connected, a listening and an accepted socket say, with plain calls.
PLAIN = """
import json, socket, sys
sys.path[:0] = sys.argv[1].split(":")
from test_carried import TABLE, got, loopback, put
found = {}
for what, (family, *row) in TABLE.items():
    with socket.socket(family) as listener, socket.socket(family) as plain:
        put(listener, *row)
        listener.bind(loopback(family))
        listener.listen()
        plain.bind(loopback(family))
        plain.listen()
        with socket.socket(family) as c, socket.create_connection(listener.getsockname()[:2]) as d:
            put(c, *row)
            c.connect(plain.getsockname())
            d.sendall(b"x")
            a, _ = listener.accept()
            found[what] = [got(c, *row), got(listener, *row), got(a, *row)]
            a.close()
print(json.dumps(found))
"""


def plain(env: dict[str, str] | None = None) -> dict[str, list[Any]]:
    done = python(PLAIN, PATH, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    return dict(json.loads(done.stdout))


@functools.cache
def natively() -> dict[str, list[Any]]:
    return plain()


async def by_the_loop() -> dict[str, list[Any]]:
    loop = asyncio.get_running_loop()
    found = {}
    for what, (family, *row) in TABLE.items():
        listener = socket.socket(family)
        put(listener, *row)
        listener.bind(loopback(family))
        accepted: asyncio.Future[Any] = loop.create_future()

        def serve(reader: Any, writer: Any, seen: Any = accepted, asked: Any = row) -> None:
            seen.set_result(got(writer.get_extra_info("socket"), *asked))
            writer.close()

        server = await asyncio.start_server(serve, sock=listener)
        with socket.socket(family) as kernel:
            kernel.bind(loopback(family))
            kernel.listen()
            with socket.socket(family) as c, socket.socket(family) as d:
                for one in (c, d):
                    one.setblocking(False)
                put(c, *row)
                await loop.sock_connect(c, kernel.getsockname())
                await loop.sock_connect(d, listener.getsockname())
                assert type(c) is not socket.socket
                assert type(listener) is not socket.socket
                await loop.sock_sendall(d, b"x")
                found[what] = [got(c, *row), got(listener, *row), await accepted]
        server.close()
        await server.wait_closed()
    return found


@pytest.fixture(scope="module")
def results(shared_instance: Instance) -> dict[str, dict[str, list[Any]]]:
    with asyncio.Runner(
        loop_factory=lambda: ffloop.new_event_loop(
            instance=shared_instance.path, kernel_sockets="adopt"
        )
    ) as runner:
        looped = runner.run(asyncio.wait_for(by_the_loop(), 120))
    return {"shim": plain(shared_instance.environment()), "loop": looped}


@pytest.mark.parametrize("way", ["shim", "loop"])
@pytest.mark.parametrize("what", TABLE)
def test_same(results: dict[str, dict[str, list[Any]]], way: str, what: str) -> None:
    """Connected, listening and accepted sockets say what they say natively."""
    want, have = list(natively()[what]), list(results[way][what])
    if way == "loop" and what in ("TCP_NODELAY", "SO_LINGER"):
        want[2] = have[2]  # a transport sets the one; the other's size is asked natively
    assert have == want


# ---- datagrams, and orders that matter --------------------------------------------------------

DATAGRAM: dict[str, tuple[int, int, Any]] = {
    "SO_BROADCAST": (SOL, socket.SO_BROADCAST, 1),
    "SO_RCVBUF": (SOL, socket.SO_RCVBUF, 30000),
    "IP_TOS": (IP, socket.IP_TOS, 0x28),
    "IP_MULTICAST_TTL": (IP, socket.IP_MULTICAST_TTL, 5),
    "IP_MULTICAST_LOOP": (IP, socket.IP_MULTICAST_LOOP, 0),
    "IP_MULTICAST_IF": (IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1").hex()),
    "IP_TTL": (IP, socket.IP_TTL, 9),
}
GROUP = socket.inet_aton("239.77.1.2") + socket.inet_aton("127.0.0.1")
SEVERAL = """
import json, socket, sys
sys.path[:0] = sys.argv[1].split(":")
from test_carried import DATAGRAM, IP, SOL, got, put
with socket.socket(type=socket.SOCK_DGRAM) as s, socket.socket() as order:
    for row in DATAGRAM.values():
        put(s, *row)
    s.bind(("127.0.0.1", 0))
    found = [got(s, *row) for row in DATAGRAM.values()]
    order.setsockopt(IP, socket.IP_TOS, 0x10)  # which sets a priority, 6
    order.setsockopt(SOL, socket.SO_PRIORITY, 3)
    order.bind(("127.0.0.1", 0))
    found += [order.getsockopt(SOL, socket.SO_PRIORITY), order.getsockopt(IP, socket.IP_TOS)]
print(json.dumps(found))
"""


def test_datagrams_and_order(shared_instance: Instance) -> None:
    command = [sys.executable, "-P", "-c", SEVERAL, PATH]
    run = functools.partial(subprocess.run, command, check=True, capture_output=True)
    native = json.loads(run().stdout)
    assert json.loads(run(env=shared_instance.environment()).stdout) == native

    async def adopted() -> list[Any]:
        s = socket.socket(type=socket.SOCK_DGRAM)
        for row in DATAGRAM.values():
            put(s, *row)
        s.setsockopt(IP, socket.IP_ADD_MEMBERSHIP, GROUP)
        s.bind(("127.0.0.1", 0))
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, sock=s
        )
        assert type(s) is not socket.socket
        found = [got(s, *row) for row in DATAGRAM.values()]
        with pytest.raises(OSError, match="Address already in use"):  # it has joined
            s.setsockopt(IP, socket.IP_ADD_MEMBERSHIP, GROUP)
        transport.close()
        return found

    assert (
        ffloop.run(adopted(), instance=shared_instance.path, kernel_sockets="adopt")
        == native[: len(DATAGRAM)]
    )


# ---- refused ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def apart(sim: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """A stack that is not this kernel, and lacks some options."""
    instance = Instance(tmp_path_factory.mktemp("sim"), "--stack", "sim", executable=sim)
    yield instance
    instance.stop()


RESTRICTS = {
    "SO_BINDTODEVICE": (SOL, socket.SO_BINDTODEVICE, b"lo\0".hex()),
    "IP_MINTTL": (IP, IP_MINTTL, 3),
    "IP_UNICAST_IF": (IP, 50, socket.htonl(1)),
}
ONE = """
import socket, sys
sys.path[:0] = sys.argv[1].split(":")
from test_carried import put
with socket.socket() as s:
    put(s, int(sys.argv[2]), int(sys.argv[3]), eval(sys.argv[4]))
    try:
        s.bind(("127.0.0.1", 0)); s.listen()
        print("listens")
    except OSError as exc:
        print(exc.strerror)
"""


def one(env: dict[str, str], row: tuple[int, int, Any]) -> tuple[str, str]:
    words = [PATH, str(row[0]), str(row[1]), repr(row[2])]
    done = python(ONE, *words, env=env)
    return done.stdout, done.stderr


@pytest.mark.parametrize("what", RESTRICTS)
def test_what_restricts_fails_the_call(apart: Instance, what: str) -> None:
    row = RESTRICTS[what]
    said, errors = one(apart.environment(), row)
    assert said == "Protocol not available\n"
    assert f"{what} was set on the socket, and the sim stack refuses it" in errors

    async def both_ways() -> None:
        with socket.socket() as s, pytest.raises(OSError, match=what):
            s.setblocking(False)
            put(s, *row)
            await asyncio.get_running_loop().sock_connect(s, ("127.0.0.1", 1))
        with socket.socket() as s, pytest.raises(OSError, match=what):
            put(s, *row)
            s.bind(("127.0.0.1", 0))
            await asyncio.start_server(lambda r, w: None, sock=s)

    ffloop.run(both_ways(), instance=apart.path)


def test_a_restriction_that_is_off_restricts_nothing(apart: Instance) -> None:
    assert one(apart.environment(), (IP, IP_MINTTL, 0)) == ("listens\n", "")


def test_a_hint_is_named_in_the_log(apart: Instance, caplog: pytest.LogCaptureFixture) -> None:
    row = (SOL, SO_TIMESTAMPING, 16)
    said, errors = one(apart.environment(FFLOOP_LOG="warning"), row)
    assert said == "listens\n"
    assert "SO_TIMESTAMPING was set on the socket, and the sim stack refuses it" in errors

    async def adopt() -> None:
        s = socket.socket()
        put(s, *row)
        s.bind(("127.0.0.1", 0))
        server = await asyncio.start_server(lambda r, w: None, sock=s)
        assert type(s) is not socket.socket
        server.close()

    ffloop.run(adopt(), instance=apart.path)
    assert re.search("SO_TIMESTAMPING was set.*sim stack refuses it", caplog.text)


# ---- filters, and what the host stack refuses -------------------------------------------------

FILTERED = """
import socket, sys
sys.path[:0] = sys.argv[1].split(":")
from test_carried import only_longer, seen_through
with socket.socket(type=socket.SOCK_DGRAM) as s:
    only_longer(s)
    s.bind(("127.0.0.1", 0))
    seen_through(s.getsockname())
    print(s.recv(100))
"""


def only_longer(sock: socket.socket) -> None:
    """Attaches a filter that drops datagrams of less than four bytes; its memory is lost then."""
    words = [(0x80, 0, 0, 0), (0x35, 0, 1, 8 + 4), (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *w) for w in words))
    value = struct.pack("@HP", len(words), ctypes.addressof(program))
    sock.setsockopt(SOL, SO_ATTACH_FILTER, value)
    ctypes.memset(program, 0, 32)


def seen_through(address: Any) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as peer:
        for text in (b"no", b"longer"):
            peer.sendto(text, address)


def test_a_filter_goes_along(shared_instance: Instance) -> None:
    """The program that it points to, not the address."""
    done = python(FILTERED, PATH, env=shared_instance.environment(FFLOOP_LOG="warning"))
    assert (done.stdout, done.stderr) == ("b'longer'\n", "")

    class Told(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.first: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.first.set_result(data)

    async def adopted() -> None:
        s = socket.socket(type=socket.SOCK_DGRAM)
        only_longer(s)
        s.bind(("127.0.0.1", 0))
        transport, told = await asyncio.get_running_loop().create_datagram_endpoint(Told, sock=s)
        assert type(s) is not socket.socket
        seen_through(s.getsockname())
        assert await told.first == b"longer"
        transport.close()

    ffloop.run(adopted(), instance=shared_instance.path, kernel_sockets="adopt")


@pytest.mark.skipif(os.geteuid() != 0, reason="the option takes CAP_NET_ADMIN")
def test_what_the_same_kernel_refuses_stays_on_it(shared_instance: Instance) -> None:
    """An option of the kernel's that is in no row (TCP_REPAIR, off)."""
    words = [PATH, str(TCP), "19", "0"]
    done = python(ONE, *words, env=shared_instance.environment(FFLOOP_LOG="warning"))
    assert done.stdout == "listens\n"
    assert "option 19 of level 6 was set on the socket, and the host stack refuses" in done.stderr
    assert "stays on the kernel" in done.stderr


def test_the_kernels_twin_has_them_too(apart: Instance) -> None:
    """FFLOOP_DUAL_LISTEN: the segments that the kernel's listener offers are those asked for."""
    code = """
import socket
s = socket.socket()
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 900)
s.bind(("127.0.0.1", 0)); s.listen()
print(s.getsockname()[1], flush=True); input()
"""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        env=apart.environment(FFLOOP_DUAL_LISTEN="1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout
        with socket.create_connection(("127.0.0.1", int(program.stdout.readline())), 10) as c:
            assert c.getsockopt(TCP, socket.TCP_MAXSEG) <= 900
        program.communicate("\n")


# ---- one interface ----------------------------------------------------------------------------

INTERFACE = """
import asyncio, os, socket, subprocess, sys
sys.path[:0] = sys.argv[1].split(":")
from pathlib import Path
from shim import Instance
import ffloop
for command in ("link set lo up", "link add v0 type veth peer name v1", "link set v0 up",
                "link set v1 up", "addr add 10.99.0.1/24 dev v0"):
    subprocess.run(["ip", *command.split()], check=True)
PROGRAM = '''
import socket
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"v0")
s.bind(("", 0)); s.listen()
print(s.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16), s.getsockname()[1], flush=True)
input()
'''
async def adopted():
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"v0")
    s.bind(("", 0))
    server = await asyncio.start_server(lambda r, w: None, sock=s)
    print("loop", type(s).__name__, instance.holds(s.getsockname()[1]), probe(s.getsockname()[1]))
    server.close()
def probe(port):
    with socket.socket() as c: return c.connect_ex(("127.0.0.1", port)) != 0
instance = Instance(Path(sys.argv[2]))
with subprocess.Popen([sys.executable, "-c", PROGRAM], env=instance.environment(),
                      stdin=-1, stdout=-1, text=True) as p:
    device, port = p.stdout.readline().split()
    print("shim", device, instance.holds(int(port)), probe(int(port)))
    p.communicate("\\n")
ffloop.run(adopted(), instance=instance.path, kernel_sockets="adopt")
instance.stop()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace of its own: root")
def test_a_listener_of_one_interface(tmp_path: Path) -> None:
    """It is in the instance, and who comes over another interface is refused."""
    need("ip")
    done = completed("unshare", "-n", sys.executable, "-P", "-c", INTERFACE, PATH, tmp_path)
    assert done.stderr == ""
    assert done.stdout == "shim b'v0\\x00' 1 True\nloop PromotedSocket 1 True\n"
