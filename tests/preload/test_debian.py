"""Servers of Debian, unmodified: natively and under the shim the same outcome, a clean end.

While idle they take no CPU. .ci/run installs them; one that is not here is skipped.
"""

import getpass
import http.client
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from common.ports import unused_port
from common.processes import completed
from programs import alive, children, get, need, until, until_up
from shim import Instance

HERE = "127.0.0.1"
Command = Callable[[int], list[str]]  # with its port
Talk = Callable[[int, int], Any]  # what was seen at the port; of the server with this pid


def tree(pid: int) -> list[int]:
    try:
        return [pid, *(p for child in children(pid) for p in tree(child))]
    except (FileNotFoundError, ProcessLookupError):  # one that was still ending
        return []


def cpu(pid: int) -> int:
    """Its ticks until now; of one that has ended meanwhile, none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(fields[11]) + int(fields[12])


def is_quiet(pids: list[int]) -> bool:
    before = {pid: cpu(pid) for pid in pids}
    time.sleep(0.5)
    return sum(max(0, cpu(pid) - before[pid]) for pid in pids) <= os.sysconf("SC_CLK_TCK") / 10


def idles(pid: int) -> bool:
    """Some half second costs it a fifth of that at most: one that spins takes more in each."""
    pids = tree(pid)
    return any(is_quiet(pids) for _ in range(60))


@contextmanager
def served(
    command: list[str], port: int, environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """In a session of its own: apache ends its process group."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        until_up(HERE, port, process)
        yield process
    finally:
        process.kill()
        process.wait()


def same(
    instance: Instance,
    log: Path,
    command: Command,
    talk: Talk,
    end: int = signal.SIGTERM,
) -> None:
    shimmed = instance.environment()
    plain = {k: v for k, v in shimmed.items() if k != "LD_PRELOAD"}
    seen = []
    for environment in (plain, shimmed):
        port = unused_port()
        with served(command(port), port, environment, log) as process:
            outcome = talk(port, process.pid)
            quiet = idles(process.pid)
            left = tree(process.pid)
            process.send_signal(end)
            seen.append((outcome, quiet, process.wait()))
            until(lambda: not any(alive(pid) for pid in left))  # noqa: B023
    assert seen[0][1], "it does not idle natively"
    assert seen[1] == seen[0], log.read_text(errors="replace")
    assert instance.stats().totals["accepts"], "not on the stack"


def by_datagram(port: int, question: bytes) -> bytes:
    """The answer; asked again until there is one: the port may come up after the stream's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as u:
        u.settimeout(1)
        while True:
            u.sendto(question, (HERE, port))
            try:
                return u.recv(512)
            except TimeoutError:
                continue


def at_once(n: int, what: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(what, range(n)))


# ---- caches ------------------------------------------------------------------------------------


def test_memcached(instance: Instance, tmp_path: Path) -> None:
    """Four threads; small values, a large one, and a datagram."""
    program = need("memcached")

    def talk(port: int, pid: int) -> Any:
        def client(number: int) -> list[bytes]:
            seen = []
            with socket.create_connection((HERE, port)) as s, s.makefile("rwb") as f:
                for i in range(30):
                    value = b"%d" % (number * i) * (9000 if i == 7 else 1)
                    f.write(b"set k%d.%d 0 0 %d\r\n%s\r\n" % (number, i, len(value), value))
                    f.write(b"get k%d.%d\r\n" % (number, i))
                    f.flush()
                    seen += [f.readline() for _ in range(4)]
            return seen

        return at_once(8, client), by_datagram(port, b"\0\1\0\0\0\1\0\0get none\r\n")

    def command(port: int) -> list[str]:
        return [program, "-u", "root", "-l", HERE, "-p", str(port), "-U", str(port), "-t", "4"]

    same(instance, tmp_path / "log", command, talk)


# ---- prefork: quick requests beside slow ones --------------------------------------------------

APPLICATION = """
import os, time
def application(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        open(f"{FOLDER}/slow-{os.getpid()}", "w").close()
        while not os.path.exists(f"{FOLDER}/go"):
            time.sleep(0.01)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode()]
