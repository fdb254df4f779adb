"""An instance as a service: readiness, access, quotas, ports, the drain; what refusals say."""

import asyncio
import contextlib
import errno
import grp
import logging
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from importlib import metadata

import pytest
from common import instances
from common.ports import unused_port
from common.processes import completed

import ffloop
from ffloop._cli import doctor
from ffloop._session import discovery, stats_page

from .util import HOST, Log, serve, until

pytestmark = pytest.mark.ring

root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root: it acts as another user")
OTHER = 54321  # a user and group that nothing else has


@pytest.fixture
def service():
    """Starts an instance; the callable returns its process and its socket."""
    started = []

    folder = tempfile.mkdtemp(prefix="ffloop-")  # pytest's own is closed to other users
    os.chmod(folder, 0o755)

    usual = os.path.join(folder, "i.sock")

    def start(*args, env=None, path=usual):
        environ = os.environ | (env or {})
        started.append(instances.start(path, *args, stderr=subprocess.PIPE, env=environ))
        return started[-1], path

    yield start
    for process in started:
        instances.stop(process)
    shutil.rmtree(folder)


def refused_start(*args):
    done = completed(discovery.executable(), "--socket", "@ffloop-never", *args)
    return done.returncode, done.stderr


@contextlib.contextmanager
def as_user(uid, *groups):
    """This process as another user; the kernel says so to whom it connects to."""
    before = os.getgroups()
    os.setgroups(groups)
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)


def attach(path):
    loop = ffloop.new_event_loop(instance=path)
    loop.close()


@pytest.mark.parametrize("abstract", [False, True])
def test_readiness(service, tmp_path, abstract):
    address = f"@ffloop-notify-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + address[1:] if abstract else address)
        manager.settimeout(60)
        process, _ = service(env={"NOTIFY_SOCKET": address})
        ready = manager.recv(1000).decode().split("\n")
        assert ready[:2] == ["READY=1", f"MAINPID={process.pid}"]
        assert ready[2].startswith("STATUS=stack host")
        process.send_signal(signal.SIGTERM)
        assert manager.recv(1000).startswith(b"STOPPING=1\nSTATUS=draining")
        assert process.wait() == 0


def test_readiness_that_nobody_hears(service):
    process, path = service(env={"NOTIFY_SOCKET": "/nowhere/notify"})
    attach(path)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0
    assert b"NOTIFY_SOCKET cannot be used: No such file" in process.stderr.read()


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ((), 0o600),
        (("--any-user",), 0o666),
        (("--allow-user", "0"), 0o666),
        (("--group", str(os.getegid())), 0o660),
        (("--mode", "640"), 0o640),
    ],
)
def test_socket_mode(service, options, mode):
    _, path = service(*options)
    assert stat.S_IMODE(os.stat(path).st_mode) == mode


@root
def test_other_users(no_leaks, service):
    _, path = service("--mode", "666")
    with as_user(OTHER), pytest.raises(ffloop.InstanceRefused, match=f"--allow-user {OTHER}"):
        attach(path)
    attach(path)


@root
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_users_do_not_share_ports(service, kind):
    """SO_REUSEPORT is for one user's processes, as with the kernel, though to the stack every
    socket is the instance's."""
    _, path = service("--any-user")

    async def bind(address, expected=None):
        loop = asyncio.get_running_loop()
        with pytest.raises(expected) if expected else contextlib.nullcontext():
            if kind == "tcp":
                server = await loop.create_server(Log, *address, reuse_port=True)
                return server.sockets[0].getsockname()
            made = await loop.create_datagram_endpoint(Log, address, reuse_port=True)
            return made[0].get_extra_info("sockname")
        return None

    with asyncio.Runner(loop_factory=lambda: ffloop.new_event_loop(instance=path)) as mine:
        address = mine.run(bind((HOST, 0)))
        for host in (HOST, "0.0.0.0", f"::ffff:{HOST}"):
            with (
                as_user(OTHER),
                asyncio.Runner(loop_factory=lambda: ffloop.new_event_loop(instance=path)) as theirs,
            ):
                theirs.run(bind((host, address[1]), OSError))
        with asyncio.Runner(loop_factory=lambda: ffloop.new_event_loop(instance=path)) as second:
            assert second.run(bind(address)) == address


@root
@pytest.mark.parametrize("option", ["--any-user", "--allow-user"])
def test_admitted_users(service, option):
    _, path = service(option, *([str(OTHER)] if option == "--allow-user" else []))
    with as_user(OTHER):
        attach(path)
    if option == "--allow-user":
        with as_user(OTHER + 1), pytest.raises(ffloop.InstanceRefused):
            attach(path)


