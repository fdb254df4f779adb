"""`ffloop stat` and `ffloop top`, and what they stand on: pages read without the instance."""

import asyncio
import contextlib
import fcntl
import io
import json
import os
import pathlib
import random
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import prometheus_client
import pytest
from common import instances
from common.processes import completed
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

import ffloop
from ffloop._cli import collect, main, metrics, tables
from ffloop._session import stats_page
from ffloop.errors import InstanceDenied, InstanceNotFound, VersionMismatch

from .util import HOST, pair

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"

pytestmark = pytest.mark.ring


@pytest.fixture
def instance(tmp_path, monkeypatch):
    """An instance of this test's own; new loops use it."""
    path = str(tmp_path / "mine.sock")
    monkeypatch.setenv("FFLOOP_INSTANCE", path)
    with instances.running(path) as process:
        process.path = path
        yield process


def command(*args, status=0):
    """The command in this process; its status is checked."""
    assert main.main(args) == status


def test_what_it_shows_is_so(instance, capsys, no_leaks):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "::1", 0)
        async with pair() as (client, peer):
            client.transport.write(b"x" * 1000)
            await peer.got(1000)
            peer.transport.write(b"y" * 10)
            await client.got(10)
            command("stat", "--instance", instance.path, "--json")
            shown = json.loads(capsys.readouterr().out)
            names = [client.transport.get_extra_info(n) for n in ("sockname", "peername")]
            mine = loop.ffloop_stats()
        server.close()
        return shown, names, server.sockets or [], mine

    with asyncio.Runner(loop_factory=ffloop.new_event_loop) as runner:
        shown, (local, remote), _, mine = runner.run(main())
    assert shown["refused"] == []
    [one] = shown["instances"]
    assert (one["pid"], one["path"], one["stack"]) == (instance.pid, instance.path, "host")
    assert one["state"] in ("running", "sleeping")
    assert one["user"] == one["sessions"][0]["user"]
    assert 0 <= time.time() - one["started"] < 60
    assert one["totals"]["accepts"] == 1
    assert one["totals"]["sessions_total"] == 1
    [session] = one["sessions"]
    assert session["pid"] == os.getpid()
    assert "pytest" in session["program"]
    assert session["sockets"] == len(one["sockets"]) == 4
    assert session["app"]["bytes_sent"] == mine["bytes_sent"] == 1010
    assert session["app"]["submitted"] == mine["submitted"]
    assert session["inst"]["bytes_in"] == 1010
    assert session["rings"]["sq"] == {"depth": 0, "size": 4096}
    sockets = {(s["state"], tuple(s["local"]), tuple(s["peer"] or ())): s for s in one["sockets"]}
    assert ("listening", remote, ()) in sockets
    near = sockets["connected", local, remote]
    far = sockets["connected", remote, local]
    assert (near["type"], near["bytes_out"], near["bytes_in"]) == ("tcp", 1000, 10)
    assert (far["bytes_out"], far["bytes_in"]) == (10, 1000)
    assert near["tx_queued"] == far["tx_queued"] == 0
    assert [s["local"][0] for s in one["sockets"] if s["state"] == "listening"].count("::1") == 1


def test_states_and_what_is_queued(instance):
    def states():
        return sorted(s.state for s in stats_page.read(instance.pid).sockets)

    async def states_are(*expected):
        while states() != sorted(expected):
            await asyncio.sleep(0)

    async def main():
        loop = asyncio.get_running_loop()
        with ffloop.socket() as bound, ffloop.socket() as refused:
            bound.bind((HOST, 0))
            with contextlib.suppress(ConnectionRefusedError):
                await loop.sock_connect(refused, bound.getsockname())
            await states_are("bound", "failed")
        async with pair() as (client, peer):
            peer.transport.pause_reading()
            client.transport.write(bytes(20_000_000))
            while True:
                page = stats_page.read(instance.pid)
                if queued := [s for s in page.sockets if s.tx_queued]:
                    break
                await asyncio.sleep(0)
            assert [s.local for s in queued] == [client.transport.get_extra_info("sockname")]
            pattern = r"^ffloop_session_queued_bytes\{.*\} [1-9]\d*$"
            assert re.search(pattern, metrics.text([page]), re.M)
            client.transport.abort()
            await client.lost
            peer.transport.abort()
        async with pair() as (client, peer):
            peer.keep_open = True
            client.transport.write_eof()
            await peer.eof
            await states_are("connected", "listening", "peer done")

    with asyncio.Runner(loop_factory=ffloop.new_event_loop) as runner:
        runner.run(main())
    while stats_page.read(instance.pid).sessions:
        time.sleep(0.01)
    assert stats_page.read(instance.pid).sockets == []


