"""Web servers and proxies of Debian (debian.py)."""

import http.client
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.ports import unused_port
from debian import HERE, Server, as_root, at_once, same, served
from programs import Load, alive, children, need, until
from shim import Instance

PAGE = b"a page" * 50000


@contextmanager
def pages(folder: Path) -> Iterator[int]:
    """A server on the kernel, with one page."""
    folder.mkdir()
    (folder / "page").write_bytes(PAGE)
    port = unused_port()
    words = ["python3", "-m", "http.server", "--bind", HERE, "--directory", str(folder), str(port)]
    with served(words, port, dict(os.environ), folder / "log"):
        yield port


def configured(folder: Path, port: int, origin: int) -> str:
    conf = folder / "haproxy.cfg"
    conf.write_text(
        f"global\n  maxconn 200\n  stats socket {folder}/stats expose-fd listeners\n"
        "defaults\n  mode http\n  timeout connect 20s\n  timeout client 20s\n"
        f"  timeout server 20s\nfrontend f\n  bind {HERE}:{port}\n  default_backend b\n"
        f"backend b\n  server s {HERE}:{origin}\n"
    )
    return str(conf)


def test_haproxy(instance: Instance, tmp_path: Path) -> None:
    """A master and a worker, which is replaced in the middle (SIGUSR2)."""
    haproxy = need("haproxy")
    with pages(tmp_path / "pages") as origin:

        def command(port: int) -> list[str]:
            return [haproxy, "-W", "-db", "-f", configured(tmp_path, port, origin)]

        def talk(server: Server) -> Any:
            seen = at_once(8, lambda _: server.get("/page"))
            # The worker serves before the master, which executes itself anew, waits for signals.
            until(lambda: "ep" in Path(f"/proc/{server.pid}/wchan").read_text())
            before = children(server.pid)
            os.kill(server.pid, signal.SIGUSR2)
            until(lambda: children(server.pid) and not set(before) & set(children(server.pid)))
            return seen + at_once(8, lambda _: server.get("/page"))

        same(instance, tmp_path / "log", command, talk)


def test_haproxy_replaced(instance: Instance, tmp_path: Path) -> None:
    """A process takes over the listeners of another (-x) and ends it (-sf), under load."""
    haproxy = need("haproxy")
    go = tmp_path / "go"
    os.mkfifo(go)
    script = f"""
    {haproxy} -db -f $0 &
    read word <{go}
    exec {haproxy} -db -f $0 -x {tmp_path}/stats -sf $!
    """
    with pages(tmp_path / "pages") as origin:

        def command(port: int) -> list[str]:
            return ["sh", "-c", script, configured(tmp_path, port, origin)]

        def talk(server: Server) -> Any:
            (first,) = children(server.pid)
            with Load(HERE, server.port, PAGE, path="/page") as load:
                load.more(50)
                go.write_text("now\n")
                until(lambda: not alive(first))
                load.more(50)
            return load.failed

        same(instance, tmp_path / "log", command, talk)


@as_root
def test_varnish(tmp_path: Path, shared_folder: Path) -> None:
    """A manager, and a child of another user with many threads: misses, then hits."""
    varnishd = need("varnishd")
    with pages(tmp_path / "pages") as origin:

        def command(port: int) -> list[str]:
            words = [varnishd, "-F", "-n", str(shared_folder / str(port)), "-s", "malloc,10m"]
            return [*words, "-a", f"{HERE}:{port}", "-b", f"{HERE}:{origin}"]

        def talk(server: Server) -> Any:
            return at_once(8, lambda i: [server.get(f"/page?{i % 4}") == PAGE for _ in range(5)])

        same(None, tmp_path / "log", command, talk)


def test_apache_prefork(instance: Instance, tmp_path: Path) -> None:
    apache(instance, tmp_path, "prefork", "StartServers 4\nMinSpareServers 4\nMaxSpareServers 8")


def test_apache_event(instance: Instance, tmp_path: Path) -> None:
    apache(instance, tmp_path, "event", "StartServers 2\nThreadsPerChild 8\nMaxRequestWorkers 16")


def apache(instance: Instance, folder: Path, module: str, settings: str) -> None:
    """A file by sendfile, kept connections; graceful restarts (SIGUSR1) under load."""
    apache2 = need("apache2")
    modules = Path("/usr/lib/apache2/modules")
    root = folder / "root"
    root.mkdir()
    (root / "page").write_bytes(PAGE)
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

    def talk(server: Server) -> Any:
        def client(_: int) -> list[bytes]:
            kept = http.client.HTTPConnection(HERE, server.port)
            seen = []
            for _ in range(5):
                kept.request("GET", "/page")
                seen.append(kept.getresponse().read())
            kept.close()
            return seen

        seen = at_once(6, client)
        with Load(HERE, server.port, PAGE, path="/page") as load:
            for _ in range(3):
                load.more(20)
                before = set(children(server.pid))
                os.kill(server.pid, signal.SIGUSR1)
                until(lambda: children(server.pid) and not before & set(children(server.pid)))  # noqa: B023
            load.more(20)
        return seen + at_once(6, client), load.failed

    same(instance, folder / "log", command, talk)
