"""`ffloop run`: scripts and apps unchanged, workers, signals, and what it says of mistakes."""

import asyncio
import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import ssl
import sys
import time

import pytest
from common import serving
from common.processes import completed
from loop.util import BIND, HOST, PEER

from ffloop._session import choice, discovery

from .util import LOOPS, answers, command, get, process, server, server_at, unused_port

FFLOOP = command("ffloop")

ASGI = """
import asyncio, json, os

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    told = {
        "loop": type(asyncio.get_running_loop()).__module__,
        "pid": os.getpid(),
        "worker": os.environ.get("FF_PROC_ID"),
    }
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})

def make():
    return app

number = 3
"""

AIOHTTP = """
import asyncio, os
from aiohttp import web

async def hello(request):
    loop = type(asyncio.get_running_loop()).__module__
    return web.json_response({"loop": loop, "pid": os.getpid()})

def make():
    app = web.Application()
    app.add_routes([web.get("/", hello)])
    return app

async def make_later():
    return make()

async def make_wrong():
    return 3

app = make()
"""


@pytest.fixture
def apps(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "asgi.py").write_text(ASGI)
    (tmp_path / "aio.py").write_text(AIOHTTP)
    monkeypatch.chdir(tmp_path)


def run(*argv, **options):
    return completed(FFLOOP, "run", *argv, **options)


@pytest.mark.parametrize(
    "target", ["asgi:app", "asgi:make", "aio:app", "aio:make", "aio:make_later"]
)
def test_apps(stack, apps, target):
    pytest.importorskip("uvicorn" if target.startswith("asgi") else "aiohttp")
    port = unused_port()
    with server(FFLOOP, "run", target, "--port", str(port), port=port) as made:
        assert get(port)["loop"] in LOOPS
        direct = os.environ.get("FFLOOP_INSTANCE") == "direct"
        assert server_at(port) == ("kernel" if direct else "stack")
        assert made.stop() in (0, -signal.SIGTERM)
        assert (f": stack {stack}, pid" in made.output) is not direct


@pytest.mark.parametrize("target", ["asgi:app", "aio:app"])
def test_workers(stack, apps, target):
    """Each has its number; a dead one is replaced, the others go on; SIGINT ends them once."""
    pytest.importorskip("uvicorn" if target.startswith("asgi") else "aiohttp")
    port = unused_port()
    with server(FFLOOP, "run", "--workers=2", f"--port={port}", target, port=port) as made:
        first = pids(port, 2)
        assert made.popen.pid not in first
        victim = first.pop()
        os.kill(victim, signal.SIGKILL)
        made.wait_for(f"(pid {victim}) was killed by signal 9; another takes its place")
        second = set()
        while len(second) < 2:
            second = pids(port, 2) - {victim}
        assert second > first
        assert made.stop(signal.SIGINT) == 0


def test_workers_end_together(stack, apps):
    pytest.importorskip("uvicorn")
    port = unused_port()
    with server(FFLOOP, "run", "--workers=2", f"--port={port}", "asgi:app", port=port) as made:
        workers = set()
        while len(workers) < 2:
            workers.add(get(port)["worker"])
        assert workers == {"0", "1"}
        assert made.stop() == 0
        assert "another takes its place" not in made.output


def test_signals_reach_each_worker_once(stack, tmp_path):
    script = tmp_path / "signals.py"
    script.write_text(
        "import asyncio, os, signal\n"
        "def say(text):\n"
        "    os.write(1, f'{text}\\n'.encode())\n"
        "async def main():\n"
        "    loop, done = asyncio.get_running_loop(), asyncio.Event()\n"
        "    loop.add_signal_handler(signal.SIGUSR1, say, 'usr1')\n"
        "    loop.add_signal_handler(signal.SIGTERM, done.set)\n"
        "    say('ready')\n"
        "    await done.wait()\n"
        "asyncio.run(main())\n"
    )
    with process(FFLOOP, "run", "--workers=3", script) as made:
        made.wait_for("ready", 3)
        os.killpg(made.popen.pid, signal.SIGUSR1)  # as a terminal's: to the whole group
        made.wait_for("usr1", 3)
        assert made.stop() == 0
        assert made.output.count("usr1") == 3


def pids(port, count):
    """Of the workers that answer, once they are so many."""
    found = set()
    while len(found) < count:
        found.add(get(port)["pid"])
    return found


GRACE = 1.0  # seconds of `ffloop run --grace` under load


