"""A network for the real F-Stack: two network namespaces, a veth pair, an instance; and the mirror.

    stack's namespace               peer's namespace
    instance, F-Stack ---- veth ---- this kernel
    10.97.0.2 to .5, fd97::2         10.97.0.1, fd97::1

The namespaces have no names: they, the veth pair and the instance go with the test process, however
it ends, and several runs may go on at once. While a test runs the test process is in the peer's
namespace, so that its kernel sockets are the stack's peers.

F-Stack has no way to its own addresses. So that tests with both ends in one loop run on it, the
peer mirrors 10.97.1.n: what the stack sends there comes back to it, source and destination
exchanged, as if 10.97.1.n had sent it to 10.97.0.n. Both ends are F-Stack's, and every packet goes
over the wire. `mirrored` makes a loop connect there and call it 10.97.0.n.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from common import instances

import ffloop
from ffloop._session import binding, stats_page
from ffloop._session.discovery import executable

PEER, PEER6 = "10.97.0.1", "fd97::1"
STACKS, STACK6 = [f"10.97.0.{n}" for n in range(2, 6)], "fd97::2"
STACK = STACKS[0]
SILENT = "10.97.0.9"  # nobody's
MIRROR = {a: a.replace("10.97.0.", "10.97.1.") for a in STACKS}
MIRROR6 = "fd97:1::2"
# What loop.util's names of addresses are on F-Stack.
ADDRESSES = {"HOST": STACK, "HOSTS": STACKS, "HOST6": STACK6, "PEER": PEER, "BIND": "0.0.0.0"}

_TOOLS = ("ip", "ethtool", "nft", "setpriv")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def missing() -> str | None:
    """Why F-Stack cannot be tested here, or None."""
    if not os.environ.get("FF_PATH"):
        return "FF_PATH does not name a built F-Stack"
    if os.geteuid() != 0:
        return "F-Stack needs root"
    if " fstack (" not in (said := run(executable(), "--version")):
        return said.splitlines()[-1]
    memory = pathlib.Path("/proc/meminfo").read_text()
    if int(memory.partition("HugePages_Free:")[2].split()[0]) < 150:
        return "fewer than 150 huge pages are free: sysctl -w vm.nr_hugepages=512"
    gone = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if gone:
        return f"not installed: {', '.join(gone)} (Debian: iproute2 ethtool nftables util-linux)"
    return None


# ---- namespaces ----


def _switch(call: str, *args: int) -> None:
    if getattr(_libc, call)(*args) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")


def _current() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def within(namespace: int) -> Iterator[None]:
    """This thread, and the threads and processes that it starts, in a network namespace."""
    before = _current()
    try:
        _switch("setns", namespace, _CLONE_NEWNET)
        yield
    finally:
        _switch("setns", before, _CLONE_NEWNET)
        os.close(before)


def _new_namespace() -> int:
    with within(before := _current()):
        os.close(before)
        _switch("unshare", _CLONE_NEWNET)
        return _current()


def run(*command: str, **options: Any) -> str:
    """Its standard output."""
    return subprocess.run(command, check=True, stdout=-1, text=True, **options).stdout


def _ip(command: str) -> str:
    return run("ip", *command.split())


def _no_offload_and_up(interface: str) -> str:
    """Its MAC address. (F-Stack hands over and wants whole checksums and plain packets.)"""
    for feature in ("rx", "tx", "sg", "tso", "gso", "gro"):
        subprocess.run(
            ["ethtool", "-K", interface, feature, "off"], stdout=-3, stderr=-3, check=False
        )
    _ip(f"link set {interface} up")
    return str(json.loads(_ip(f"-j link show {interface}"))[0]["address"])


def _mirror_rules(stack_mac: str, peer_mac: str) -> str:
    there = ", ".join(f"{a} : {m}" for a, m in MIRROR.items())
    back = ", ".join(f"{m} : {a}" for a, m in MIRROR.items())
    turn = f"ether saddr set {peer_mac} ether daddr set {stack_mac}"
    return f"""table netdev mirror {{ chain in {{
        type filter hook ingress device "peer0" priority 0;
        ip daddr 10.97.1.0/24 {turn} ip saddr set ip saddr map {{ {there} }} \
            ip daddr set ip daddr map {{ {back} }} fwd to "peer0"
        ip6 daddr {MIRROR6} {turn} ip6 saddr set {MIRROR6} ip6 daddr set {STACK6} fwd to "peer0"
    }}
    }}"""


class Net:
    """The namespaces, `stack` and `peer` (descriptors), and a directory for sockets and logs."""

    def __init__(self) -> None:
        self.stack, self.peer = _new_namespace(), _new_namespace()
        self.directory = tempfile.TemporaryDirectory(prefix="ffloop-fstack-")
        with within(self.stack):
            pathlib.Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
            peer = f"/proc/{os.getpid()}/fd/{self.peer}"
            _ip(f"link add stack0 type veth peer name peer0 netns {peer}")
            stack_mac = _no_offload_and_up("stack0")
        with within(self.peer):
            _ip("link set lo up")  # and an interface that goes down keeps its addresses
            pathlib.Path("/proc/sys/net/ipv6/conf/all/keep_addr_on_down").write_text("1")
            peer_mac = _no_offload_and_up("peer0")
            _ip(f"addr add {PEER}/24 dev peer0")
            _ip(f"addr add {PEER6}/64 dev peer0 nodad")
            run("nft", "-f", "-", input=_mirror_rules(stack_mac, peer_mac))

    def close(self) -> None:
        os.close(self.stack)
        os.close(self.peer)
        self.directory.cleanup()


SHORT_FORM = ("--iface", "stack0", "--addr", ",".join([f"{STACK}/24", *STACKS[1:]]))
SHORT_FORM += ("--gateway", PEER, "--addr6", f"{STACK6}/64", "--gateway6", PEER6)


class Instance:
    """`ffloop instance --stack fstack` in a Net, with the short form's options unless others are
    given; `path` is its socket, `ready` its start-up line. With
    up=False, launch() and come_up() start it."""

    def __init__(self, net: Net, *options: str, name: str = "instance", up: bool = True) -> None:
        self.net = net
        self.path = os.path.join(net.directory.name, f"{name}.sock")
        self.log = pathlib.Path(net.directory.name, f"{name}.log")
        self.options = options or SHORT_FORM
        if up:
            self.start()

    def start(self) -> None:
        """Raises RuntimeError with its log when it does not come up."""
        self.launch()
        self.come_up()

    def launch(self) -> None:
        """In the main thread: it would end with another one that started it."""
        options = ("--stack", "fstack", "--log-level", "info", *self.options)
        with within(self.net.stack), self.log.open("ab") as log:
            self.process = instances.launch(
                self.path, *options, prefix=("setpriv", "--pdeathsig", "KILL"), stderr=log
            )

    def come_up(self) -> None:
        try:
            self.ready = instances.come_up(self.process)
        except AssertionError:
            raise RuntimeError(f"F-Stack did not start:\n{self.words()}") from None
        finally:
            self.process.stdout.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    def words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-2000:]

    def stats(self) -> stats_page.Instance:
        """What its page shows, but for each socket."""
        return stats_page.read(self.pid, sockets=False)

    def revive(self) -> None:
        """Starts it again where a test has killed it; AssertionError where it ended by itself."""
        if not self.answers():
            status = self.process.wait(30)  # its sockets go first, then its huge pages
            words = self.words()
            self.start()
            assert status == -signal.SIGKILL, f"the instance ended, status {status}:\n{words}"

    def answers(self) -> bool:
        """Whether it refuses what is no hello: it can be reached while it ends, too."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            probe.settimeout(10)
            try:
                probe.connect(self.path)
                probe.send(b"?")
                return bool(probe.recv(512))
            except OSError:
                return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self, how: int = signal.SIGTERM, limit: float = 10) -> None:
        """Ends it as a service manager would; it must end well."""
        self.process.send_signal(how)
        try:
            status = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        assert status == 0, f"exit status {status}\n{self.words()}"