def test_a_reader_that_has_its_share(instance):
    """The instance reads ahead as much as a socket may hold, and counts that it stopped."""

    async def main():
        loop = asyncio.get_running_loop()
        with ffloop.socket() as listener, socket.socket() as peer:
            listener.bind((HOST, 0))
            listener.listen()
            listener.setblocking(False)
            peer.connect(listener.getsockname())
            peer.setblocking(False)
            connection, _ = await loop.sock_accept(listener)
            assert peer.send(b"x") == 1
            assert await loop.sock_recv(connection, 1) == b"x"
            while not stats_page.read(instance.pid).sessions[0].inst["pool_empty"]:
                with contextlib.suppress(BlockingIOError):
                    peer.send(bytes(65536))
                await asyncio.sleep(0)
            connection.close()

    with asyncio.Runner(loop_factory=ffloop.new_event_loop) as runner:
        runner.run(main())


def test_datagrams(instance):
    """Addresses travel with the data, and do not count as data."""
    with ffloop.socket(type=socket.SOCK_DGRAM) as one, ffloop.socket(type=socket.SOCK_DGRAM) as two:
        one.bind((HOST, 0))
        two.bind((HOST, 0))
        with ffloop.FFSelector() as selector:
            selector.register(one, selectors.EVENT_READ)
            two.sendto(b"hello", one.getsockname())
            assert selector.select(60)
        assert one.recvfrom(100) == (b"hello", two.getsockname())
        seen = {s.local: s for s in stats_page.read(instance.pid).sockets}
        assert {s.type for s in seen.values()} == {"udp"}
        assert seen[one.getsockname()].bytes_in == seen[two.getsockname()].bytes_out == 5
        assert seen[two.getsockname()].tx_queued == 0


def test_slots_are_used_again(instance):
    async def main():
        for _ in range(50):
            async with pair():
                pass

    with asyncio.Runner(loop_factory=ffloop.new_event_loop) as runner:
        runner.run(main())
    seen = stats_page.read(instance.pid)
    assert seen.totals["accepts"] == 50
    assert seen.totals["unlisted"] == 0


def test_a_stopped_instance_answers_at_once(instance, capsys):
    """Within a second (0.2 here, with the interpreter's start); a machine that builds meanwhile may
    take longer, and one that waited for the instance would never end."""
    with contextlib.closing(ffloop.new_event_loop()) as loop:
        instance.send_signal(signal.SIGSTOP)
        while stats_page.read(instance.pid).state != "stopped":
            pass
        began = time.monotonic()
        for form in ([], ["--json"], ["--prometheus"]):
            command("stat", "--instance", instance.path, *form)
            out = capsys.readouterr().out
            assert "stopped" in out
            assert str(os.getpid()) in out
        assert time.monotonic() - began < 60
        instance.send_signal(signal.SIGCONT)
        assert loop.instance.pid == instance.pid


def test_as_a_command(instance):
    ffloop_command = os.path.join(os.path.dirname(sys.executable), "ffloop")
    with contextlib.closing(ffloop.new_event_loop()):
        for args in (["stat"], ["top", "--count", "1", "--interval", "0.01"]):
            command = (ffloop_command, *args, "--instance", str(instance.pid))
            done = completed(*command, env={**os.environ, "TERM": "dumb", "COLUMNS": "400"})
            assert done.returncode == 0, done.stderr
            for word in ("Instances", "Sessions", "Rings", instance.path, str(os.getpid())):
                assert word in done.stdout
            for column in (
                *("queued", "pool free", "empty", "sq depth", "cq depth", "full"),
                *("spins", "sleeps", "wakes", "woken"),
            ):
                assert column in done.stdout
            assert ("/s" in done.stdout.replace(instance.path, "")) == (args[0] == "top")


@pytest.mark.parametrize("width", [80, 200])
def test_a_narrow_terminal(instance, width):
    """What is shown is shown whole; what is left out is named."""
    with contextlib.closing(ffloop.new_event_loop()) as loop:
        server = loop.run_until_complete(loop.create_server(asyncio.Protocol, "::1", 0))
        port = server.sockets[0].getsockname()[1]
        while (seen := collect.collect(instance.path))[0][0].state != "sleeping":
            time.sleep(0.001)  # "running" is shorter
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(tables.tables(*seen, limit=20))
        server.close()
    text = console.export_text()
    for word in ("submitted", "sq depth", "pool free", "sleeping", "listening", f"[::1]:{port}"):
        assert word in text
    assert ("columns left out: killed, refused" in text) == (width == 80)
    assert ("woken" in re.sub(r"\(.*?\)", "", text)) == (width == 200)


def prometheus(text):
    """By family: its samples, as Prometheus's own client reads them."""
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    return {family.name: family.samples for family in families}