async def ask(port, answers, failures, stop):
    """A request a connection. One that did not send it within the grace is rightly closed: then
    this process itself had to wait, and it asks again."""
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        began = sent = loop.time()
        try:
            reader, writer = await asyncio.open_connection(HOST, port)
            with contextlib.closing(writer):
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                sent = loop.time()
                answer = await reader.read()
        except (OSError, TimeoutError) as exc:
            answer = exc
        told = re.search(rb'"pid": (\d+)', answer) if isinstance(answer, bytes) else None
        if told:
            answers.append(int(told[1]))
        elif sent - began < GRACE / 2:
            failures.append(answer)


@pytest.mark.parametrize("target", ["asgi:app", "aio:app"])
def test_reload(stack, apps, target):
    """SIGHUP under load: every worker is another afterwards, and no request failed."""
    pytest.importorskip("uvicorn" if target.startswith("asgi") else "aiohttp")
    port = unused_port()
    argv = (FFLOOP, "run", "--workers=2", f"--grace={GRACE}", f"--port={port}", target)

    async def main(made):
        answers, failures, stop = [], [], asyncio.Event()
        asking = [asyncio.create_task(ask(port, answers, failures, stop)) for _ in range(16)]
        for reload in (1, 2):
            before = len(answers)
            made.popen.send_signal(signal.SIGHUP)
            while made.output.count("reload: done") < reload:
                assert made.popen.poll() is None
                await asyncio.sleep(0.01)
            assert len(answers) > before
        stop.set()
        await asyncio.gather(*asking)
        return set(answers), failures

    with server(*argv, port=port) as made:
        first = pids(port, 2)
        answered, failures = asyncio.run(main(made))
        last = pids(port, 2)
        assert not failures, failures[:5]
        assert not first & last
        assert answered > first  # and others
        for pid in first:
            while pathlib.Path(f"/proc/{pid}").exists():
                time.sleep(0.01)
        assert made.stop() == 0
        assert "another takes its place" not in made.output


def test_a_scripts_port_outlives_its_workers(stack, tmp_path):
    """SIGHUP, and a worker's end: what has connected, and nobody has accepted, is served."""
    script, port = tmp_path / "serves.py", unused_port()
    script.write_text(serving.PROGRAM)
    argv = (FFLOOP, "run", "--workers=1", "--grace=0", script, HOST, str(port))
    with server(*argv, port=port) as made:
        (first,) = pids(port, 1)
        os.kill(first, signal.SIGSTOP)
        waiting = [socket.create_connection((HOST, port)) for _ in range(20)]
        for sock in waiting:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        made.popen.send_signal(signal.SIGHUP)
        made.wait_for("reload: done, 1 workers")
        os.kill(first, signal.SIGCONT)  # SIGTERM has come meanwhile
        for sock in waiting:
            assert sock.makefile("rb").read().startswith(b"HTTP/1.1 200"), sock
            sock.close()
        assert made.stop() == 0
    assert not answers(port)


def test_an_end_under_load(stack, apps, tmp_path):
    """SIGTERM, and another parent after it, while the instance keeps the port: no request fails."""
    pytest.importorskip("uvicorn")
    if stack != "host":
        pytest.skip("takes an instance with --keep-listeners")
    port, path = unused_port(), str(tmp_path / "i.sock")
    environ = {**os.environ, "FFLOOP_INSTANCE": path}
    argv = (FFLOOP, "run", "--workers=2", f"--grace={GRACE}", f"--port={port}", "asgi:app")

    async def main():
        answers, failures, stop = [], [], asyncio.Event()
        asking = [asyncio.create_task(ask(port, answers, failures, stop)) for _ in range(16)]
        ended = set()
        for _ in range(3):
            with server(*argv, port=port, env=environ) as made:
                before = len(answers)
                while len(new := set(answers[before:]) - ended) < 2:
                    await asyncio.sleep(0.01)
                ended |= new
                assert await asyncio.to_thread(made.stop) == 0
        with server(*argv, port=port, env=environ):
            stop.set()
            await asyncio.gather(*asking)
        return failures

    instance = [command("ffloop"), "instance", "--socket", path, "--keep-listeners", "30"]
    with process(*instance) as kept:
        kept.wait_for("ready")
        with server(*argv, port=port, env=environ) as first:  # then nobody is refused
            pids(port, 2)
            assert first.stop() == 0
        failures = asyncio.run(main())
    assert not failures, failures[:5]