@root
def test_a_group(service):
    group = grp.getgrgid(1).gr_name
    _, path = service("--group", group)
    assert os.stat(path).st_gid == 1
    with as_user(OTHER, 1):  # a member by a supplementary group
        attach(path)
    with as_user(OTHER), pytest.raises(ffloop.InstanceDenied, match="user or group"):
        attach(path)


@root
def test_those_who_connect_and_say_nothing(no_leaks, service):
    """Another user's, who is not even admitted, leave room."""
    _, path = service("--mode", "666")
    with contextlib.ExitStack() as held:
        for _ in range(80):
            sock = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            with as_user(OTHER):
                sock.connect(path)
        attach(path)


def test_sessions_of_a_user(no_leaks, service):
    _, path = service("--user-sessions", "1")
    loop = ffloop.new_event_loop(instance=path)
    try:
        with pytest.raises(ffloop.InstanceRefused, match=r"--user-sessions.*raise the limit"):
            attach(path)
    finally:
        loop.close()
    attach(path)


def test_sockets_of_a_session(no_leaks, service):
    _, path = service("--max-sockets", "16")

    async def main():
        made = []
        with pytest.raises(OSError, match="--max-sockets") as info:
            for _ in range(17):
                made.append(ffloop.socket())
        assert info.value.errno == errno.EMFILE
        assert len(made) == 16
        for sock in made:
            sock.close()

    ffloop.run(main(), instance=path)


@pytest.mark.parametrize("entries", ["64", "1024"])
def test_few_entries(no_leaks, service, entries):
    _, path = service("--entries", entries, "--pool-kib", "1024")

    async def echo(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def client(address, seed):
        reader, writer = await asyncio.open_connection(*address)
        for i in range(20):
            writer.write(bytes([seed, i]) * 10000)
            assert await reader.readexactly(20000) == bytes([seed, i]) * 10000
        writer.close()
        await writer.wait_closed()

    async def main():
        server = await asyncio.start_server(echo, HOST, 0)
        async with server:
            address = server.sockets[0].getsockname()
            await asyncio.gather(*(client(address, i) for i in range(40)))

    ffloop.run(main(), instance=path)


def test_ports(no_leaks, service):
    mine, other = unused_port(HOST), unused_port(HOST)
    assert mine != other
    process, path = service("--ports", f"{os.geteuid()}={mine}")

    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(PermissionError, match=r"(?s)port\s+policy.*--ports") as info:
            await loop.create_server(Log, HOST, other)
        assert info.value.errno == errno.EPERM
        assert str(other) in str(info.value)
        for port in (mine, 0):
            server = await loop.create_server(Log, HOST, port)
            server.close()
            await server.wait_closed()

    ffloop.run(main(), instance=path)
    process.send_signal(signal.SIGINT)
    process.wait()
    assert f"may not bind port {other} (--ports)".encode() in process.stderr.read()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--mode", "rw"), "octal"),
        (("--mode", "1777"), "octal"),
        (("--entries", "100"), "power of two"),
        (("--allow-user", "nobody-by-this-name"), "no user 'nobody-by-this-name'"),
        (("--group", "nobody-by-this-name"), "no group 'nobody-by-this-name'"),
        (("--ports", "80"), "USER=PORT"),
        (("--ports", "0=80-"), "a port is 1 to 65535"),
        (("--drain", "-1"), "whole number"),
        (("--user-sessions", "0"), "whole number"),
        (("--log-level", "loud"), "error, warning, info or debug"),
    ],
)
def test_wrong_options(options, words):
    status, said = refused_start(*options)
    assert status == 2
    assert words in said


def test_version():
    done = completed(discovery.executable(), "--version")
    version, stacks, *_ = done.stdout.splitlines()
    assert version == f"ffloop-instance {metadata.version('ffloop')}"
    assert stacks.startswith("stacks: host")


def test_something_else_is_there(tmp_path):
    status, said = refused_start("--socket", str(tmp_path))
    assert status == 1
    assert f"cannot listen on '{tmp_path}': File exists (and is no socket" in said
    status, said = refused_start("--socket", f"{tmp_path}/none/instance.sock")
    assert status == 1
    assert "No such file or directory (make its directory" in said


# ---- the log ----


LINES = {
    "error": [],
    "warning": ["attach refused"],
    "info": [" attached", "tcp socket {} listens", "tcp socket {} is closed", " detached"],
    "debug": ["tcp socket {}, peer 127.0.0.1:"],
}


