"""Applications and instances in namespaces of their own, as containers and their sidecars are."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import textwrap

import pytest
from common import instances
from common.processes import completed

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces take root here"),
    pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed"),
]

USER = 23456  # nobody's
# Apart: its pid is none of the other side's, as between two containers of a pod.
OWN_PIDS = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@pytest.fixture(scope="module", autouse=True)
def _namespaces():
    each = ("--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc")
    done = completed("unshare", *each, "true")
    if done.returncode:  # in a chroot, or a container without the right
        pytest.skip(f"no namespaces can be made here: {done.stderr.strip()}")


SERVER = """
import asyncio, ctypes, os, signal, sys
import ffloop

libc = ctypes.CDLL(None)
PR_SET_DUMPABLE, CLONE_NEWUSER = 4, 0x10000000

def become(user):
    ffloop.new_event_loop().close()  # what it imports need not be there for the user
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    libc.prctl(PR_SET_DUMPABLE, 1)  # /proc/self is its own

def root_of_a_user_namespace():
    user = os.getuid()
    if libc.unshare(CLONE_NEWUSER) < 0:
        sys.exit("no user namespace")
    with open("/proc/self/uid_map", "w") as file:
        file.write(f"0 {user} 1")
    os.setresuid(0, 0, 0)

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", int(sys.argv[1]))
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello")
    print((await reader.readexactly(5)).decode(), flush=True)
    BODY

FIRST
ffloop.run(main())
"""


def program(body: str = "pass", first: str = "") -> str:
    body = textwrap.indent(textwrap.dedent(body), "    ").strip()
    return SERVER.replace("BODY", body).replace("FIRST", first)


def call(*argv: str | os.PathLike[str], **options):
    return completed(*argv, **options)


@pytest.fixture
def path(tmp_path):
    """Of an instance's socket, in a folder that others may enter."""
    folder = pathlib.Path("/tmp") / f"ffloop-test-{os.getpid()}"
    folder.mkdir(mode=0o755)
    yield folder / "instance.sock"
    shutil.rmtree(folder)


def serve(path, *prefix, port=0, first="", **options):
    environ = {**os.environ, "FFLOOP_INSTANCE": str(path)}
    argv = (*prefix, sys.executable, "-P", "-c", program(first=first), str(port))
    return call(*argv, env=environ, **options)


def test_an_instance_with_pids_of_its_own(path):
    """A sidecar: SO_PEERCRED says pid 0."""
    with instances.running(path, "--log-level=info", prefix=OWN_PIDS, stderr=-1) as instance:
        done = serve(path)
        assert done.stdout == "hello\n", done
        instance.kill()
        assert b"session 1: pid 0, uid 0 attached" in instance.communicate()[1]


def test_an_application_with_pids_of_its_own(path):
    with instances.running(path):
        done = serve(path, *OWN_PIDS)
        assert done.stdout == "hello\n", done


def test_an_end_is_seen_across_pid_namespaces(path):
    """Also where a child has what it inherited open: the process counts (SO_PEERPIDFD)."""
    body = """
        if libc._Fork() == 0:  # without what asyncio and ffloop do in a child
            os.write(1, f"{os.getpid()}\\n".encode())
            signal.pause()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with instances.running(path, "--log-level=info", prefix=OWN_PIDS, stderr=-1) as instance:
        environ = {**os.environ, "FFLOOP_INSTANCE": str(path)}
        argv = (sys.executable, "-P", "-c", program(body), "0")
        with subprocess.Popen(argv, env=environ, stdout=-1, text=True) as application:
            assert application.stdout.readline() == "hello\n"
            child = int(application.stdout.readline())
            try:
                for line in instance.stderr:
                    if b"session 1" in line and (b"detached" in line or b"ended" in line):
                        break
                else:
                    pytest.fail("the session did not end")
                os.kill(child, 0)  # it is there
            finally:
                os.kill(child, signal.SIGKILL)


def privileged_port():
    for port in range(1023, 512, -1):
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    return pytest.skip("every port below 1024 is taken")


def test_root_of_other_pids_lends_nothing(path):
    """Its capabilities cannot be read; a rule gives the port."""
    port = privileged_port()
    with instances.running(path, prefix=OWN_PIDS):
        done = serve(path, port=port)
        assert "PermissionError" in done.stderr, done
    with instances.running(path, "--ports", f"root={port}", prefix=OWN_PIDS):
        done = serve(path, port=port)
        assert done.stdout == "hello\n", done


def test_root_of_a_user_namespace(path):
    """Is the user that it is outside, with this user's rights."""
    first = f"become({USER}); root_of_a_user_namespace()"
    with instances.running(path, "--any-user", "--log-level=info", stderr=-1) as instance:
        done = serve(path, first=first)
        if "no user namespace" in done.stderr:
            pytest.skip("this kernel lets no ordinary user make a user namespace")
        assert done.stdout == "hello\n", done
        done = serve(path, first=first, port=privileged_port())
        assert "PermissionError" in done.stderr, done
        instance.kill()
        assert f"uid {USER} attached".encode() in instance.communicate()[1]


def test_users_that_an_instance_cannot_tell_apart(path):
    """Those that its user namespace does not map are one, the overflow user: by name only."""
    prefix = ("unshare", "--user", "--map-root-user")
    overflow = int(pathlib.Path("/proc/sys/kernel/overflowuid").read_text())
    first = f"become({USER})"
    with instances.running(path, "--mode=666", prefix=prefix):
        assert serve(path).stdout == "hello\n"
        done = serve(path, first=first)
        assert f"user {overflow} may not use this instance" in done.stderr, done
    with instances.running(path, "--allow-user", str(overflow), prefix=prefix):
        done = serve(path, first=first)
        assert done.stdout == "hello\n", done


BARE = """
mount --make-rprivate /
mount -t tmpfs -o size=64k none /dev/shm
mount -t tmpfs -o ro,size=4k none /run
mount --bind / /mnt && mount -o remount,ro,bind /mnt && mount --rbind /proc /mnt/proc
mount --rbind /dev /mnt/dev && mount -t tmpfs -o ro,size=4k none /mnt/tmp
mount -t tmpfs -o ro,size=4k none /mnt/run
exec prlimit --memlock=0:0 chroot /mnt "$@"
"""


@pytest.mark.parametrize("instance", ["direct", "spawn"])
def test_a_read_only_root_without_run_shm_or_locked_memory(instance):
    """As in a container: read-only, the default limits. The shared memory is no file of a mount."""
    if sys.executable.startswith("/tmp/"):
        pytest.skip("the interpreter is in /tmp, which is empty in there")
    given = call("unshare", "--mount", "sh", "-c", BARE, "sh", "sh", "-c", "touch /tmp/x /run/x /x")
    assert given.stderr.count("Read-only file system") == 3, given
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("FFLOOP", "XDG"))}
    environ["FFLOOP_INSTANCE"] = instance
    command = (sys.executable, "-P", "-c", program(), "0")
    done = call("unshare", "--mount", "sh", "-ec", BARE, "sh", *command, env=environ)
    assert done.stdout == "hello\n", done