"""


class Prefork:
    """Three workers; two are busy until the quick requests have been answered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        code = APPLICATION.replace("{FOLDER}", str(folder))
        (folder / "application.py").write_text(code)

    def talk(self, port: int, ask: Callable[[int, str], bytes]) -> Any:
        answers: list[bytes] = []
        slow = [
            threading.Thread(target=lambda: answers.append(ask(port, "/slow"))) for _ in range(2)
        ]
        for n, thread in enumerate(slow, 1):
            thread.start()
            until(lambda: len(list(self.folder.glob("slow-*"))) == n)  # noqa: B023
        quick = [ask(port, f"/quick{i}") for i in range(30)]
        (self.folder / "go").touch()
        for thread in slow:
            thread.join()
        for file in [*self.folder.glob("slow-*"), self.folder / "go"]:
            file.unlink()
        return quick, answers


def by_http(port: int, path: str) -> bytes:
    return get(HERE, port, path)


def test_gunicorn(instance: Instance, tmp_path: Path) -> None:
    prefork = Prefork(tmp_path)

    def command(port: int) -> list[str]:
        where = ["--chdir", str(tmp_path), "--bind", f"{HERE}:{port}"]
        return [
            sys.executable,
            "-m",
            "gunicorn",
            "--workers",
            "3",
            "--worker-class",
            "sync",
            *where,
            "application",
        ]

    same(instance, tmp_path / "log", command, lambda port, _: prefork.talk(port, by_http))


def test_uwsgi(instance: Instance, tmp_path: Path) -> None:
    program, prefork = need("uwsgi"), Prefork(tmp_path)
    if not list(Path("/usr/lib/uwsgi/plugins").glob("python3*")):
        pytest.skip("uwsgi's plugin for Python is not installed")

    def command(port: int) -> list[str]:
        words = [program, "--plugin", "python3", "--http-socket", f"{HERE}:{port}"]
        words += ["--processes", "3", "--master", "--need-app", "--die-on-term"]
        return [*words, "--wsgi-file", str(tmp_path / "application.py")]

    same(instance, tmp_path / "log", command, lambda port, _: prefork.talk(port, by_http))


# ---- what forks for a connection ---------------------------------------------------------------


