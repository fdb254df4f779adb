"""Servers that start as root and become another user before they have a socket."""

import os
import sys
import sysconfig
from pathlib import Path

import pytest
from common.processes import completed
from shim import Instance, python

FFLOOP = str(Path(sysconfig.get_path("scripts"), "ffloop"))

# Its first socket, and a child's first, both of somebody whom the embedded instance does not admit.
DROPS = """
import os, socket

def echo():
    listener = socket.create_server(("127.0.0.1", 0))
    with socket.create_connection(listener.getsockname()) as client:
        client.sendall(b"hello")
        peer, _ = listener.accept()
        assert peer.recv(5) == b"hello"
        peer.close()
    listener.close()

"hello".encode("idna")  # imported while it may be read
os.setgroups([])
os.setgid(54321)
os.setuid(54321)
if FIRST:
    echo()
if os.fork() == 0:
    echo()
    os._exit(0)
assert os.wait()[1] == 0
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root: it becomes another user")
@pytest.mark.parametrize("first", [True, False], ids=["parent", "child"])
def test_drops_its_rights(first):
    program = (sys.executable, "-c", DROPS.replace("FIRST", str(first)))
    env = {k: v for k, v in os.environ.items() if not k.startswith(("FFLOOP", "FF_"))}
    done = completed(FFLOOP, "preload", "--", *program, env=env)
    assert (done.returncode, done.stderr) == (0, "")


# It has a listener when it becomes another user, or changes its root. Its child, and the child's
# child, serve with that listener and with sockets of their own.
HAS_SOCKETS = """
import os, socket

def echo(listener):
    with socket.create_connection(listener.getsockname()) as client:
        client.sendall(b"hello")
        peer, _ = listener.accept()
        assert peer.recv(5) == b"hello"
        peer.close()

"hello".encode("idna")  # imported while it may be read
inherited = socket.create_server(("127.0.0.1", 0))
LEAVE
for _ in range(2):
    if pid := os.fork():
        os._exit(os.waitpid(pid, 0)[1] != 0)
    with socket.create_server(("127.0.0.1", 0)) as own:
        echo(own)
    echo(inherited)
"""
LEAVES = {
    "user": "os.setgroups([]); os.setgid(54321); os.setuid(54321)",
    "root": "os.chroot('/proc/self/fdinfo'); os.chdir('/')",
}


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root: it becomes another user")
@pytest.mark.parametrize("leaves", LEAVES)
def test_forks_where_the_instance_is_out_of_reach(instance: Instance, leaves: str) -> None:
    done = python(HAS_SOCKETS.replace("LEAVE", LEAVES[leaves]), env=instance.environment())
    assert (done.returncode, done.stderr) == (0, "")
