"""Unmodified programs of Debian under the shim."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from common.ports import unused_port
from common.processes import completed
from programs import either_stack, need, running
from shim import Instance, python


@either_stack
def test_curl(instance: Instance, tmp_path: Path) -> None:
    curl = need("curl")
    (tmp_path / "page").write_bytes(b"x" * 1000000)
    port = unused_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", instance.address]
    with running(instance, port, *command, "--directory", str(tmp_path)):
        done = subprocess.run(
            [curl, "-fsS", "--max-time", "20", f"http://{instance.mirror}:{port}/page"],
            env=instance.environment(), capture_output=True, check=True,
        )  # fmt: skip
        assert done.stdout == b"x" * 1000000


ECHO = """
import asyncio, sys
async def main():
    async def serve(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
    server = await asyncio.start_server(serve, sys.argv[1], 0)
    async def client():
        r, w = await asyncio.open_connection(sys.argv[2], server.sockets[0].getsockname()[1])
        for i in range(50):
            data = b'%d' % i * 1000
            w.write(data)
            assert await r.readexactly(len(data)) == data
        w.close()
        await w.wait_closed()
    await asyncio.gather(*[client() for _ in range(20)])
    print('all answered')
"""


@either_stack
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_python_loops(instance: Instance, loop: str) -> None:
    pytest.importorskip(loop)
    code = f"{ECHO}\nimport {loop}\n{loop}.run(main())"
    done = python(code, instance.address, instance.mirror, env=instance.environment())
    assert done.stdout == "all answered\n", done.stderr


PREFORK = """
import os, select, socket, sys
s = socket.socket(); s.bind((sys.argv[1], 0)); s.listen(64); s.setblocking(False)
ep = select.epoll(); ep.register(s, select.EPOLLIN)
ep.poll(0)
print(s.getsockname()[1], flush=True)
def serve():
    data = b''
    while data != b'end':
        ep.poll()
        try: x, _ = s.accept()
        except BlockingIOError: continue
        with x:
            x.setblocking(True)
            data = x.recv(100)
            x.sendall(b'%d %b' % (os.getpid(), data))
for i in range(2):
    if os.fork() == 0:
        os.setsid()
        serve()
        break
"""


@either_stack
def test_daemons_share_an_epoll(instance: Instance) -> None:
    """Set up, two workers forked, and their parent gone: they serve with what they inherited."""

    def ask(what: bytes) -> tuple[bytes, bytes]:
        with socket.create_connection((instance.address, port)) as client:
            client.sendall(what)
            got = b""
            while data := client.recv(100):
                got += data
        pid, _, rest = got.partition(b" ")
        return pid, rest

    process = subprocess.Popen(
        [sys.executable, "-c", PREFORK, instance.address],
        env=instance.environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    port = int(process.stdout.readline())
    assert process.wait() == 0
    words = [b"%d" % i for i in range(50)]
    answers = [ask(word) for word in words]
    assert [word for _, word in answers] == words
    ends = {ask(b"end")[0] for _ in range(2)}
    assert len(ends) == 2 and {pid for pid, _ in answers} <= ends
    process.stdout.close()


FORKED_LOOP = """
import asyncio, os, socket, sys
import LOOP
loop = LOOP.new_event_loop()
asyncio.set_event_loop(loop)
async def serve(reader, writer):
    data = await reader.readline()
    writer.write(data)
    await writer.drain()
    writer.close()
    if data == b'end\\n':
        loop.call_later(0.1, loop.stop)
server = loop.run_until_complete(asyncio.start_server(serve, '127.0.0.1', 0))
port = server.sockets[0].getsockname()[1]
pid = os.fork()
if pid == 0:
    loop.run_forever()
    os._exit(0)
for word in (b'one', b'two', b'end'):
    with socket.create_connection(('127.0.0.1', port)) as x:
        x.sendall(word + b'\\n')
        print(x.recv(100).decode().strip())
print(os.waitpid(pid, 0)[1])
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_loop_made_before_a_fork(instance: Instance, loop: str) -> None:
    pytest.importorskip(loop)
    done = python(FORKED_LOOP.replace("LOOP", loop), env=instance.environment())
    assert done.stdout == "one\ntwo\nend\n0\n", done.stderr


def test_no_instance(tmp_path: Path) -> None:
    env = Instance.environment_of(str(tmp_path / "none.sock"))
    code = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print('bound')"
    done = python(code, env=env)
    assert "Network is down" in done.stderr
    assert "libff_syscall: no instance" in done.stderr and "none.sock" in done.stderr
    env["FFLOOP_FALLBACK"] = "kernel"
    done = python(code, env=env)
    assert done.stdout == "bound\n"
    assert done.stderr.count("no instance") == 1


def test_bad_values_are_reported(instance: Instance) -> None:
    """Each by name. One that says where sockets go keeps them from going anywhere."""
    code = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print('bound')"
    env = instance.environment(FFLOOP_LOG="loud", FFLOOP_SPIN_US="fast")
    done = python(code, env=env)
    assert "FFLOOP_LOG='loud'" in done.stderr and "FFLOOP_SPIN_US='fast'" in done.stderr
    assert done.stdout == "bound\n"
    env = instance.environment(FFLOOP_ROUTES="127.0.0.0/8=kernel, nowhere=stack")
    done = python(code, env=env)
    assert "'nowhere=stack' is not NETWORK/BITS=stack" in done.stderr
    assert "sockets are refused" in done.stderr and "Network is down" in done.stderr
    assert done.stdout == ""


def test_silent(instance: Instance) -> None:
    code = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0))"
    done = python(code, env=instance.environment())
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_instance_ends(tmp_path: Path) -> None:
    """Blocked calls fail at once, in every thread."""
    instance = Instance(tmp_path)
    code = """
import select, socket, threading
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()
a = socket.create_connection(s.getsockname()); b, _ = s.accept()
ep = select.epoll(); ep.register(a, select.EPOLLIN)
out = []
def recv():
    try: out.append(b.recv(1))
    except OSError as exc: out.append(type(exc).__name__)
threads = [threading.Thread(target=recv), threading.Thread(target=lambda: out.append(ep.poll()))]
for t in threads: t.start()
print('ready', flush=True)
for t in threads: t.join()
print(len(out), 'ConnectionResetError' in out)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=instance.environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    instance.process.kill()
    assert process.stdout.readline() == "2 True\n"
    assert process.wait() == 0
    process.stdout.close()
    instance.stop()


def test_thread_mode(instance: Instance) -> None:
    """FF_THREAD_SOCKET=1: threads with sockets of their own; another's fail."""
    code = """
import socket, threading
def work():
    s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()
    for i in range(50):
        a = socket.create_connection(s.getsockname()); b, _ = s.accept()
        a.sendall(b'x' * 1000)
        assert len(b.recv(1000, socket.MSG_WAITALL)) == 1000
        a.close(); b.close()
    done.append(s)
done = []
threads = [threading.Thread(target=work) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()
try: done[0].accept()
except OSError as exc: print(len(done), 'failed')
"""
    done = python(code, env=instance.environment(FF_THREAD_SOCKET="1"))
    assert done.stdout == "4 failed\n", done.stderr
    assert "belongs to another thread" in done.stderr