def test_git_daemon(instance: Instance, tmp_path: Path) -> None:
    """Its helpers talk through standard input and output. Clones, several at once."""
    git = need("git")
    made = tmp_path / "made"
    who = ["-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run([git, "init", "-q", made], check=True)
    (made / "file").write_bytes(os.urandom(300000))
    subprocess.run([git, "-C", made, "add", "."], check=True)
    subprocess.run([git, *who, "-C", made, "commit", "-qm", "one"], check=True)
    rounds = iter(range(10))

    def talk(port: int, pid: int) -> Any:
        folder = tmp_path / f"round{next(rounds)}"

        def clone(i: int) -> bool:
            to = folder / str(i)
            subprocess.run([git, "clone", "-q", f"git://{HERE}:{port}/made", to], check=True)
            return (to / "file").read_bytes() == (made / "file").read_bytes()

        return at_once(4, clone)

    def command(port: int) -> list[str]:
        words = [git, "daemon", f"--port={port}", f"--listen={HERE}", "--reuseaddr"]
        return [*words, "--export-all", f"--base-path={tmp_path}"]

    same(instance, tmp_path / "log", command, talk)


def test_rsync_daemon(instance: Instance, tmp_path: Path) -> None:
    rsync = need("rsync")
    source = tmp_path / "source"
    source.mkdir()
    for i in range(20):
        (source / str(i)).write_bytes(os.urandom(20000))
    rounds = iter(range(10))

    def talk(port: int, pid: int) -> Any:
        to = tmp_path / f"round{next(rounds)}"
        subprocess.run([rsync, "-a", f"rsync://{HERE}:{port}/files/", to], check=True)
        return [(to / p.name).read_bytes() == p.read_bytes() for p in sorted(source.iterdir())]

    def command(port: int) -> list[str]:
        conf = tmp_path / "rsyncd.conf"
        conf.write_text(f"use chroot = no\nuid = root\ngid = root\n[files]\npath = {source}\n")
        words = [rsync, "--daemon", "--no-detach", f"--config={conf}", f"--address={HERE}"]
        return [*words, f"--port={port}"]

    same(instance, tmp_path / "log", command, talk)


def test_xinetd(instance: Instance, tmp_path: Path) -> None:
    """A service per connection, which has it as standard input and output."""
    xinetd, sed = need("xinetd"), need("sed")

    def talk(port: int, pid: int) -> Any:
        seen = []
        for word in (b"banana\n", b"salad\n"):
            with socket.create_connection((HERE, port)) as peer:
                peer.sendall(word)
                peer.shutdown(socket.SHUT_WR)
                seen.append(peer.makefile("rb").read())
        until(lambda: not children(pid))
        return seen

    def command(port: int) -> list[str]:
        conf = tmp_path / "xinetd.conf"
        conf.write_text(
            "defaults\n{\n}\nservice upper\n{\ntype = UNLISTED\nsocket_type = stream\nwait = no\n"
            f"protocol = tcp\nport = {port}\nbind = {HERE}\nuser = {getpass.getuser()}\n"
            f"server = {sed}\nserver_args = -u s/a/A/\n}}\n"
        )
        return [xinetd, "-dontfork", "-f", str(conf), "-pidfile", str(tmp_path / "pid")]

    same(instance, tmp_path / "log", command, talk)


# ---- proxies, web servers ----------------------------------------------------------------------


@contextmanager
def pages(folder: Path) -> Iterator[int]:
    """A server on the kernel, with one page."""
    folder.mkdir()
    (folder / "page").write_text("a page" * 100)
    port = unused_port()
    words = ["python3", "-m", "http.server", "--bind", HERE, "--directory", str(folder), str(port)]
    with served(words, port, dict(os.environ), folder / "log"):
        yield port


def test_haproxy(instance: Instance, tmp_path: Path) -> None:
    """A master and a worker, which is replaced in the middle (SIGUSR2)."""
    haproxy = need("haproxy")
    with pages(tmp_path / "pages") as origin:

        def command(port: int) -> list[str]:
            conf = tmp_path / "haproxy.cfg"
            conf.write_text(
                "global\n  maxconn 200\ndefaults\n  mode http\n  timeout connect 20s\n"
                "  timeout client 20s\n  timeout server 20s\n"
                f"frontend f\n  bind {HERE}:{port}\n  default_backend b\n"
                f"backend b\n  server s {HERE}:{origin}\n"
            )
            return [haproxy, "-W", "-db", "-f", str(conf)]

        log = tmp_path / "log"

        def talk(port: int, pid: int) -> Any:
            seen = at_once(8, lambda _: get(HERE, port, "/page"))
            # The worker serves before the master, which executes itself anew, waits for signals.
            until(lambda: "ep" in Path(f"/proc/{pid}/wchan").read_text())
            before = children(pid)
            os.kill(pid, signal.SIGUSR2)
            until(lambda: children(pid) and not set(before) & set(children(pid)))
            return seen + at_once(8, lambda _: get(HERE, port, "/page"))

        same(instance, log, command, talk)


def test_apache_prefork(instance: Instance, tmp_path: Path) -> None:
    apache(instance, tmp_path, "prefork", "StartServers 4\nMinSpareServers 4\nMaxSpareServers 8")


def test_apache_event(instance: Instance, tmp_path: Path) -> None:
    apache(instance, tmp_path, "event", "StartServers 2\nThreadsPerChild 8\nMaxRequestWorkers 16")


def apache(instance: Instance, folder: Path, module: str, settings: str) -> None:
    """A file by sendfile, kept connections, a graceful restart (SIGUSR1) in the middle."""
    apache2 = need("apache2")
    modules = Path("/usr/lib/apache2/modules")
    root = folder / "root"
    root.mkdir()
    (root / "page").write_bytes(b"a page" * 50000)
    generation = iter(range(100))

    def command(port: int) -> list[str]:
        loads = [
            f"LoadModule {name}_module {modules}/mod_{name}.so"
            for name in (f"mpm_{module}", "authz_core")
        ]
        (folder / "apache.conf").write_text(
            "\n".join(
                [*loads, settings, f"Listen {HERE}:{port}", f"DocumentRoot {root}",
                 f"ServerRoot {folder}", f"PidFile {folder}/pid-{next(generation)}",
                 "ServerName x", "EnableSendfile On", f"ErrorLog {folder}/errors",
                 f"<Directory {root}>\nRequire all granted\n</Directory>"]
            )
        )  # fmt: skip
        return [apache2, "-D", "FOREGROUND", "-f", str(folder / "apache.conf")]

    def talk(port: int, pid: int) -> Any:
        def client(_: int) -> list[bytes]:
            kept = http.client.HTTPConnection(HERE, port)
            seen = []
            for _ in range(5):
                kept.request("GET", "/page")
                seen.append(kept.getresponse().read())
            kept.close()
            return seen

        seen = at_once(6, client)
        before = set(children(pid))
        os.kill(pid, signal.SIGUSR1)
        until(lambda: children(pid) and not before & set(children(pid)))
        return seen + at_once(6, client)

    same(instance, folder / "log", command, talk)


# ---- a cluster, PHP ----------------------------------------------------------------------------

CLUSTER = """
const cluster = require('cluster'), http = require('http'), net = require('net');
if (cluster.isPrimary) {
  for (let i = 0; i < 3; i++) cluster.fork();
  process.on('SIGTERM', () => {
    for (const w of Object.values(cluster.workers)) w.kill();
    let left = Object.keys(cluster.workers).length;
    cluster.on('exit', () => { if (--left === 0) process.exit(0); });
  });
} else {
  http.createServer((q, a) => a.end(q.url)).listen(+process.argv[2], '127.0.0.1');
}
"""


@pytest.mark.parametrize("policy", ["rr", "none"])
def test_node_cluster(instance: Instance, tmp_path: Path, policy: str) -> None:
    """rr: the primary accepts, and hands connections on; none: the workers accept."""
    node = need("node")
    (tmp_path / "cluster.js").write_text(CLUSTER)

    def command(port: int) -> list[str]:
        words = ["env", f"NODE_CLUSTER_SCHED_POLICY={policy}", node]
        return [*words, str(tmp_path / "cluster.js"), str(port)]

    def talk(port: int, pid: int) -> Any:
        until(lambda: len(children(pid)) == 3)
        return at_once(8, lambda i: [get(HERE, port, f"/{i}.{k}") for k in range(5)])

    same(instance, tmp_path / "log", command, talk)


def record(kind: int, content: bytes) -> bytes:
    return struct.pack("!BBHHBB", 1, kind, 1, len(content), 0, 0) + content


def by_fastcgi(script: Path, port: int, path: str) -> bytes:
    """One request of FastCGI; what came on standard output, after the headers."""
    words = {"SCRIPT_FILENAME": str(script), "REQUEST_METHOD": "GET", "PATH_INFO": path}
    pairs = b"".join(bytes([len(k), len(v)]) + k.encode() + v.encode() for k, v in words.items())
    begin = record(1, struct.pack("!HB5x", 1, 0))
    out = b""
    with socket.create_connection((HERE, port)) as s, s.makefile("rb") as f:
        s.sendall(begin + record(4, pairs) + record(4, b"") + record(5, b""))
        while len(head := f.read(8)) == 8:
            _, kind, _, length, padding, _ = struct.unpack("!BBHHBB", head)
            content = f.read(length + padding)[:length]
            out += content if kind == 6 else b""
    return out.partition(b"\r\n\r\n")[2]


SCRIPT = """<?php
if ($_SERVER["PATH_INFO"] == "/slow") {
    touch("FOLDER/slow-" . getmypid());
    while (!file_exists("FOLDER/go")) { usleep(10000); clearstatcache(); }
}
echo $_SERVER["PATH_INFO"];
"""


def test_php_fpm(instance: Instance, tmp_path: Path) -> None:
    found = sorted(Path("/usr/sbin").glob("php-fpm*"))
    program = need(found[-1].name if found else "php-fpm")
    prefork = Prefork(tmp_path)
    script = tmp_path / "script.php"
    script.write_text(SCRIPT.replace("FOLDER", str(tmp_path)))

    def command(port: int) -> list[str]:
        conf = tmp_path / "fpm.conf"
        conf.write_text(
            f"[global]\nerror_log = {tmp_path}/errors\ndaemonize = no\n[www]\nuser = root\n"
            f"listen = {HERE}:{port}\npm = static\npm.max_children = 3\n"
        )
        return [program, "--allow-to-run-as-root", "--fpm-config", str(conf), "--nodaemonize"]

    def talk(port: int, _: int) -> Any:
        return prefork.talk(port, lambda port, path: by_fastcgi(script, port, path))

    same(instance, tmp_path / "log", command, talk)


# ---- streams and datagrams ---------------------------------------------------------------------


@pytest.mark.parametrize("what", [["-P", "4"], ["-R"], ["-u", "-b", "50M"]], ids=" ".join)
def test_iperf3(instance: Instance, tmp_path: Path, what: list[str]) -> None:
    iperf3 = need("iperf3")

    def talk(port: int, _: int) -> Any:
        words = [iperf3, "-c", HERE, "-p", str(port), "-n", "20M", "-J", *what]
        while True:  # it is busy with the connection by which it was found to be up
            done = completed(*words)
            if end := json.loads(done.stdout)["end"]:
                return sorted(end), len(end["streams"])

    def command(port: int) -> list[str]:
        return [iperf3, "-s", "-B", HERE, "-p", str(port)]

    same(instance, tmp_path / "log", command, talk)


def question(name: str) -> bytes:
    labels = b"".join(bytes([len(p)]) + p.encode() for p in name.split("."))
    return struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)