def test_prometheus(instance, capsys):
    """No two families have one name: a counter's, for OpenMetrics, is what is before _total."""
    with contextlib.closing(ffloop.new_event_loop()):
        command("stat", "--instance", instance.path, "--prometheus")
        found = prometheus(capsys.readouterr().out)
        command("stat", "--instance", instance.path, "--openmetrics")
        shown = capsys.readouterr().out
    assert [sample.value for sample in found["ffloop_instance_sessions_open"]] == [1]
    assert [sample.value for sample in found["ffloop_instance_sessions"]] == [1]  # ..._total
    assert len(found["ffloop_ring_depth"]) == 4
    open_metrics = list(openmetrics.text_string_to_metric_families(shown))
    assert {family.name for family in open_metrics} == {*found}
    kinds = {family.name: family.type for family in open_metrics}
    assert kinds["ffloop_instance_sessions"] == "counter"
    assert kinds["ffloop_instance_sessions_open"] == "gauge"


def test_the_dashboard(instance, capsys):
    """Every metric that Grafana's file asks for is one that is served; nothing lies on another."""
    dashboard = json.loads((EXAMPLES / "deploy" / "grafana.json").read_text())
    panels = dashboard["panels"]
    asked = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"\bffloop_\w+", target["expr"])
    }
    registry = prometheus_client.CollectorRegistry()

    async def main():
        listener = await asyncio.start_server(lambda reader, writer: None, HOST, 0)
        command("stat", "--instance", instance.path, "--prometheus")
        listener.close()

    with contextlib.closing(ffloop.new_event_loop()) as loop:
        loop.run_until_complete(main())
        registry.register(ffloop.metrics.LoopCollector(loop))
        text = capsys.readouterr().out + prometheus_client.generate_latest(registry).decode()
    served = {s.name for samples in prometheus(text).values() for s in samples}
    assert asked
    assert asked <= served
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}


@pytest.mark.parametrize("where", ["127.0.0.1", "[::1]", "localhost", "127.0.0.9"])
def test_metrics_at_an_address(instance, where):
    with serving_metrics(instance, f"{where}:0") as (process, url):
        assert url.startswith(f"http://{where}:")
        asked = urllib.request.Request(url, headers={"Accept": "application/openmetrics-text"})
        with urllib.request.urlopen(asked) as answer:
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
            assert list(openmetrics.text_string_to_metric_families(answer.read().decode()))
        process.terminate()


@contextlib.contextmanager
def serving_metrics(instance, where):
    """(its process, the URL)"""
    args = ["-m", "ffloop", "stat", "--instance", instance.path, "--metrics", where]
    with subprocess.Popen([sys.executable, "-P", *args], stdout=-1, text=True) as process:
        try:
            yield process, process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def refused(url, status):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url)
    caught.value.close()
    assert caught.value.code == status


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_metrics_server(instance, end):
    with serving_metrics(instance, "0") as (process, url):
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert b"ffloop_instance_info" in answer.read()
        refused(url + "/more", 404)
        instance.kill()
        instance.wait()
        refused(url, 503)
        process.send_signal(end)
        assert process.wait() == 0


def test_a_path_from_its_own_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with instances.running("./mine.sock") as process:
        for name in ("mine.sock", f"../{tmp_path.name}/mine.sock", str(tmp_path / "mine.sock")):
            assert stats_page.find(name) == process.pid