DIRECT: Any = {"stack": "fstack", "instance": "direct", "fstack": shlex.join(SHORT_FORM)}
DIRECT_ENVIRON = {f"FFLOOP_{name.upper()}": value for name, value in DIRECT.items()}


class Direct:
    """F-Stack in this very process, in a Net: DIRECT_ENVIRON makes loops use it."""

    def __init__(self, net: Net) -> None:
        self.net = net
        with within(net.stack):  # where its packet socket stays
            ffloop.new_event_loop(**DIRECT).close()


# ---- the mirror ----


def mirrored(monkeypatch: Any) -> None:
    """Destinations that are the stack's own go to the mirror; its names are read back as theirs."""
    there = MIRROR | {STACK6: MIRROR6}
    back = {m: a for a, m in there.items()}
    encode, decode = binding.encode, binding.decode

    def encode_there(family: int, address: Any, what: str = "address") -> bytes:
        if what != "bind" and isinstance(address, tuple) and address:
            address = (there.get(address[0], address[0]), *address[1:])
        return encode(family, address, what)

    def decode_back(raw: bytes) -> Any:
        found = decode(raw)
        return found and (back.get(found[0], found[0]), *found[1:])

    monkeypatch.setattr(binding, "encode", encode_there)
    monkeypatch.setattr(binding, "decode", decode_back)


# ---- applications ----

FULL = os.environ.get("FFLOOP_FSTACK_FULL") == "1"  # the sizes of a release, not of every day
EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"


def config(mask: int = 1, dpdk: str = "", boot: str = "", sysctl: str = "") -> str:
    """F-Stack's own configuration, of one port; with more lines of these sections."""
    return f"""
[dpdk]
lcore_mask={mask:x}
channel=4
memory=128
port_list=0
pkt_tx_delay=10
{dpdk}
[freebsd.boot]
hz=100
fd_reserve=1024
{boot}
[freebsd.sysctl]
kern.ipc.somaxconn=1024
{sysctl}
[port0]
addr={STACK}
netmask=255.255.255.0
broadcast=10.97.0.255
gateway={PEER}
"""


@contextlib.contextmanager
def example(name: str, instance: Instance, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """One of examples/, unmodified, on the instance; serving when this returns."""
    environ = os.environ | {"FFLOOP_INSTANCE": instance.path, "FFLOOP_STACK": "fstack"}
    command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-P", str(EXAMPLES / name)]
    with subprocess.Popen([*command, str(port)], env=environ, stdout=-3) as process:
        try:
            with within(instance.net.peer):
                while True:
                    assert process.poll() is None, f"{name} ended"
                    with contextlib.suppress(ConnectionRefusedError):
                        socket.create_connection((STACK, port), 10).close()
                        break
                    time.sleep(0.005)
            yield process
        finally:
            process.kill()
            process.wait()


def drained(instance: Instance, limit: float = 15.0) -> None:
    """Until the instance has no session and no socket; AssertionError when that does not come."""
    until = time.monotonic() + limit
    while (seen := instance.stats()).open_sockets or seen.sessions:
        assert time.monotonic() < until, seen
        time.sleep(0.002)