def test_unbound(instance: Instance, tmp_path: Path) -> None:
    """What it knows itself, by datagrams and by streams."""
    unbound = need("unbound")

    def command(port: int) -> list[str]:
        conf = tmp_path / "unbound.conf"
        conf.write_text(
            f"server:\n  interface: {HERE}\n  port: {port}\n  num-threads: 2\n"
            f'  do-daemonize: no\n  username: ""\n  chroot: ""\n  directory: "{tmp_path}"\n'
            '  pidfile: ""\n  use-syslog: no\n'
            '  module-config: "iterator"\n  local-zone: "here." static\n'
            '  local-data: "a.here. A 10.1.2.3"\n'
            "remote-control:\n  control-enable: no\n"
        )
        return [unbound, "-d", "-c", str(conf)]

    def talk(port: int, _: int) -> Any:
        def client(_: int) -> list[bytes]:
            seen = [by_datagram(port, question(name)) for name in ("a.here", "b.here")]
            with socket.create_connection((HERE, port)) as s, s.makefile("rb") as f:
                ask = question("a.here")
                s.sendall(struct.pack("!H", len(ask)) + ask)
                seen.append(f.read(struct.unpack("!H", f.read(2))[0]))
            return seen

        return at_once(4, client)

    same(instance, tmp_path / "log", command, talk)