@pytest.mark.parametrize("level", LINES)
def test_log_levels(service, level):
    """Each has its own lines and those of the ones before."""
    process, path = service("--log-level", level, "--max-sessions", "1")

    def come_and_go(address):
        with socket.create_connection(address) as peer:
            peer.shutdown(socket.SHUT_WR)
            assert peer.recv(1) == b""  # so it was accepted

    async def main():
        async with serve(Log) as (_, address):
            with pytest.raises(ffloop.InstanceRefused):
                attach(path)
            await asyncio.to_thread(come_and_go, address)
        return "{}:{}".format(*address)

    address = ffloop.run(main(), instance=path)
    while stats_page.read(process.pid).sessions:  # it has seen that the session ended
        pass
    process.send_signal(signal.SIGINT)
    process.wait()
    said = process.stderr.read().decode()
    levels = list(LINES)
    for other in levels:
        for line in LINES[other]:
            assert (line.format(address) in said) == (levels.index(other) <= levels.index(level)), (
                f"{line} in {said}"
            )


def test_the_log_of_an_embedded_instance(tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.delenv(discovery._ENV, raising=False)
    monkeypatch.setenv("FFLOOP_INSTANCE_LOG", str(log))
    monkeypatch.setenv("FFLOOP_INSTANCE_LOG_LEVEL", "info")
    with contextlib.closing(ffloop.new_event_loop()) as loop:
        served = loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        loop.run_until_complete(served).close()  # it logs a session when it has let it in
        assert f"session 1: pid {os.getpid()}," in log.read_text()
    monkeypatch.setenv("FFLOOP_INSTANCE_LOG_LEVEL", "loud")
    monkeypatch.delenv(discovery._ENV)
    with pytest.raises(ffloop.ConfigError, match=r"FFLOOP_INSTANCE_LOG_LEVEL='loud'.*debug"):
        ffloop.new_event_loop()


# ---- its limits ----


@pytest.mark.parametrize("limit", [1 << 20, 40 << 20])
def test_too_small_a_limit_for_files(tmp_path, limit):
    """Shared memory counts; it is said which limit that is, at the start or to who attaches."""
    path = str(tmp_path / "i.sock")
    command = [discovery.executable(), "--no-huge", "--pool-kib", "65536", "--socket", path]
    with subprocess.Popen(
        ["prlimit", f"--fsize={limit}", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        if process.stdout.readline():
            with pytest.raises(ffloop.InstanceError, match=r"`ulimit -f` \(LimitFSIZE=\)"):
                attach(path)
            process.kill()
        else:
            assert b"`ulimit -f`" in process.stderr.read()
            assert process.wait() == 1
        assert (process.wait() == 1) == (limit == 1 << 20)


def test_the_limit_for_files_that_the_doctor_asks_for(tmp_path):
    path = str(tmp_path / "i.sock")
    command = ["prlimit", f"--fsize={doctor._SESSION_KIB << 10}", discovery.executable()]
    with subprocess.Popen(
        [*command, "--no-huge", "--socket", path], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout.readline()
            attach(path)
        finally:
            process.kill()


# ---- where the socket is ----


@pytest.fixture
def place():
    """A directory of its own, open to other users' eyes."""
    folder = tempfile.mkdtemp(prefix="ffloop-")
    os.chmod(folder, 0o755)
    yield folder
    shutil.rmtree(folder)


def _link(place, mine):
    os.symlink(mine, os.path.join(place, "link"))
    return os.path.join(place, "link")


def _open_to_all(place, mine):
    os.chmod(mine, 0o777)
    return mine


def _foreign(place, mine):
    os.chown(mine, OTHER, -1)
    return mine


UNSAFE = [
    pytest.param(_link, "is a symbolic link: name the directory itself", id="link"),
    pytest.param(_open_to_all, "every user may write in", id="open"),
    pytest.param(_foreign, f"belongs to user {OTHER}", id="foreign", marks=root),
]


@pytest.mark.parametrize(("spoil", "words"), UNSAFE)
def test_unsafe_places(no_leaks, service, place, spoil, words):
    """The instance does not start there; an application does not attach."""
    mine = os.path.join(place, "mine")
    os.mkdir(mine)
    service(path=os.path.join(mine, "i.sock"))
    path = os.path.join(spoil(place, mine), "i.sock")
    with pytest.raises(ffloop.InstanceUnsafe, match=words):
        attach(path)
    status, said = refused_start("--socket", path + "2")
    assert status == 1
    assert words in said


@root
def test_the_stopped_service_of_another_user_does_not_run(place):
    """Its directory stays, and its user's socket there would be used."""
    path = os.path.join(_foreign(place, place), "i.sock")
    with pytest.raises(ffloop.InstanceNotFound, match="there is no such socket"):
        attach(path)


@root
def test_a_sticky_directory(service, place):
    """As /tmp is: what root or this user has put there is used, what another has is not."""
    os.chmod(place, 0o1777)
    path = os.path.join(place, "i.sock")
    process, _ = service("--any-user", path=path)
    attach(path)
    with as_user(OTHER):
        attach(path)
    process.kill()
    process.wait()
    os.chown(path, OTHER, -1)  # (an instance of that user's could not run from this package)
    with pytest.raises(ffloop.InstanceUnsafe, match=f"is of user {OTHER}, and every user"):
        attach(path)


@root
def test_a_directory_of_a_group(service, place):
    """Its members can put a socket in another's place: whose it is must be right."""
    path = os.path.join(place, "i.sock")
    process, _ = service("--any-user", path=path)
    os.chmod(place, 0o775)
    attach(path)
    process.kill()
    process.wait()
    os.chown(path, OTHER, -1)
    with pytest.raises(ffloop.InstanceUnsafe, match=f"is of user {OTHER}, and a group may write"):
        attach(path)


@root
def test_who_listens_is_whose_socket_it_is(service, place):
    path = os.path.join(place, "i.sock")
    with as_user(OTHER), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        os.seteuid(0)
        sock.bind(path)
        os.chmod(path, 0o666)
        os.seteuid(OTHER)
        sock.listen()  # the kernel notes who
        os.seteuid(0)
        with pytest.raises(ffloop.InstanceUnsafe, match=f"user {OTHER} listens at"):
            attach(path)


# ---- the drain ----


class Made(Log):
    """A server's protocol that can be found."""

    last = None

    def connection_made(self, transport):
        super().connection_made(transport)
        type(self).last = self


@contextlib.asynccontextmanager
async def listening():
    async with serve(Made) as (server, address):
        Made.last = None
        yield server, address


@contextlib.asynccontextmanager
async def connected(address):
    """A kernel client of the stack's server at `address`: (socket, the server's protocol)."""
    with socket.socket() as sock:
        sock.setblocking(False)
        await asyncio.to_thread(_connect, sock, address)
        await until(lambda: Made.last)
        yield sock, Made.last
    await Made.last.lost


def _connect(sock, address):
    sock.settimeout(60)
    sock.connect(address)
    sock.setblocking(False)


def _answers(address):
    with socket.socket() as sock:
        return sock.connect_ex(address) == 0


def test_drain(no_leaks, service, caplog):
    """Listeners stop, the application is told, a connection finishes what it does."""
    caplog.set_level(logging.WARNING, "ffloop")
    process, path = service("--drain", "600")

    async def main():
        async with listening() as (_, address):
            async with connected(address) as (a, b):
                process.send_signal(signal.SIGTERM)
                await until(lambda: "draining" in caplog.text)
                assert not os.path.exists(path)  # a successor may have it
                with socket.socket() as late:
                    assert late.connect_ex(address) == errno.ECONNREFUSED
                b.transport.write(b"goes on")
                loop = asyncio.get_running_loop()
                assert await loop.sock_recv(a, 100) == b"goes on"
                assert process.poll() is None
            await until(lambda: process.poll() is not None)
        assert process.returncode == 0

    ffloop.run(main(), instance=path, reconnect=False)


def test_drain_in_time(no_leaks, service):
    process, path = service("--drain", "1")

    async def main():
        async with listening() as (_, address), connected(address) as (_, b):
            process.send_signal(signal.SIGTERM)
            assert isinstance(await b.lost, ConnectionResetError)

    ffloop.run(main(), instance=path, reconnect=False)
    assert process.wait() == 0


def test_a_second_sigterm_ends_at_once(no_leaks, service, caplog):
    caplog.set_level(logging.WARNING, "ffloop")
    process, path = service("--drain", "600")

    async def main():
        async with listening() as (_, address), connected(address) as (_, b):
            process.send_signal(signal.SIGTERM)
            await until(lambda: "draining" in caplog.text)
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            await b.lost

    ffloop.run(main(), instance=path, reconnect=False)
    assert process.wait() == 0


def test_a_successor_takes_over(no_leaks, service):
    """The next instance runs at the same path before the first has ended; the server follows."""
    process, path = service("--drain", "600")

    async def main():
        async with listening() as (server, _):
            address = server.sockets[0].getsockname()
            async with connected(address):
                process.send_signal(signal.SIGTERM)
                await until(lambda: not os.path.exists(path))
                service(path=path)
            await until(lambda: process.poll() is not None)
            await until(lambda: _answers(address))
            assert process.returncode == 0

    ffloop.run(main(), instance=path)