def test_a_second_sigterm_ends_at_once(stack, apps):
    pytest.importorskip("uvicorn")
    port = unused_port()
    argv = (FFLOOP, "run", "--workers=2", "--grace=3000", f"--port={port}", "asgi:app")
    with server(*argv, port=port) as made:
        workers = pids(port, 2)
        made.popen.send_signal(signal.SIGTERM)
        while answers(port):  # they have been asked to stop accepting
            time.sleep(0.01)
        assert all(pathlib.Path(f"/proc/{pid}").exists() for pid in workers)
        assert made.stop() == 0


@pytest.mark.parametrize("how", ["broken", "silent"])
def test_a_reload_that_fails(stack, apps, how):
    """The old workers go on; so does the parent, to the next one."""
    port = unused_port()
    with server(FFLOOP, "run", "--workers=2", f"--port={port}", "aio:app", port=port) as made:
        first = pids(port, 2)
        good = pathlib.Path("aio.py").read_text()
        if how == "silent":  # until its time is up
            pathlib.Path("aio.py").write_text("import time; time.sleep(1000)")
            made.popen.send_signal(signal.SIGHUP)
            made.wait_for("reload: starting new workers")
            made.popen.send_signal(signal.SIGHUP)
            made.wait_for("SIGHUP while a reload is under way: another follows")
            assert pids(port, 2) == first
            assert made.stop() == 0
            return
        pathlib.Path("aio.py").write_text("1/0")
        made.popen.send_signal(signal.SIGHUP)
        made.wait_for("reload given up, the old workers stay: worker")
        assert "ended with status 1 before it served" in made.output
        assert pids(port, 2) == first
        pathlib.Path("aio.py").write_text(good)
        made.popen.send_signal(signal.SIGHUP)
        made.wait_for("reload: done, 2 workers")
        assert not pids(port, 2) & first
        assert made.stop() == 0


def test_workers_do_not_outlive_the_parent(stack, apps):
    pytest.importorskip("uvicorn")
    port = unused_port()
    with server(FFLOOP, "run", "--workers=2", f"--port={port}", "asgi:app", port=port) as made:
        pids = {get(port)["pid"]}
        made.popen.kill()
        made.popen.wait()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                fd = os.pidfd_open(pid)
                import select

                assert select.select([fd], [], [])[0]
                os.close(fd)
        while answers(port):
            time.sleep(0.02)


def test_workers_take_the_instances_that_run(tmp_path, monkeypatch):
    """The i-th worker attaches to the i-th instance."""
    from ffloop._session import discovery

    script = tmp_path / "which.py"
    script.write_text(
        "import asyncio, ffloop\n"
        "async def main():\n"
        "    print(f'at {ffloop.instance().path}\\n', end='')\n"  # one write
        "asyncio.run(main())\n"
    )
    path = str(tmp_path / "many.sock")
    with contextlib.ExitStack() as stack:
        for i in range(2):
            at = choice.nth(path, i)
            made = stack.enter_context(process(discovery.executable(), "--socket", at))
            made.wait_for("ffloop instance ready")
        done = run("--workers=3", "--instance", path, script)
    assert done.returncode == 0, done.stderr
    seen = sorted(line.split()[1] for line in done.stdout.splitlines())
    assert seen == sorted([path, choice.nth(path, 1), path])


SCRIPT = """
import asyncio, sys, pathlib
import beside

async def main():
    reader, writer = await asyncio.open_connection("{host}", {port})
    writer.write(b"hello")
    assert await reader.read() == b"hello to you"
    writer.close()
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]

if __name__ == "__main__":
    print(sys.argv[1:], beside.word, pathlib.Path(__file__).name, {how})
    sys.exit(7)
"""


def greet(listener):
    """Answers one connection; where it came from."""
    peer, (host, _) = listener.accept()
    with peer:
        assert peer.recv(100) == b"hello"
        peer.sendall(b"hello to you")
    return host


