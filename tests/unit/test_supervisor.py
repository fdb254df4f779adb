"""The parent of `ffloop run --workers`: what it replaces, when it gives up, what it leaves to the
application."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

# Workers without an application: each appends a line to a log, and does what the test's body says.
PROGRAM = """
import os, pathlib, select, signal, sys, time
from ffloop._cli import supervisor
from ffloop._loop import worker

supervisor._DELAY, supervisor._SETTLED = 0.01, LONG
log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def say(text):
    os.write(log, f"{text}\\n".encode())

def said(text):
    return pathlib.Path("log").read_text().count(text)

def serve():
    class Loop:
        _add_reader = staticmethod(lambda *args: None)
    worker.serving(Loop())

def retired():
    select.select([worker._supervisor], [], [])

def sleep():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        signal.pause()

def work(number):
    say(f"worker {number} is {os.getpid()}")
BODY

sys.exit(supervisor.run(COUNT, work, 0.05, FOREVER, led=WHETHER))
"""


@pytest.fixture
def parent(tmp_path):
    """parent(body of work, ...): its process; `log()` what its workers have said."""
    started = []

    def start(body, count=1, forever=True, settled=10.0, led=False):
        program = PROGRAM.replace("BODY", textwrap.indent(textwrap.dedent(body), "    "))
        program = program.replace("COUNT", str(count)).replace("FOREVER", str(forever))
        program = program.replace("LONG", str(settled)).replace("WHETHER", str(led))
        process = subprocess.Popen(
            [sys.executable, "-P", "-X", "dev", "-c", program],  # it is warned of nothing
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture
def log(tmp_path):
    def read():
        file = tmp_path / "log"
        return file.read_text().splitlines() if file.exists() else []

    return read


def wait_for(process, log, enough):
    ended = False
    while not enough(log()):
        assert not ended, (log(), process.communicate())
        ended = process.poll() is not None
        time.sleep(0.001)
    return log()


def pids(lines, number):
    return [int(line.split()[3]) for line in lines if line.startswith(f"worker {number} is ")]


def test_a_worker_that_is_killed_is_replaced(parent, log):
    """Under its number, at once; the other goes on."""
    process = parent("serve(); say('serves'); sleep()", count=2)
    lines = wait_for(process, log, lambda lines: lines.count("serves") == 2)
    (victim,), (other,) = pids(lines, 0), pids(lines, 1)
    os.kill(victim, signal.SIGKILL)
    lines = wait_for(process, log, lambda lines: lines.count("serves") == 3)
    assert len(pids(lines, 0)) == 2
    assert pids(lines, 1) == [other]
    assert pathlib.Path(f"/proc/{other}").exists()
    process.terminate()
    _, words = process.communicate()
    assert process.returncode == 0  # that one was replaced: nothing is wrong with the whole
    told = f"worker 0 (pid {victim}) was killed by signal 9; another takes its place"
    assert words.splitlines() == [f"ffloop run: {told}"]


def test_one_that_fails_again_and_again(parent, log):
    """The others are ended, and the parent says the worker's status."""
    process = parent("serve()\nif number: sleep()\nsys.exit(7)", count=2)
    _, words = process.communicate()
    assert process.returncode == 7
    lines = log()
    assert len(pids(lines, 0)) == 6
    assert len(pids(lines, 1)) == 1
    assert not pathlib.Path(f"/proc/{pids(lines, 1)[0]}").exists()
    waits = [line.partition(" in ")[2] for line in words.splitlines()]
    assert waits == ["", "0.01 s", "0.02 s", "0.04 s", "0.08 s", "a row: giving up"]


def test_one_that_never_served_is_tried_once_more(parent, log):
    process = parent("sys.exit(3)")
    _, words = process.communicate()
    assert process.returncode == 3
    assert len(pids(log(), 0)) == 2
    assert "giving up" in words


def test_a_worker_that_had_settled_fails_anew(parent, log):
    """It is replaced at once, however often."""
    body = "if said('worker') < 20: sys.exit(1)\nserve(); say('serves'); sleep()"
    process = parent(body, settled=0.0)
    lines = wait_for(process, log, lambda lines: "serves" in lines)
    assert len(pids(lines, 0)) == 20
    process.terminate()
    _, words = process.communicate()
    assert process.returncode == 0
    assert words.count("another takes its place\n") == 19  # none waited


def test_what_is_done_is_done(parent, log):
    """A script's worker that ends with status 0; a server's is replaced."""
    process = parent("sys.exit(0)", count=3, forever=False)
    _, words = process.communicate()
    assert (process.returncode, words, len(log())) == (0, "", 3)


def test_a_server_has_no_end(parent, log):
    process = parent("serve()\nif said('worker') < 3: sys.exit(0)\nsay('serves'); sleep()")
    lines = wait_for(process, log, lambda lines: "serves" in lines)
    assert len(pids(lines, 0)) == 3
    process.terminate()
    _, words = process.communicate()
    assert process.returncode == 0
    assert words.count("ended with status 0; another takes its place") == 2


