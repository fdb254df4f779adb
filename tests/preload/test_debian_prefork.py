"""Servers of Debian with a process per request (debian.py): quick requests beside slow ones."""

import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from debian import HERE, Server, same
from programs import need, until
from shim import Instance

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

    def talk(self, ask: Callable[[str], bytes]) -> Any:
        answers: list[bytes] = []
        slow = [threading.Thread(target=lambda: answers.append(ask("/slow"))) for _ in range(2)]
        for n, thread in enumerate(slow, 1):
            thread.start()
            until(lambda: len(list(self.folder.glob("slow-*"))) == n)  # noqa: B023
        quick = [ask(f"/quick{i}") for i in range(30)]
        (self.folder / "go").touch()
        for thread in slow:
            thread.join()
        for file in [*self.folder.glob("slow-*"), self.folder / "go"]:
            file.unlink()
        return quick, answers


def test_gunicorn(instance: Instance, tmp_path: Path) -> None:
    prefork = Prefork(tmp_path)

    def command(port: int) -> list[str]:
        words = [sys.executable, "-m", "gunicorn", "--workers", "3", "--worker-class", "sync"]
        where = ["--chdir", str(tmp_path), "--bind", f"{HERE}:{port}"]
        return [*words, *where, "application"]

    same(instance, tmp_path / "log", command, lambda server: prefork.talk(server.get))


def test_uwsgi(instance: Instance, tmp_path: Path) -> None:
    program, prefork = need("uwsgi"), Prefork(tmp_path)
    if not list(Path("/usr/lib/uwsgi/plugins").glob("python3*")):
        pytest.skip("uwsgi's plugin for Python is not installed")

    def command(port: int) -> list[str]:
        words = [program, "--plugin", "python3", "--http-socket", f"{HERE}:{port}"]
        words += ["--processes", "3", "--master", "--need-app", "--die-on-term"]
        return [*words, "--wsgi-file", str(tmp_path / "application.py")]

    same(instance, tmp_path / "log", command, lambda server: prefork.talk(server.get))


def record(kind: int, content: bytes) -> bytes:
    return struct.pack("!BBHHBB", 1, kind, 1, len(content), 0, 0) + content


def by_fastcgi(server: Server, script: Path, path: str) -> bytes:
    """One request of FastCGI; what came on standard output, after the headers."""
    words = {"SCRIPT_FILENAME": str(script), "REQUEST_METHOD": "GET", "PATH_INFO": path}
    pairs = b"".join(bytes([len(k), len(v)]) + k.encode() + v.encode() for k, v in words.items())
    begin = record(1, struct.pack("!HB5x", 1, 0))
    out = b""
    with server.connect() as s, s.makefile("rb") as f:
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

    def talk(server: Server) -> Any:
        return prefork.talk(lambda path: by_fastcgi(server, script, path))

    same(instance, tmp_path / "log", command, talk)