# ---- a database --------------------------------------------------------------------------------


def listens(pid: int, port: int) -> bool:
    """Is the kernel's listener there its own?"""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {
        f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"
    }
    assert inodes
    return any(os.readlink(fd) in inodes for fd in Path(f"/proc/{pid}/fd").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root: it becomes another user")
def test_postgresql() -> None:
    """A process for each connection, of another user; eight clients of pgbench."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.skip("postgresql is not installed")
    programs = found[-1].parent
    as_user = [need("setpriv"), "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("FFLOOP", "FF_"))}
    with tempfile.TemporaryDirectory() as folder:  # within reach of that user
        data = Path(folder, "data")
        shutil.chown(folder, "postgres")
        made = [*as_user, programs / "initdb", "-A", "trust", "-N", "-D", data]
        subprocess.run(made, check=True, capture_output=True, cwd=folder)
        seen = []
        for under in ([], [str(Path(sysconfig.get_path("scripts"), "ffloop")), "preload", "--"]):
            port = unused_port()
            words = [*under, *as_user, programs / "postgres", "-D", data, "-k", "", "-F"]
            words += ["-h", HERE, "-p", str(port)]
            with served([str(w) for w in words], port, plain, Path(folder, "log")) as process:
                where = ["-h", HERE, "-p", str(port), "-U", "postgres"]
                while subprocess.run([programs / "pg_isready", "-q", *where]).returncode:
                    time.sleep(0.05)
                outcome = []
                for what in (["-i", "-q"], ["-c", "8", "-j", "2", "-t", "20", "-n"]):
                    done = completed(programs / "pgbench", *where, *what, "postgres", env=plain)
                    outcome.append((done.returncode, "160/160" in done.stdout))
                assert listens(process.pid, port) == (not under), "not on the stack"
                process.send_signal(signal.SIGINT)  # a fast shutdown
                seen.append((outcome, process.wait()))
        assert seen[1] == seen[0] == ([(0, False), (0, True)], 0)
