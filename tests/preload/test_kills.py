"""kill -9 of a worker, the master and the instance, under load: nothing hangs, nothing stays."""

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from programs import Load, alive, children, either_stack, need, running, until
from shim import Instance, OnFStack
from test_modes import start
from test_nginx import PAGE, configure
from test_redis import redis_server

pytestmark = either_stack


def kill(pid: int) -> None:
    """One that is a child of a child: gone or a zombie when this returns."""
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid))


def test_workers(instance: Instance, tmp_path: Path) -> None:
    """The master starts others; what the dead ones had is answered or reset, and is not left."""
    port, command = configure(instance.address, tmp_path, "single.conf")
    with (
        running(instance, port, *command, "-g", "daemon off;") as master,
        Load(instance.address, port, PAGE) as load,
    ):
        for _ in range(10):
            until(lambda: len(children(master.pid)) == 4)
            kill(children(master.pid)[0])
            load.answered_more(20)


def test_master(instance: Instance, tmp_path: Path) -> None:
    """Its workers serve on, and the instance is empty when they are gone too."""
    port, command = configure(instance.address, tmp_path, "single.conf")
    with (
        running(instance, port, *command, "-g", "daemon off;") as master,
        Load(instance.address, port, PAGE) as load,
    ):
        load.answered_more(20)
        workers = children(master.pid)
        kill(master.pid)
        load.answered_more(50)
        assert load.failed == []
        for pid in workers:
            kill(pid)
    instance.drained()


def test_instance(instance: Instance, tmp_path: Path) -> None:
    """Connections are reset at once, the program says why and ends when it is told to."""
    port, command = configure(instance.address, tmp_path, "single.conf")
    process = subprocess.Popen([*command, "-g", "daemon off;"], env=instance.environment())
    with Load(instance.address, port, PAGE) as load:
        load.answered_more(50)
        until(lambda: len(children(process.pid)) == 4)
        workers = children(process.pid)
        until(lambda: set(workers) <= {s.pid for s in instance.stats().sessions})
        instance.process.kill()
        instance.process.wait()
        if isinstance(instance, OnFStack):  # its TCP ended with it: peers wait for the next one's
            instance.stop()
        until(lambda: len(load.failed) > 20)
    log = tmp_path / "error.log"  # nginx has made it its standard error
    until(lambda: log.read_text().count("has ended: its connections are reset") >= len(workers))
    process.send_signal(signal.SIGQUIT)
    assert process.wait() == 0
    assert not any(alive(pid) for pid in workers)
    lines = log.read_text().splitlines()
    assert len(lines) < 1000, lines[-5:]  # it does not spin on a dead listener


ACCEPTS = """
import errno, select, socket, sys
listener = socket.create_server((sys.argv[1], 0))
print(listener.getsockname()[1], flush=True)
poller = select.poll()
poller.register(listener)
poller.poll()
print("offered", flush=True)
sys.stdin.readline()
try:
    listener.accept()
except OSError as e:
    print(errno.errorcode[e.errno], flush=True)
poller.poll(50)
"""


def in_accept(pid: int) -> bool:
    """It sleeps, and not in the read() of its standard input."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] not in ("running", "0")


def test_instance_while_accept_asks(instance: Instance) -> None:
    """The call that waits for its answer ends as one after the end, which is said once."""
    if isinstance(instance, OnFStack):
        pytest.skip("the listener is reached over the host stack's loopback")
    process = start(ACCEPTS, instance.address, **instance.environment())
    assert process.stdin
    assert process.stdout
    address = (instance.address, int(process.stdout.readline()))
    with socket.create_connection(address):
        assert process.stdout.readline() == "offered\n"
        instance.process.send_signal(signal.SIGSTOP)
        process.stdin.write("\n")
        process.stdin.flush()
        until(lambda: in_accept(process.pid))
        instance.process.kill()
        out, said = process.communicate()
    assert out == "ECONNABORTED\n"
    assert said.count("has ended: its connections are reset") == 1


INHERITS = """
import errno, os, select, socket, sys
listener = socket.create_server((sys.argv[1], 0))
if not os.fork():
    print("forked", flush=True)
    sys.stdin.readline()
    for poller in select.poll(), select.epoll():
        poller.register(listener, select.POLLIN)
    try:
        listener.accept()
    except OSError as e:
        print(errno.errorcode[e.errno], poller.poll(0), flush=True)
    os._exit(0)
os.wait()
"""


def test_instance_before_a_child_uses_a_listener(instance: Instance) -> None:
    """It cannot be had any more: accept says so, and a server that waits for it waits."""
    process = start(INHERITS, instance.address, **instance.environment())
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == "forked\n"
    instance.process.kill()
    instance.process.wait()
    process.stdin.write("\n")
    process.stdin.flush()
    out, said = process.communicate()
    assert out == "ECONNABORTED []\n"
    assert "an inherited socket is lost" in said


def test_redis(instance: Instance, tmp_path: Path) -> None:
    """The server is killed in the middle of a benchmark."""
    port, command = redis_server(instance.address, tmp_path)
    with running(instance, port, *command) as server:
        bench = [need("redis-benchmark"), "-h", instance.mirror, "-p", str(port)]
        bench += ["-q", "-n", "10000000", "-t", "set"]
        with subprocess.Popen(
            bench, env=instance.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as client:
            assert client.stdout
            client.stdout.read(200)  # it is under way
            server.kill()
            server.wait()
            client.stdout.read()
            assert client.wait() != 0