def test_threads_share(instance: Instance) -> None:
    """Any thread, any socket."""
    code = """
import socket, threading
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(64)
def serve():
    while True:
        x, _ = s.accept()
        with x:
            while data := x.recv(65536):
                if data == b'end': return
                x.sendall(data)
def client():
    with socket.create_connection(s.getsockname()) as a:
        for i in range(200):
            a.sendall(b'y' * 500)
            assert len(a.recv(500, socket.MSG_WAITALL)) == 500
servers = [threading.Thread(target=serve) for _ in range(4)]
clients = [threading.Thread(target=client) for _ in range(4)]
for t in servers + clients: t.start()
for t in clients: t.join()
for t in servers: socket.create_connection(s.getsockname()).sendall(b'end')
for t in servers: t.join()
print('done')
"""
    done = python(code, env=instance.environment())
    assert done.stdout == "done\n", done.stderr


def command(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    ffloop = str(Path(sys.executable).with_name("ffloop"))
    return completed(ffloop, "preload", *words, **options)


WHERE = """
import os, socket, time
time.sleep(0.7)  # an instance without sessions would have gone by now
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()
inode = os.stat(f'/proc/self/fd/{s.fileno()}').st_ino
port = '%04X' % s.getsockname()[1]
mine = [x for x in open('/proc/net/tcp') if f':{port} 00000000:0000 0A' in x]
print('in the instance' if str(inode) not in mine[0].split() else 'in the kernel')
"""


def test_command_starts_an_instance() -> None:
    done = command("--", sys.executable, "-c", WHERE)
    assert (done.stdout, done.stderr, done.returncode) == ("in the instance\n", "", 0)


def test_command_uses_the_named_one(instance: Instance) -> None:
    code = "import os; print(os.environ['FFLOOP_INSTANCE'])"
    done = command("--instance", instance.path, "--", sys.executable, "-c", code)
    assert done.stdout == f"{instance.path}\n"


@pytest.mark.parametrize("given", ["", "0", "1"])
def test_command_names_the_network_namespace(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """That of the program's start, whatever a shim above it says."""
    monkeypatch.setenv("_FFLOOP_NETNS", given)
    code = "import os; print(os.environ['_FFLOOP_NETNS'])"
    done = command("--instance", instance.path, "--", sys.executable, "-c", code)
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            cookie = sock.getsockopt(socket.SOL_SOCKET, 71, 8)  # SO_NETNS_COOKIE
        except OSError:
            cookie = bytes(8)
    assert done.stdout == f"{int.from_bytes(cookie, sys.byteorder)}\n"


def test_an_empty_environment_stays_so(instance: Instance) -> None:
    assert completed(need("env"), "-i", need("env"), env=instance.environment()).stdout == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--", "no-such-program"], "no such program"),
        (["--stack", "fstack", "--", "true"], "ffloop instance --stack fstack"),
        (["--instance", "/nowhere", "--", "true"], "/nowhere"),
    ],
)
def test_command_refuses(words: list[str], said: str) -> None:
    done = command(*words)
    assert done.returncode == 1
    assert done.stderr.startswith("ffloop preload: ") and said in done.stderr