@pytest.mark.parametrize(
    "how",
    [
        "asyncio.run(main())",
        "asyncio.new_event_loop().run_until_complete(main())",
        "asyncio.SelectorEventLoop().run_until_complete(main())",
        "asyncio.Runner().run(main())",
        "__import__('uvloop').run(main())",
        "__import__('uvloop').new_event_loop().run_until_complete(main())",
        "(__import__('uvloop').install(), asyncio.run(main()))[1]",
        "__import__('anyio').run(main)",
    ],
)
def test_scripts(stack, tmp_path, how):
    """Whatever way a script comes by its loop."""
    for name in ("uvloop", "anyio"):
        if name in how:
            pytest.importorskip(name)
    (tmp_path / "beside.py").write_text("word = 'beside'\n")
    script = tmp_path / "script"  # any name
    with (
        socket.create_server((PEER, 0)) as listener,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        listener.settimeout(60)
        script.write_text(SCRIPT.format(how=how, host=PEER, port=listener.getsockname()[1]))
        greeted = pool.submit(greet, listener)
        done = run(script, "--port", "x", "-v")
        assert done.stdout == "['--port', 'x', '-v'] beside script ffloop\n", done.stderr
        assert done.returncode == 7
        assert greeted.result() == HOST


@pytest.mark.ring
def test_a_script_that_spawns_workers(stack, apps, tmp_path):
    """uvicorn's own: they are prepared too, and what they do with the parent's socket is said."""
    pytest.importorskip("uvicorn")
    port = unused_port()
    (tmp_path / "serve.py").write_text(
        "import sys, uvicorn\n"
        "if __name__ == '__main__':\n"
        "    uvicorn.run('asgi:app', host=sys.argv[1], port=int(sys.argv[2]), workers=2)\n"
    )
    with server(FFLOOP, "run", "serve.py", BIND, str(port), port=port) as made:
        assert get(port)["loop"] in LOOPS
        made.wait_for("the kernel's socket")


def test_a_script_that_fails(tmp_path):
    script = tmp_path / "bad.py"
    script.write_text("1/0\n")
    done = run(script)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    raised = f'Traceback (most recent call last):\n  File "{script}", line 1, in <module>'
    assert raised in done.stderr  # its own frames, as under python
    done = run("--workers=2", script)
    assert done.returncode == 1
    assert done.stderr.count("ZeroDivisionError") >= 2
    assert "failure 2 in a row: giving up" in done.stderr


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (["nothing"], 2, "neither a script's file nor MODULE:APP"),
        (["nothing:app"], 1, "no module 'nothing'"),
        (["asgi:nothing"], 1, "module 'asgi' has no 'nothing'"),
        (["asgi:number"], 1, "asgi:number is int"),
        ([".x:app"], 2, "neither a script's file nor MODULE:APP"),
        (["/"], 2, "a directory without a __main__.py"),
        (["--port", "70000", "asgi:app"], 2, "from 0 to 65535, not '70000'"),
        (["--grace", "nan", "asgi:app"], 2, "seconds, from 0 to 3600, not 'nan'"),
        (["asgi:app", "--bogus"], 2, "--bogus"),
        (["--bogus", "asgi:app"], 2, "--bogus"),
        (["--workers", "0", "asgi:app"], 2, "from 1 to 1024"),
        (["--workers", "2", "--port", "0", "asgi:app"], 2, "different ports"),
        (["--stack", "linux", "asgi:app"], 2, "linux"),
        (["--kernel-sockets", "steal", "asgi:app"], 2, "steal"),
        (["--stack", "fstack", "asgi:app"], 1, "no instance runs"),
        (["--instance", "/no/such", "asgi:app"], 1, "/no/such"),
        (["aio:make_wrong"], 1, "makes aiohttp apps; this one made 3"),
        ([], 2, "SCRIPT.py"),
        (["--reload", "script.py"], 2, "neither a script's file"),
        (["--reload", "asgi.py"], 2, "--reload is for MODULE:APP"),
        (["--reload", "--reload-dir=/no/such", "asgi:app"], 1, "/no/such: no such directory"),
        (["--uds=/no/such/app.sock", "asgi:app"], 1, "--uds /no/such/app.sock: No such file"),
        (["--uds=asgi.py", "asgi:app"], 1, "--uds asgi.py: what is there is no socket"),
        ([f"--uds={'x' * 120}", "asgi:app"], 1, "x: AF_UNIX path too long\n"),
        (["--host=a..b", "--workers=1", "asgi:app"], 1, "a..b:8000: "),
        (["--uds=x", "asgi.py"], 2, "--uds is for MODULE:APP"),
        (["--reload-dir=x", "asgi:app"], 2, "--reload-dir without --reload"),
        (["-m", "folder"], 1, "'folder' is a package without a module __main__"),
        (["-m", ""], 1, "no module ''"),
        (["--fd=77", "asgi:app"], 1, "--fd 77: Bad file descriptor"),
        (["--fd=0", "asgi:app"], 1, "--fd 0: "),
        ([f"--fd={2**31}", "asgi:app"], 2, "from 0 to 2147483647"),
        (["--fd=3", "--uds=x", "asgi:app"], 2, "not allowed with"),
        (["--ssl-certfile=/no/such", "asgi:app"], 1, "/no/such: No such file"),
        (["--ssl-certfile=asgi.py", "aio:app"], 1, "asgi.py: no certificate and key in PEM form"),
        (["--ssl-keyfile=asgi.py", "aio:app"], 2, "without --ssl-certfile"),
        (["--ssl-keyfile=", "aio:app"], 2, "without --ssl-certfile"),
        (["--host=a..b", "aio:app"], 1, "ffloop run: a..b:8000: "),
        (["--host=192.0.2.1", "aio:app"], 1, "an address of this machine's"),
        (["--log-config=/no/such", "asgi:app"], 1, "--log-config /no/such: No such file"),
        (["--log-config=asgi.py", "asgi:app"], 1, "File contains no section headers. file: Posix"),
    ],
)
def test_mistakes(apps, argv, status, words):
    if "aio" in argv[:1]:
        pytest.importorskip("aiohttp")
    done = run(*argv)
    assert done.returncode == status
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    if status == 1:
        assert len(done.stderr.splitlines()) == 1


