"""Where the kernel lacks a call, or a container's seccomp profile denies it: what has another way
takes it, and else the error names the call; `ffloop doctor` tells."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from common.processes import completed

from ffloop._session.binding import kernel_calls

pytestmark = [
    pytest.mark.ring,
    pytest.mark.skipif(
        "ASAN_OPTIONS" in os.environ, reason="the sanitizer's run time makes calls of its own"
    ),
]
DENIED = Path(__file__).resolve().parents[1] / "denied.py"
PROGRAM = """
import asyncio, ffloop

async def main():
    async def answer(reader, writer):
        writer.write(await reader.read(10))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await asyncio.sleep(0.01)  # a wait with a time-out
    writer.write(b"x")
    print((await reader.read()).decode())
    writer.close()

ffloop.run(main(), instance="spawn")
"""
PLAIN = """
import select, socket

server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
peer, _ = server.accept()
with select.epoll() as epoll:
    epoll.register(client, select.EPOLLIN)
    print(epoll.poll(0.01))  # a wait with a time-out
    peer.send(b"x")
    print(len(epoll.poll(60)), client.recv(10))
"""
NEEDED = [call.name for call in kernel_calls() if not call.without]
OTHERS = [call.name for call in kernel_calls() if call.without]


def run(call, *argv):
    env = {k: v for k, v in os.environ.items() if "FFLOOP_" not in k}
    command = [sys.executable, DENIED, call, sys.executable, "-P", *argv]
    return completed(*command, env=env)


@pytest.fixture(scope="module", autouse=True)
def _seccomp():
    done = run("epoll_pwait2", "-c", "pass")
    if done.returncode != 0:
        pytest.skip(f"no seccomp filter can be made here: {done.stderr}")


@pytest.mark.parametrize("call", OTHERS)
def test_what_has_another_way_takes_it(call):
    done = run(call, "-c", PROGRAM)
    assert done.stdout == "x\n", done.stderr


@pytest.mark.parametrize("call", OTHERS)
def test_the_shim_takes_it(call):
    done = run(call, "-m", "ffloop._cli.main", "preload", "--", sys.executable, "-c", PLAIN)
    assert done.stdout == "[]\n1 b'x'\n", done.stderr


@pytest.mark.parametrize("call", NEEDED)
def test_an_error_names_the_call(call):
    done = run(call, "-c", PROGRAM)
    assert done.returncode == 1
    last = [line for line in done.stderr.splitlines() if line.startswith("ffloop.")][-1]
    assert f"{call}: Operation not permitted" in last


@pytest.mark.parametrize("call", NEEDED + OTHERS)
def test_doctor_tells(call):
    done = run(call, "-m", "ffloop._cli.main", "doctor", "--json")
    found = [one for one in json.loads(done.stdout) if one["what"] == "kernel"]
    assert [one["level"] for one in found] == ["fail" if call in NEEDED else "note"]
    assert f"lacks {call} (Operation not permitted)" in found[0]["found"]
    trial = [one for one in json.loads(done.stdout) if one["what"] == "a trial"]
    assert [one["level"] for one in trial] == ["fail" if call in NEEDED else "ok"]
    assert done.returncode == (1 if call in NEEDED else 0)


def test_without_proc():
    hide = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]
    if os.geteuid() != 0 or subprocess.run([*hide, "true"], capture_output=True).returncode != 0:
        pytest.skip("mounting over /proc takes root, and namespaces")
    command = [*hide, sys.executable, "-P", "-c", PROGRAM]
    done = completed(*command)
    assert "needs /proc to be mounted" in done.stderr
