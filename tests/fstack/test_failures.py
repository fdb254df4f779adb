"""What goes wrong around F-Stack: each has a clear error, and nothing hangs."""

import asyncio
import errno
import socket
import subprocess

import pytest
from loop.util import Log, until

import ffloop
from ffloop._session.discovery import executable
from fstack import net

EAL = "--in-memory --no-pci --vdev=net_af_packet0,iface=stack0"


def refused(fstack_net, *options, before=()):
    """What an instance that cannot start says on standard error, its status being 1."""
    command = [*before, executable(), "--stack", "fstack"]
    command += ["--socket", f"{fstack_net.directory.name}/refused.sock", *options]
    with net.within(fstack_net.stack):
        done = subprocess.run(command, stdout=-1, stderr=-1, text=True, timeout=30, check=False)
    assert done.stdout == ""
    assert done.returncode == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "needs --conf FILE"),
        (["--conf", "/nowhere/config.ini"], "'/nowhere/config.ini': No such file"),
        (["--conf", "/etc/hostname"], "has no [dpdk] section: it is not F-Stack's config.ini"),
        (["--iface", "nothere0", "--addr", "10.0.0.2/24"], "no interface 'nothere0'"),
        (["--iface", "stack0"], "--iface needs --addr"),
        (["--iface", "stack0", "--addr", "10.0.0.2"], "--addr takes A.B.C.D/BITS"),
        (["--iface", "stack0", "--addr", "10.0.0.2/24,x"], "--addr takes A.B.C.D/BITS"),
        (["--iface", "stack0", "--addr", "10.0.0.2/24", "--addr6", "x"], "--addr6 takes"),
        (["--iface", "stack0", "--addr", "10.0.0.2/24", "--pkt-tx-delay", "500"], "0 to 100"),
        (["--iface", "stack0", "--addr", "10.0.0.2/24", "--idle-sleep", "x"], "--idle-sleep takes"),
        (["--iface", "stack0", "--addr", "10.0.0.2/24", "--driver", "ring"], "af_packet or af_xdp"),
        (["--iface", "stack0", "--addr", "10.0.0.2/24", "--proc-type", "other"], "--proc-type"),
        (["--iface", "stack0", "--addr", "10.0.0.2/24", "--eal", "--nonsense"], "docs/fstack.md"),
        (["colour=red"], "no option 'colour=red'"),
    ],
)
def test_wrong_configuration(fstack_net, options, words):
    assert words in refused(fstack_net, *options)


def test_no_hugetlbfs(fstack_net):
    script = "while umount -a -t hugetlbfs; do grep -q hugetlbfs /proc/mounts || break; done"
    before = ("unshare", "--mount", "sh", "-c", f'{script}; exec "$@"', "sh")
    options = ("--iface", "stack0", "--addr", "10.0.0.2/24")
    said = refused(fstack_net, *options, before=before)
    assert "no hugetlbfs is mounted: mkdir -p /dev/hugepages && mount -t hugetlbfs" in said


def test_too_little_memory(fstack_net):
    """More huge pages than there are: DPDK's own words, and where to look."""
    options = ("--iface", "stack0", "--addr", "10.0.0.2/24", "--eal", "-m 1000000")
    assert "docs/fstack.md" in refused(fstack_net, *options)


@pytest.fixture
def configured(fstack, tmp_path, monkeypatch):
    """Replaces the instance by one with F-Stack's own configuration file."""

    def start(sockets):
        path = tmp_path / "config.ini"
        limit = f"kern.ipc.maxsockets={sockets}"
        path.write_text(net.config(boot=limit, sysctl="net.inet.tcp.msl=2000"))
        fstack.close()
        options = ("--conf", str(path), "--eal", EAL)
        made.append(net.Instance(fstack.net, *options, name="configured"))
        monkeypatch.setenv("FFLOOP_INSTANCE", made[0].path)
        return made[0]

    made = []
    yield start
    if made:
        made[0].close()
        fstack.start()


def test_out_of_sockets(on_fstack, configured):
    """Of F-Stack's sockets a session has its share, and EMFILE then; what is open goes on."""
    instance = configured(sockets=64)

    async def main():
        loop = asyncio.get_running_loop()
        made = []
        server = await loop.create_server(lambda: made.append(Log()) or made[-1], net.STACK, 0)
        addr = server.sockets[0].getsockname()
        with socket.create_connection(addr, 10) as sock:
            await until(lambda: made)
            kept = []
            with pytest.raises(OSError) as caught:
                for _ in range(70):
                    kept.append(ffloop.socket())
                    kept[-1].bind((net.STACK, 0))
            assert caught.value.errno == errno.EMFILE, caught.value
            assert len(kept) > 24
            with pytest.raises(OSError):
                await loop.create_connection(Log, net.PEER, 9)
            sock.sendall(b"goes on")
            assert await made[0].got(7) == b"goes on"
            for each in kept:
                each.close()
            while instance.stats().open_sockets > 2:
                await asyncio.sleep(0)
            again = ffloop.socket()
            again.bind((net.STACK, 0))
            again.close()
            made[0].transport.abort()
            await made[0].lost
        server.close()

    ffloop.run(main())


@pytest.mark.parametrize(
    "end", [("peer", "peer0"), ("stack", "stack0")], ids=["carrier", "interface"]
)
def test_link_down_and_up(fstack, on_fstack, end):
    """Connections wait and go on; new ones time out, as the application says."""
    namespace, interface = getattr(fstack.net, end[0]), end[1]

    def link(state):
        with net.within(namespace):
            net.run("ip", "link", "set", interface, state)

    async def main():
        loop = asyncio.get_running_loop()
        made = []
        server = await loop.create_server(lambda: made.append(Log()) or made[-1], net.STACK, 0)
        with socket.create_connection(server.sockets[0].getsockname(), 20) as sock:
            await until(lambda: made)
            link("down")
            made[0].transport.write(b"after the pause")
            with pytest.raises((TimeoutError, OSError)):
                async with asyncio.timeout(0.3):
                    await loop.create_connection(Log, net.PEER, 9)
            link("up")
            assert await asyncio.to_thread(sock.recv, 100) == b"after the pause"
            sock.sendall(b"and back")
            assert await made[0].got(8) == b"and back"
            made[0].transport.abort()
            await made[0].lost
        server.close()

    ffloop.run(main())
    assert fstack.process.poll() is None
