"""A server is replaced while its port stays open: no connection is lost, no request fails."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading

import pytest
from common import instances, serving

from .util import HOST, Log, until

pytestmark = pytest.mark.ring


@pytest.fixture
def instance(request, tmp_path, monkeypatch):
    path = str(tmp_path / "i.sock")
    options = getattr(request, "param", [])
    monkeypatch.setenv("FFLOOP_INSTANCE", path)
    with instances.running(path, *options) as process:
        yield process


@contextlib.contextmanager
def load(port, clients=16):
    """Clients that ask, each on a connection after the other; who answered, and what failed."""
    answers, failures, stop = {}, [], threading.Event()

    def ask():
        while not stop.is_set():
            try:
                with socket.create_connection((HOST, port)) as sock:
                    sock.sendall(b"question")
                    answer = sock.makefile("rb").read()
                if not answer.startswith(b"HTTP/1.1 200 OK"):
                    failures.append(answer)
                answers[answer] = answers.get(answer, 0) + 1
            except OSError as exc:
                failures.append(exc)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers, failures
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def start(tmp_path, port):
    script = tmp_path / "server.py"
    script.write_text("import ffloop\n" + serving.PROGRAM.replace("asyncio.run(", "ffloop.run("))
    command = [sys.executable, "-P", script, HOST, str(port), "shared"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    with process.stdout as told:
        return process, int(told.readline())


def test_processes_of_one_port(instance, tmp_path):
    """Two processes under load, each replaced twice by one that knows nothing of it."""
    first, port = start(tmp_path, 0)
    running = [first, start(tmp_path, port)[0]]
    with load(port) as (answers, failures):
        for _ in range(4):
            old = running.pop(0)
            running.append(start(tmp_path, port)[0])
            mine = serving.answer(running[-1].pid)
            while mine not in answers:
                assert running[-1].poll() is None
            old.terminate()
            assert old.wait() == 0
    for process in running:
        process.terminate()
        assert process.wait() == 0
    assert not failures, failures[:5]
    assert len(answers) >= 5  # each had its part


@pytest.mark.parametrize("instance", [["--keep-listeners", "60"]], indirect=True)
def test_a_crash(instance, tmp_path):
    """Between two processes clients wait; what the first had begun is lost with it."""
    running, port = start(tmp_path, 0)
    with load(port) as (answers, failures):
        for _ in range(3):
            while serving.answer(running.pid) not in answers:
                assert running.poll() is None
            running.kill()
            running.wait()
            running, _ = start(tmp_path, port)
    running.terminate()
    assert running.wait() == 0
    refused = [f for f in failures if isinstance(f, ConnectionRefusedError | TimeoutError)]
    assert not refused
    assert len(answers) >= 3


def test_they_share(instance, tmp_path):
    """Whoever sleeps first is told of a connection: both have their part, whatever the address."""
    first, port = start(tmp_path, 0)
    second, _ = start(tmp_path, port)
    answers, both = [], [serving.answer(process.pid) for process in (first, second)]
    while len(answers) < 40 or min(map(answers.count, both)) < 10:  # (one may not run for a while)
        with socket.create_connection((HOST, port)) as sock:
            sock.sendall(b"question")
            answers.append(sock.makefile("rb").read())
    for process in (first, second):
        process.terminate()
        assert process.wait() == 0


def test_two_listeners_of_a_loop(run_ff):
    """Each gets every other connection; what one leaves in its queue is the other's."""

    async def main():
        loop = asyncio.get_running_loop()
        made = {1: [], 2: []}

        def factory(number):
            return lambda: made[number].append(Log()) or made[number][-1]

        first = await loop.create_server(factory(1), HOST, 0, reuse_port=True)
        address = first.sockets[0].getsockname()
        second = await loop.create_server(factory(2), *address, reuse_port=True)
        peers = []

        async def connect(count):
            for _ in range(count):
                peers.append(socket.create_connection(address))
                await until(lambda: len(made[1]) + len(made[2]) == len(peers))

        await connect(4)
        assert len(made[1]) == len(made[2]) == 2
        for _ in range(4):  # while this loop does not look
            peers.append(socket.create_connection(address))
            peers[-1].sendall(b"question")
        first.close()
        await until(lambda: len(made[2]) == 6)
        for log in made[2][2:]:
            assert await log.got(8) == b"question"
        assert len(made[1]) == 2
        await connect(2)
        second.close()
        for peer in peers:
            peer.close()
        for log in made[1] + made[2]:
            await log.lost

    run_ff(main())
