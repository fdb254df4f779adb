"""nginx under the shim, with the configurations of examples/nginx: serving, reloads, upgrades."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from common.ports import unused_port
from common.processes import completed
from programs import (
    EXAMPLES,
    FULL,
    Load,
    alive,
    children,
    either_stack,
    get,
    need,
    running,
    until,
)
from shim import Instance

pytestmark = [pytest.mark.timeout(600 if FULL else 300), either_stack]
PAGE = b"nginx on the stack\n"
FILE = bytes(range(256)) * 8192
RELOADS = 1000 if FULL else 100


def configure(
    address: str, folder: Path, name: str, upstream: int = 1, **changes: str
) -> tuple[int, list[str]]:
    """(port, command) of a configuration of examples/nginx, at a port of its own."""
    program, port = need("nginx"), unused_port()
    text = (EXAMPLES / "nginx" / name).read_text()
    text = text.replace("127.0.0.1:8088", f"{address}:{port}").replace("8089", str(upstream))
    for before, after in changes.items():
        assert f"{before} " in text
        text = re.sub(rf"\b{before} .*;", f"{before} {after};", text)
    (folder / "nginx.conf").write_text("user root;\n" + text)
    (folder / "files").mkdir(exist_ok=True)
    (folder / "files" / "big").write_bytes(FILE)
    return port, [program, "-p", str(folder), "-e", "error.log", "-c", str(folder / "nginx.conf")]


def complaints(folder: Path) -> list[str]:
    lines = (folder / "error.log").read_text().splitlines()
    return [line for line in lines if re.search(r"\[(emerg|alert|crit)\]", line)]


@contextmanager
def nginx(
    instance: Instance, folder: Path, name: str = "single.conf", upstream: int = 1,
    environment: dict[str, str] | None = None, **changes: str,
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:  # fmt: skip
    """(port, master); it must leave no complaints in its log."""
    port, command = configure(instance.address, folder, name, upstream, **changes)
    command += ["-g", "daemon off;"]
    with running(instance, port, *command, **(environment or {})) as process:
        yield port, process
    assert complaints(folder) == []


@pytest.mark.parametrize("sendfile", ["on", "off"])
@pytest.mark.parametrize("workers", ["1", "4"])
@pytest.mark.parametrize("name", ["nginx.conf", "single.conf"])
def test_serves(instance: Instance, tmp_path: Path, name: str, workers: str, sendfile: str) -> None:
    changes = {"worker_processes": workers, "sendfile": sendfile}
    with nginx(instance, tmp_path, name, **changes) as (port, process):
        until(lambda: len(children(process.pid)) == int(workers))
        for _ in range(40):
            assert get(instance.address, port) == PAGE
        assert get(instance.address, port, "/files/big") == FILE


@pytest.mark.parametrize("keepalive", [True, False])
def test_wrk(instance: Instance, tmp_path: Path, keepalive: bool) -> None:
    """Many connections, kept and not."""
    wrk = need("wrk")
    with nginx(instance, tmp_path, "nginx.conf") as (port, _):
        more = [] if keepalive else ["-H", "Connection: close"]
        said = completed(
            wrk,
            "-t1",
            "-c64",
            "-d2",
            "--timeout",
            "60s",
            *more,
            f"http://{instance.address}:{port}/",
            check=True,
        ).stdout
        assert "Socket errors" not in said and "Non-2xx" not in said, said
        assert int(re.search(r"(\d+) requests in", said)[1]) > 100  # type: ignore[index]


@pytest.mark.parametrize("where", ["upstream on the stack", "on the kernel", "kernel route"])
def test_proxy(instance: Instance, tmp_path: Path, where: str) -> None:
    """To an upstream under the shim; one without it; and to that by a kernel socket."""
    upstream = unused_port()
    address = {
        "upstream on the stack": instance.mirror,
        "on the kernel": instance.peer,
        "kernel route": "127.0.0.2",
    }[where]
    more = {"LD_PRELOAD": "", "address": instance.peer} if address != instance.mirror else {}
    routes = {"FFLOOP_ROUTES": "127.0.0.2/32=kernel"} if where == "kernel route" else {}
    command = [sys.executable, "-m", "http.server", str(upstream), "--directory", str(tmp_path)]
    (tmp_path / "page").write_text("behind the proxy")
    (tmp_path / "large").write_bytes(FILE)
    with (
        running(instance, upstream, *command, **more),
        nginx(
            instance, tmp_path, upstream=upstream, environment=routes,
            server=f"{address}:{upstream}",
        ) as (port, _),
    ):  # fmt: skip
        for _ in range(10):
            assert get(instance.address, port, "/proxy/page") == b"behind the proxy"
        assert get(instance.address, port, "/proxy/large") == FILE


def test_reloads_under_load(instance: Instance, tmp_path: Path) -> None:
    """No request fails. (With reuseport some do, natively as well: a worker's queue is lost.)"""
    with nginx(instance, tmp_path) as (port, process), Load(instance.address, port, PAGE) as load:
        for _ in range(RELOADS):
            before = set(children(process.pid))
            process.send_signal(signal.SIGHUP)
            until(lambda b=before: len(set(children(process.pid)) - b) == 4)
            load.more(10)
            assert load.failed == []


@contextmanager
def daemon(instance: Instance, folder: Path) -> Iterator[int]:
    """The port of an nginx in the background; whoever is its master ends."""
    port, command = configure(instance.address, folder, "single.conf")
    pid = folder / "nginx.pid"
    subprocess.run(command, env=instance.environment(), check=True)
    until(lambda: pid.exists() and pid.read_text().strip())
    try:
        yield port
    finally:
        master = int(pid.read_text())
        os.kill(master, signal.SIGTERM)
        until(lambda: not alive(master))
    assert complaints(folder) == []


def test_binary_upgrade(instance: Instance, tmp_path: Path) -> None:
    """USR2, WINCH, QUIT under load: the new binary inherits the listening socket."""
    with daemon(instance, tmp_path) as port, Load(instance.address, port, PAGE) as load:
        pid, old_pid = tmp_path / "nginx.pid", tmp_path / "nginx.pid.oldbin"
        for _ in range(3):
            old = int(pid.read_text())
            load.more(20)
            os.kill(old, signal.SIGUSR2)
            until(lambda: old_pid.exists() and pid.exists() and pid.read_text().strip())
            new = int(pid.read_text())
            assert new != old
            until(lambda m=new: len(children(m)) == 4)
            load.more(20)
            os.kill(old, signal.SIGWINCH)
            until(lambda m=old, n=new: children(m) in ([], [n]))
            load.more(20)
            os.kill(old, signal.SIGQUIT)
            until(lambda m=old: not alive(m))
            load.more(20)
            assert load.failed == []
