"""A rolling update of the pods in examples/deploy/kubernetes/sidecar.yaml, with unshare in the
kubelet's place: every request that is sent meanwhile is answered.

A container has PIDs, mounts and a user namespace of its own, and the manifest's command, probe and
environment; the containers of a pod share the volume with the instance's socket.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sysconfig
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from common.ports import unused_port

yaml = pytest.importorskip("yaml")
pytest.importorskip("aiohttp")

MANIFEST = pathlib.Path(__file__).resolve().parents[2] / "examples/deploy/kubernetes/sidecar.yaml"
CONTAINER = (
    *("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child"),
    "--mount-proc",
)
VOLUME = """
mount -t tmpfs none /run
mkdir /run/ffloop
mount --bind "$0" /run/ffloop
exec "$@"
"""
GRACE = "0.1"  # in place of the manifest's, in seconds
APP = """
import asyncio, os, pathlib
from aiohttp import web

async def hello(request):
    return web.Response(text=os.environ["POD"])

async def long(request):
    pathlib.Path(os.environ["POD"], "begun").touch()
    await ended.wait()
    return web.Response(text="at last")

async def end(app):
    ended.set()

ended = asyncio.Event()
app = web.Application()
app.on_shutdown.append(end)
app.router.add_get("/", hello)
app.router.add_get("/long", long)
"""


def unshares() -> bool:
    done = subprocess.run([*CONTAINER, "true"], stderr=subprocess.DEVNULL, check=False)
    return done.returncode == 0


pytestmark = [
    pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed"),
    pytest.mark.skipif(not unshares(), reason="this user may not make namespaces"),
]


def spec() -> dict[str, Any]:
    deployment = next(iter(yaml.safe_load_all(MANIFEST.read_text())))
    found: dict[str, Any] = deployment["spec"]
    return found


class Pod:
    """An instance as a sidecar, and the application once the instance answers its probe."""

    def __init__(self, name: str, folder: pathlib.Path) -> None:
        self.name, self.folder, self.port = name, folder, unused_port()
        self.volume = folder / name  # the app writes there, too
        self.volume.mkdir()
        template = spec()["template"]["spec"]
        [self.sidecar], [self.app] = template["initContainers"], template["containers"]
        self.instance = self.start(self.sidecar)
        while not self.started():
            assert self.instance.poll() is None
        self.workers = self.start(self.app)
        while not self.ready():
            assert self.workers.poll() is None

    def command(self, words: list[str]) -> list[str]:
        given = {"8000": str(self.port), "10": GRACE} if "run" in words else {}
        program = f"{sysconfig.get_path('scripts')}/{words[0]}"
        return [program, *(given.get(word, word) for word in words[1:])]

    def started(self) -> bool:
        """The probe, in the sidecar itself."""
        if (first := first_process(self.instance)) is None:
            return False
        words = self.command(self.sidecar["startupProbe"]["exec"]["command"])
        probe = ["nsenter", f"--target={first}", "--user", "--mount", "--pid", *words]
        return not subprocess.run(probe, stdout=-3, stderr=-3, check=False).returncode

    def start(self, container: dict[str, Any]) -> subprocess.Popen[bytes]:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("FFLOOP_")}
        environ |= {each["name"]: each["value"] for each in container.get("env", [])}
        environ |= {"POD": self.name}
        command = [*CONTAINER, "sh", "-ec", VOLUME, str(self.volume)]
        return subprocess.Popen(
            [*command, *self.command(container["command"])],
            env=environ,
            cwd=self.folder,
            stdout=-3,
        )

    def ready(self) -> bool:
        path = self.app["readinessProbe"]["httpGet"]["path"]
        try:
            return bool(urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}"))
        except OSError:
            return False

    def begun(self) -> None:
        """Returns when the long request is under way."""
        while not (self.volume / "begun").exists():
            assert self.workers.poll() is None

    def terminate(self) -> None:
        """The application, then its sidecar; each ends well."""
        for process in (self.workers, self.instance):
            first = first_process(process)
            assert first is not None
            os.kill(first, signal.SIGTERM)
            assert process.wait() == 0

    def kill(self) -> None:
        for process in (self.workers, self.instance):
            process.kill()  # and the container with it
            process.wait()


def first_process(container: subprocess.Popen[bytes]) -> int | None:
    """Its process 1, by the PID outside: unshare itself hands no signal on."""
    pid = container.pid
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else None


class Service:
    """Leads each request to one pod after the other, of those that are ready."""

    def __init__(self, pods: list[Pod]) -> None:
        self.pods = pods
        self.turns = 0
        self.changed = threading.Condition()
        self.under_way: collections.Counter[str] = collections.Counter()  # by pod
        self.answered: set[str] = set()  # pods
        self.failures: list[bytes] = []

    def ask(self) -> None:
        """A request on a connection of its own."""
        with self.changed:
            self.turns += 1
            pod = self.pods[self.turns % len(self.pods)]
            self.under_way[pod.name] += 1
        answer = get(pod.port, "/")
        with self.changed:
            self.under_way[pod.name] -= 1
            if answer == pod.name.encode():
                self.answered.add(pod.name)
            else:
                self.failures.append(answer)
            self.changed.notify()

    def until(self, pod: Pod) -> None:
        """The pod has answered."""
        with self.changed:
            self.changed.wait_for(lambda: pod.name in self.answered or self.failures)
        assert not self.failures, self.failures[:5]

    def replace(self, old: Pod, new: Pod) -> None:
        """Returns when nothing that was sent to the old pod waits there, as after preStop."""
        with self.changed:
            self.pods[self.pods.index(old)] = new
            self.changed.wait_for(lambda: not self.under_way[old.name])


def get(port: int, path: str) -> bytes:
    """The body of an answer 200; of another, all; of none, the exception."""
    try:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = sock.makefile("rb").read()
    except OSError as exc:
        return repr(exc).encode()
    head, _, body = answer.partition(b"\r\n\r\n")
    return body if head.startswith(b"HTTP/1.1 200 ") else answer


@contextlib.contextmanager
def load(service: Service) -> Iterator[None]:
    """Four clients that ask, each one request after the other."""
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            service.ask()

    with concurrent.futures.ThreadPoolExecutor(4) as clients:
        asking = [clients.submit(ask) for _ in range(4)]
        try:
            yield
        finally:
            ended.set()
    assert not [each.exception() for each in asking if each.exception()]


def test_a_rolling_update(tmp_path: pathlib.Path) -> None:
    """Also a request that is under way for longer than the pod is to live."""
    (tmp_path / "app.py").write_text(APP)
    assert spec()["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    with contextlib.ExitStack() as ended:

        def pod(name: str) -> Pod:
            made = Pod(name, tmp_path)
            ended.callback(made.kill)
            return made

        old = [pod(f"old-{n}") for n in range(spec()["replicas"])]
        service = Service(list(old))
        with load(service), concurrent.futures.ThreadPoolExecutor(1) as patient:
            for n, each in enumerate(old):
                new = pod(f"new-{n}")
                service.until(each)
                long = patient.submit(get, each.port, "/long")
                each.begun()
                service.replace(each, new)
                each.terminate()
                assert long.result() == b"at last"
                service.until(new)
    assert not service.failures, service.failures[:5]
