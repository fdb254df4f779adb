"""Unmodified programs of Debian under the shim, on a host instance."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from shim import Instance

pytestmark = pytest.mark.timeout(60)


RELOADS = 20


def need(program: str) -> str:
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if not found:
        pytest.skip(f"{program} is not installed")
    return found


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def get(port: int, path: str = "/") -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return bytes(answer.read())


def until_up(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    pytest.fail(f"{process.args} ended with {process.returncode}")


@contextmanager
def running(
    instance: Instance, port: int, *command: str, **more: str
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env=instance.environment(**more))
    try:
        until_up(port, process)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


NGINX = """
daemon off; user root; pid {folder}/nginx.pid; error_log {folder}/error.log;
worker_processes {workers};
events {{ worker_connections 512; }}
http {{
    access_log off; sendfile {sendfile};
    client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{
        listen 127.0.0.1:{port} {listen};
        location / {{ return 200 "hello"; }}
        location /file/ {{ alias {folder}/files/; }}
        location /proxy/ {{ proxy_pass http://127.0.0.1:{upstream}/; }}
    }}
}}
"""


@contextmanager
def nginx(
    instance: Instance,
    folder: Path,
    workers: int = 1,
    sendfile: str = "on",
    listen: str = "",
    upstream: int = 1,
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    program = need("nginx")
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(
        NGINX.format(
            folder=folder,
            workers=workers,
            port=port,
            sendfile=sendfile,
            listen=listen,
            upstream=upstream,
        )
    )
    (folder / "files").mkdir(exist_ok=True)
    (folder / "files" / "big").write_bytes(bytes(range(256)) * 8192)
    command = [program, "-c", str(config), "-e", str(folder / "error.log")]
    with running(instance, port, *command) as process:
        yield port, process
    assert not [
        line
        for line in (folder / "error.log").read_text().splitlines()
        if re.search(r"\[(emerg|alert|crit)\]", line)
    ]


@pytest.mark.parametrize("sendfile", ["on", "off"])
@pytest.mark.parametrize("workers", [1, 4])
def test_nginx(instance: Instance, tmp_path: Path, workers: int, sendfile: str) -> None:
    with nginx(instance, tmp_path, workers, sendfile) as (port, _):
        for _ in range(20):
            assert get(port) == b"hello"
        assert get(port, "/file/big") == bytes(range(256)) * 8192


def test_nginx_reuseport(instance: Instance, tmp_path: Path) -> None:
    with nginx(instance, tmp_path, 4, listen="reuseport") as (port, _):
        for _ in range(40):
            assert get(port) == b"hello"


def test_nginx_proxy(instance: Instance, tmp_path: Path) -> None:
    """To an upstream whose socket is on the stack as well."""
    upstream = free_port()
    command = [sys.executable, "-m", "http.server", str(upstream), "--bind", "127.0.0.1"]
    with (
        running(instance, upstream, *command, "--directory", str(tmp_path)),
        nginx(instance, tmp_path, upstream=upstream) as (port, _),
    ):
        (tmp_path / "page").write_text("behind the proxy")
        for _ in range(10):
            assert get(port, "/proxy/page") == b"behind the proxy"


def test_nginx_reload_under_load(instance: Instance, tmp_path: Path) -> None:
    """No request fails, a new connection each."""
    failed: list[str] = []
    done = threading.Event()
    answered = 0

    def load() -> None:
        nonlocal answered
        while not done.is_set():
            try:
                assert get(port) == b"hello"
                answered += 1
            except Exception as exc:
                failed.append(repr(exc))

    with nginx(instance, tmp_path, 4) as (port, process):
        threads = [threading.Thread(target=load) for _ in range(4)]
        for t in threads:
            t.start()
        for _ in range(RELOADS):
            before = answered
            process.send_signal(signal.SIGHUP)
            while answered < before + 20 and not failed:
                time.sleep(0.005)
        done.set()
        for t in threads:
            t.join()
    assert failed == []


def test_redis(instance: Instance, tmp_path: Path) -> None:
    program, bench, cli = need("redis-server"), need("redis-benchmark"), need("redis-cli")
    port = free_port()
    command = [program, "--port", str(port), "--dir", str(tmp_path), "--io-threads", "4",
               "--loglevel", "warning", "--save", ""]  # fmt: skip
    with running(instance, port, *command):
        under = instance.environment()
        plain = {k: v for k, v in under.items() if k != "LD_PRELOAD"}
        for env in (plain, under):  # a client on the kernel, and one on the stack
            done = subprocess.run(
                [bench, "-p", str(port), "-q", "-n", "2000", "-c", "20", "-P", "4",
                 "-t", "ping,set,get,incr,lpush,lrange_100,mset"],
                env=env, capture_output=True, text=True, timeout=40, check=True,
            )  # fmt: skip
            assert "Error" not in done.stdout + done.stderr
        ask = [cli, "-p", str(port)]
        assert b"started" in subprocess.run([*ask, "bgsave"], env=under, capture_output=True).stdout
        while True:
            info = subprocess.run([*ask, "info", "persistence"], env=under, capture_output=True)
            if b"rdb_bgsave_in_progress:0" in info.stdout:
                break
            time.sleep(0.02)
        assert b"rdb_last_bgsave_status:ok" in info.stdout
        assert (tmp_path / "dump.rdb").exists()


def test_curl(instance: Instance, tmp_path: Path) -> None:
    curl = need("curl")
    (tmp_path / "page").write_bytes(b"x" * 1000000)
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with running(instance, port, *command, "--directory", str(tmp_path)):
        done = subprocess.run(
            [curl, "-fsS", "--max-time", "20", f"http://127.0.0.1:{port}/page"],
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
    server = await asyncio.start_server(serve, '127.0.0.1', 0)
    async def client():
        r, w = await asyncio.open_connection(*server.sockets[0].getsockname())
        for i in range(50):
            data = b'%d' % i * 1000
            w.write(data)
            assert await r.readexactly(len(data)) == data
        w.close()
        await w.wait_closed()
    await asyncio.gather(*[client() for _ in range(20)])
    print('all answered')
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_python_loops(instance: Instance, loop: str) -> None:
    pytest.importorskip(loop)
    code = f"{ECHO}\nimport {loop}\n{loop}.run(main())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=instance.environment(), capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.stdout == "all answered\n", done.stderr


def test_no_instance(tmp_path: Path) -> None:
    env = Instance.environment_of(str(tmp_path / "none.sock"))
    code = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print('bound')"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "Network is down" in done.stderr
    assert "libff_syscall: no instance" in done.stderr and "none.sock" in done.stderr
    env["FFLOOP_FALLBACK"] = "kernel"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout == "bound\n"
    assert done.stderr.count("no instance") == 1


def test_bad_values_are_reported(instance: Instance) -> None:
    env = instance.environment(FF_PROC_ID="x", FFLOOP_LOG="loud", FFLOOP_ROUTES="nowhere=stack")
    done = subprocess.run(["true"], env=env, capture_output=True, text=True, check=True)
    for name in ("FF_PROC_ID=x", "FFLOOP_LOG=loud", "FFLOOP_ROUTES"):
        assert name in done.stderr
    assert done.stdout == ""


def test_silent(instance: Instance) -> None:
    code = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=instance.environment(), capture_output=True, check=True
    )
    assert done.stdout + done.stderr == b""


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
    assert process.wait(10) == 0
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
    done = subprocess.run(
        [sys.executable, "-c", code], env=instance.environment(FF_THREAD_SOCKET="1"),
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
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
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=instance.environment(), capture_output=True, text=True, timeout=40, check=False,
    )  # fmt: skip
    assert done.stdout == "done\n", done.stderr


def command(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    ffloop = str(Path(sys.executable).with_name("ffloop"))
    return subprocess.run(
        [ffloop, "preload", *words], capture_output=True, text=True, timeout=30, **options
    )


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--", "no-such-program"], "no such program"),
        (["--", "/usr/bin/passwd"], "preloads nothing"),
        (["--stack", "fstack", "--", "true"], "ffloop instance --stack fstack"),
        (["--instance", "/nowhere", "--", "true"], "/nowhere"),
    ],
)
def test_command_refuses(words: list[str], said: str) -> None:
    done = command(*words)
    assert done.returncode == 1
    assert done.stderr.startswith("ffloop preload: ") and said in done.stderr