def test_an_import_that_fails_is_shown(tmp_path):
    """Where it is: what is missing is not the module that was asked for."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("import nothing_like_it\n")
    for target in (["package.module:app"], ["-m", "package.module"]):
        done = run(*target, cwd=tmp_path)
        assert done.returncode == 1
        assert "No module named 'nothing_like_it'" in done.stderr
        assert "_cli" not in done.stderr  # the program's own frames only


def test_a_script_that_finds_no_instance(tmp_path):
    script = tmp_path / "app.py"
    script.write_text("import asyncio\nasync def main(): pass\nasyncio.run(main())\n")
    done = run("--instance", "/no/such", script)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "there is no such socket (start one with" in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("FFLOOP_SPIN_US", "fast", "FFLOOP_SPIN_US='fast'"),
        ("FFLOOP_ROUTES", "here", "FFLOOP_ROUTES: 'here' is not NETWORK/BITS=stack or =kernel"),
        ("FFLOOP_INSTANCE_LOG", "/no/such/log", "FFLOOP_INSTANCE_LOG='/no/such/log': No such file"),
        ("FFLOOP_INSTANCE_LOG_LEVEL", "loud", "expected 'error', 'warning', 'info' or 'debug'"),
    ],
)
def test_a_bad_variable_is_told(apps, name, value, words):
    environ = {k: v for k, v in os.environ.items() if k != discovery._ENV}
    done = run("asgi:app", env={**environ, "FFLOOP_INSTANCE": "spawn", name: value})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ffloop run: ")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_without_uvicorn(apps):
    block = "import sys; sys.modules['uvicorn'] = None; from ffloop._cli.main import main; "
    done = completed(
        sys.executable, "-c", block + "sys.exit(main(['run', 'asgi:app']))", cwd=pathlib.Path.cwd()
    )
    assert done.returncode == 1
    assert "pip install uvicorn" in done.stderr


def test_a_reload_by_itself(stack, apps):
    """--reload: when a file changes; one that cannot be read leaves the old in place."""
    pytest.importorskip("watchfiles")
    pytest.importorskip("aiohttp")
    port = unused_port()
    with server(FFLOOP, "run", "--reload", f"--port={port}", "aio:app", port=port) as made:
        app = pathlib.Path("aio.py")
        [first] = pids(port, 1)
        good = app.read_text()
        app.write_text("1/0")
        made.wait_for("reload given up, the old workers stay")
        assert pids(port, 1) == {first}
        app.write_text(good)
        made.wait_for("reload: done, 1 workers")
        assert pids(port, 1) != {first}
        os.killpg(made.popen.pid, signal.SIGINT)  # Ctrl-C
        assert made.popen.wait() == 0
        assert "Traceback" not in made.output.partition("reload given up")[2]


def test_a_reload_of_what_has_never_served(apps):
    """--reload begins with a mistake, which is mended at the second try."""
    pytest.importorskip("watchfiles")
    pytest.importorskip("aiohttp")
    port = unused_port()
    app = pathlib.Path("aio.py")
    good = app.read_text()
    app.write_text("1/0")
    with process(FFLOOP, "run", "--reload", f"--port={port}", "aio:app") as made:
        made.wait_for("before it served: the next change starts another")
        app.write_text("2/0")
        made.wait_for("reload given up: worker 0")
        app.write_text(good)
        made.wait_for("reload: done, 1 workers")
        pids(port, 1)
        assert made.stop(signal.SIGINT) == 0
    app.write_text("1/0")
    with process(FFLOOP, "run", "--reload", f"--port={port}", "aio:app") as made:
        made.wait_for("before it served: the next change starts another")
        assert made.stop(signal.SIGINT) == 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    trustme = pytest.importorskip("trustme")
    folder = tmp_path_factory.mktemp("tls")
    made = trustme.CA()
    made.cert_pem.write_to_path(str(folder / "ca.pem"))
    leaf = made.issue_cert("localhost", HOST, PEER)
    leaf.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    leaf.private_key_pem.write_to_path(str(folder / "key.pem"))
    return folder


@pytest.mark.parametrize("target", ["asgi:app", "aio:app"])
def test_tls(stack, apps, certificate, target):
    pytest.importorskip("uvicorn" if target.startswith("asgi") else "aiohttp")
    port = unused_port()
    files = (f"--ssl-certfile={certificate}/cert.pem", f"--ssl-keyfile={certificate}/key.pem")
    with server(FFLOOP, "run", f"--port={port}", *files, target, port=port):
        trust = ssl.create_default_context(cafile=str(certificate / "ca.pem"))
        raw = socket.create_connection((HOST, port))
        with trust.wrap_socket(raw, server_hostname="localhost") as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert b"200 OK" in sock.recv(100)


def told(sock):
    """What the app behind a connected socket says."""
    with sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while data := sock.recv(4096):
            answer += data
    return json.loads(re.search(rb"{.*}", answer)[0])


@pytest.mark.parametrize("workers", [(), ("--workers=2",)], ids=["one", "workers"])
@pytest.mark.parametrize("target", ["asgi:app", "aio:app"])
def test_a_unix_socket(apps, target, workers):
    """Of all workers; a file that an earlier server left there is no obstacle."""
    pytest.importorskip("uvicorn" if target.startswith("asgi") else "aiohttp")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind("app.sock")
    with process(FFLOOP, "run", "--uds=app.sock", *workers, target) as made:
        seen = set()
        while len(seen) < 1 + len(workers):
            assert made.popen.poll() is None, made.output
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect("app.sock")
            except (ConnectionRefusedError, FileNotFoundError):  # not yet
                sock.close()
                continue
            seen.add(told(sock)["pid"])


@pytest.mark.parametrize("target", ["asgi:app", "aio:app"])
def test_an_inherited_socket(apps, target):
    pytest.importorskip("uvicorn" if target.startswith("asgi") else "aiohttp")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        with process(FFLOOP, "run", f"--fd={fd}", target, pass_fds=[fd]):
            assert told(socket.create_connection(("127.0.0.1", port)))["loop"].startswith("ffloop")


@pytest.mark.parametrize("suffix", ["json", "yaml", "ini"])
def test_a_configuration_of_the_log(apps, suffix):
    if suffix == "yaml":
        pytest.importorskip("yaml")
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"mine": {"format": "MINE %(name)s: %(message)s"}},
        "handlers": {"err": {"class": "logging.StreamHandler", "formatter": "mine"}},
        "root": {"level": "INFO", "handlers": ["err"]},
    }
    ini = (
        "[loggers]\nkeys=root\n[handlers]\nkeys=err\n[formatters]\nkeys=mine\n"
        "[logger_root]\nlevel=INFO\nhandlers=err\n"
        "[handler_err]\nclass=StreamHandler\nformatter=mine\nargs=()\n"
        "[formatter_mine]\nformat=MINE %(name)s: %(message)s\n"
    )
    path = pathlib.Path(f"log.{suffix}")
    path.write_text(ini if suffix == "ini" else json.dumps(config))  # JSON is YAML
    port = unused_port()
    argv = (FFLOOP, "run", f"--log-config={path}", f"--port={port}", "asgi:app")
    with server(*argv, port=port) as made:
        made.wait_for("MINE uvicorn.error: Application startup complete.")


@pytest.mark.parametrize("target", ["asgi:app", "aio:app"])
def test_a_port_in_use_is_told(apps, target):
    pytest.importorskip("uvicorn" if target.startswith("asgi") else "aiohttp")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = run(f"--port={port}", target)
        shared = run(f"--port={port}", "--workers=1", target)
    assert done.returncode != 0
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr
    said = f"127.0.0.1:{port}: Address already in use; choose another --port"
    assert shared.stderr == f"ffloop run: {said}\n"