def test_no_such_instance(capsys, tmp_path):
    command("stat", "--instance", str(tmp_path / "none.sock"), status=1)
    assert "no instance of yours listens at" in capsys.readouterr().err
    command("top", "--instance", str(os.getpid()), status=1)
    assert "is not an ffloop instance" in capsys.readouterr().err
    with pytest.raises(InstanceNotFound):
        stats_page.read(2**22 + 1)
    with socket.create_server((HOST, 0)) as taken:
        command("stat", "--metrics", str(taken.getsockname()[1]), status=1)
    assert "cannot serve at 127.0.0.1:" in capsys.readouterr().err
    command("stat", "--metrics", "192.0.2.1:0", status=1)
    assert "cannot serve at 192.0.2.1:0: Cannot assign" in capsys.readouterr().err


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user")
def test_another_users_instance_is_refused(instance):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            try:
                stats_page.read(instance.pid)
            except InstanceDenied as exc:
                os.write(write, str(exc.strerror).encode())
            try:
                stats_page.read(os.getppid())
            except InstanceDenied as exc:
                os.write(write, str(exc.strerror).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as said:
        words = said.read()
    assert f"the ffloop instance with pid {instance.pid} is root's: only root may look" in words
    assert f"process {os.getpid()} is root's: only root may look" in words
    os.waitpid(pid, 0)


PRETENDER = """
import fcntl, os, sys
with open("/proc/self/comm", "w") as file:
    file.write("ffloop-instance")
fd = os.memfd_create("ffloop-stats", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
os.write(fd, bytes.fromhex(sys.stdin.readline()))
os.ftruncate(fd, int(sys.argv[1]))
if sys.argv[2] == "sealed":
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def pretender(page, size, seal="sealed"):
    """The pid of a process that shows this page as an instance's, in a memfd of `size` bytes."""
    args = [sys.executable, "-c", PRETENDER, str(size), seal]
    with subprocess.Popen(args, stdin=-1, stdout=-1, text=True) as process:
        process.stdin.write(bytes(page).hex() + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        assert process.pid in stats_page.pids()
        yield process.pid
        process.stdin.close()


@pytest.fixture
def page(instance):
    """The page of a true instance, to be changed: (its bytes, the same as a struct)."""
    kind = "struct ffl_instance_page"
    with stats_page._mapped(stats_page._open_page(instance.pid), kind, 1 << 30) as mapped:
        data = bytearray(mapped[:4096])
    return data, stats_page.ffi.from_buffer(f"{kind} *", data)


@pytest.mark.parametrize("case", ["short", "unsealed", "foreign", "beyond"])
def test_a_process_that_only_looks_like_one(page, case):
    """Root looks at everybody's: what a page says is checked before it is followed."""
    data, size, seal, error = {
        "short": (page[0][:64], 100, "sealed", InstanceNotFound),
        "unsealed": (page[0], 8192, "no", InstanceNotFound),
        "foreign": (bytes(4096), 8192, "sealed", VersionMismatch),
        "beyond": (page[0], 8192, "sealed", InstanceNotFound),
    }[case]
    with pretender(data, size, seal) as pid, pytest.raises(error):
        stats_page.read(pid)


@pytest.mark.parametrize("table", ["sessions", "sockets"])
def test_a_page_without_an_end(page, table):
    """Four thousand million slots, in a file of that size which takes no memory."""
    data, struct = page
    if table == "sessions":
        struct.session_slots = 2**32 - 1
    else:
        struct.socket_top = 2**32 - 1
    with pretender(data, 1 << 42) as pid:
        began = time.monotonic()
        with pytest.raises(InstanceNotFound, match="is not an ffloop instance"):
            stats_page.read(pid)
        assert time.monotonic() - began < 60  # (0.01; hours before)


_TRICKS = [
    *(b"[/red]", b"[link=x:y]z", b"[bold", b"\\[", b"\x1b[2J\x1b]0;x\x07", b"\r\n\t\0"),
    *(b'"} 1\nfoo', b"\xe2\x80\xaetxt", b"\xc2\x9b31m", b"\xff\xfe"),
]


@pytest.mark.parametrize("name", _TRICKS, ids=ascii)
def test_names_of_a_stranger(page, capsys, name):
    """They are neither markup nor a terminal's orders, in any form, nor end the command."""
    data, struct = page
    for field in (struct.stack, struct.path, struct.describe):
        room = stats_page.ffi.buffer(field)
        room[:] = (name + bytes(len(room)))[: len(room)]
    with pretender(data, stats_page._MOST_PAGE) as pid:
        for form in ([], ["--json"], ["--prometheus"]):
            command("stat", "--instance", str(pid), *form)
            shown = capsys.readouterr().out
            assert all(char.isprintable() or char == "\n" for char in shown)
            if form == ["--prometheus"]:
                assert [s.labels["pid"] for s in prometheus(shown)["ffloop_instance_info"]] == [
                    str(pid)
                ]
            elif not form and name.isascii() and name.decode().isprintable():
                assert name.decode() in shown


@pytest.mark.parametrize("seed", range(20))
def test_a_page_of_anything(page, capsys, seed):
    data, struct = page
    size = struct.size
    chance = random.Random(seed)
    offsets = (struct.session_off, struct.session_slots, struct.socket_off)
    for at in range(16, 400):
        if chance.random() < 0.5:
            data[at] = chance.choice([0, 0xFF, chance.randrange(256)])
    struct.session_off, struct.session_slots, struct.socket_off = offsets
    struct.socket_top = chance.randrange(300)
    more = b"".join(
        chance.choice([bytes(4), b"\xff" * 4, chance.randbytes(4)]) for _ in range(4096)
    )
    with pretender(data + more, size) as pid:
        for form in ([], ["--json"], ["--prometheus"]):
            command("stat", "--instance", str(pid), *form)
            shown = capsys.readouterr().out
            assert all(char.isprintable() or char == "\n" for char in shown)


def test_nobody_can_write_the_page(instance):
    fd = stats_page._open_page(instance.pid)
    try:
        number = os.readlink(f"/proc/self/fd/{fd}")
        assert "ffloop-stats" in number
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SEAL
        with pytest.raises(PermissionError), open(f"/proc/self/fd/{fd}", "r+b", 0) as again:
            again.write(b"x")
    finally:
        os.close(fd)