def test_an_end_between_two_tries(parent, log):
    """SIGTERM while a worker is due: nothing is started any more."""
    process = parent("serve()\nif number or said('worker 0') > 1: sleep()\nsys.exit(1)", count=2)
    wait_for(process, log, lambda lines: len(pids(lines, 0)) == 2 and pids(lines, 1))
    process.terminate()
    process.communicate()
    assert process.returncode == 0
    assert len(log()) == 3


@pytest.mark.parametrize(("signum", "times"), [(signal.SIGINT, 2), (signal.SIGTERM, 3)])
def test_workers_that_do_not_end_are_killed(parent, log, signum, times):
    body = """
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        serve(); say('serves')
        while True:
            say(f'got {signal.sigwait({signal.SIGTERM, signal.SIGINT}).name}')
    """
    process = parent(body)
    wait_for(process, log, lambda lines: "serves" in lines)
    for sent in range(1, times):
        process.send_signal(signum)
        wait_for(process, log, lambda lines, n=sent: lines.count(f"got {signum.name}") == n)
    process.send_signal(signum)
    _, words = process.communicate()
    assert "was killed by signal 9" in words
    assert process.returncode == 128 + signal.SIGKILL


def test_workers_that_are_led_retire_first(parent, log):
    """A reload lets them finish, then ends worker 0 last; asked for twice, it is one."""
    body = """
        signal.signal(signal.SIGTERM, lambda *_: (say(f"{number} ends"), sys.exit(0)))
        say(f"{number} serves"); serve()
        retired(); say(f"{number} is retired")
        os.kill(os.getppid(), signal.SIGHUP)
        while True:
            signal.pause()
    """
    process = parent(body, count=2, led=True)
    wait_for(process, log, lambda lines: "1 serves" in lines)
    process.send_signal(signal.SIGHUP)
    lines = wait_for(process, log, lambda lines: lines.count("1 serves") == 2)
    *retired, last, leader = [line for line in lines if line.endswith(("retired", "ends"))]
    assert sorted(retired) == ["0 is retired", "1 is retired"]
    assert (last, leader) == ("1 ends", "0 ends")
    process.terminate()
    process.communicate()
    assert process.returncode == 0


# A server that uses what signals there are, and is slow to go.
SERVER = """
import asyncio, atexit, os, pathlib, signal, sys

def say(text):
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(log, f"{text}\\n".encode())
    os.close(log)

def at_exit():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say(f"{os.getpid()} goes")
    while pathlib.Path("stay").exists():
        pass
    say(f"{os.getpid()} has gone")

async def main():
    loop, end = asyncio.get_running_loop(), asyncio.Event()
    for number in range(signal.SIGRTMIN, signal.SIGRTMAX + 1):
        loop.add_signal_handler(number, say, f"{os.getpid()} heard {number}")
    loop.add_signal_handler(signal.SIGTERM, end.set)
    server = await asyncio.start_server(print, "127.0.0.1", 0)
    say(f"{os.getpid()} serves")
    await end.wait()

atexit.register(at_exit)
asyncio.run(main())
"""


@pytest.fixture
def server(tmp_path):
    (tmp_path / "server.py").write_text(SERVER)
    command = [sys.executable, "-P", "-m", "ffloop._cli.main", "run", "--workers=1", "--grace=0.01"]
    with subprocess.Popen(
        [*command, "server.py"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def serving(lines):
    return [int(line.split()[0]) for line in lines if line.endswith(" serves")]


def test_no_signal_is_taken(server, log):
    """All real-time signals are the application's, in a worker that serves."""
    lines = wait_for(server, log, serving)
    (pid,) = serving(lines)
    wanted = [f"{pid} heard {number}" for number in range(signal.SIGRTMIN, signal.SIGRTMAX + 1)]
    for number in range(signal.SIGRTMIN, signal.SIGRTMAX + 1):
        os.kill(pid, number)
    lines = wait_for(server, log, lambda lines: len(lines) == 1 + len(wanted))
    assert sorted(lines[1:]) == sorted(wanted)
    server.terminate()
    server.communicate()
    assert server.returncode == 0


def test_a_retired_worker_goes_in_peace(server, log, tmp_path):
    """It has left its loop when it is retired, and is in its atexit."""
    stay = tmp_path / "stay"
    stay.touch()
    (old,) = serving(wait_for(server, log, serving))
    os.kill(old, signal.SIGTERM)
    wait_for(server, log, lambda lines: f"{old} goes" in lines)
    server.send_signal(signal.SIGHUP)
    (_, new) = serving(wait_for(server, log, lambda lines: len(serving(lines)) == 2))
    for line in server.stderr:  # it has been retired, and told to end
        if "reload: done" in line:
            break
    stay.unlink()
    wait_for(server, log, lambda lines: f"{old} has gone" in lines)
    server.terminate()
    server.communicate()
    assert server.returncode == 0
    assert f"{new} has gone" in log()
