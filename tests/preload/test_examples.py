"""examples/c: each is built and started as its first comment says, and serves."""

import http.client
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from programs import need
from shim import Instance

FOLDER = Path(__file__).parents[2] / "examples" / "c"
PROGRAMS = sorted(p.stem for p in FOLDER.glob("*.c"))
CONNECTIONS = 20
REQUESTS = 5


def commands(name: str) -> tuple[str, str]:
    """How to build it and how to start it (at ports of its own choice)."""
    comment = (FOLDER / f"{name}.c").read_text().partition("*/")[0].replace("\\\n *", "")
    lines = [line[2:].strip() for line in comment.splitlines() if line.startswith(" *     ")]
    build, start, curl = lines
    assert build.startswith("cc ") and curl.startswith("curl ")
    return build, re.sub(r"\b808\d\b", "0", start)


@contextmanager
def serving(name: str, folder: Path, instance: Instance) -> Iterator[list[int]]:
    """The ports that it says it listens at."""
    need("cc")
    environment = instance.environment()
    del environment["LD_PRELOAD"]  # `ffloop preload` sets it
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for source in FOLDER.iterdir():
        shutil.copy(source, folder)
    build, start = commands(name)
    build = build.replace("cc ", "cc -Wall -Wextra -Werror ")
    subprocess.run(build, shell=True, cwd=folder, env=environment, check=True)
    server = subprocess.Popen(
        f"exec env {start}",
        shell=True,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout
    try:
        wanted = 2 if "kernel" in name else 1
        yield [int(server.stdout.readline().removeprefix("port ")) for _ in range(wanted)]
        assert server.poll() is None
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def get(connection: http.client.HTTPConnection) -> bytes:
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert answer.status == 200
    return answer.read()


def test_all_are_here() -> None:
    assert PROGRAMS == ["epoll", "epoll_kernel", "epoll_threads", "kqueue", "kqueue_threads"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_serves(name: str, tmp_path: Path, instance: Instance) -> None:
    with serving(name, tmp_path, instance) as ports:
        threads = 2 if "threads" in name else 1
        assert [instance.holds(port) for port in ports] == [threads, 0][: len(ports)]
        for port in ports:
            many = [http.client.HTTPConnection("127.0.0.1", port) for _ in range(CONNECTIONS)]
            for _ in range(REQUESTS):
                for connection in many:
                    assert get(connection).endswith(b"Hello, world.\n")
            for connection in many:
                connection.close()
            last = http.client.HTTPConnection("127.0.0.1", port)
            assert get(last)
            last.close()
