"""An instance of a test's own, and the environment of programs under the shim."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import instances
from common.processes import completed

import ffloop
from ffloop._session import stats_page

# For programs on F-Stack: where kernel sockets reach the stack, and where nobody answers.
PLACES = ("SERVER", "SILENT")
NATIVE = Path(ffloop.__path__[0], "_native")


def python(code: str, *args: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A Python program, run to its end."""
    return completed(sys.executable, "-P", "-c", code, *args, env=env)


class Instance:
    """An instance of our own, on the host stack unless told; the number-th of several. `stop`
    ends it. Servers on it are at `address`; what is on it too reaches them at `mirror`, and
    kernel sockets at `peer`."""

    address = mirror = peer = "127.0.0.1"

    def __init__(self, folder: Path, *options: str, number: int = 0, executable: str = "") -> None:
        self.path = str(folder / f"instance{f'-{number}' if number else ''}.sock")
        self.log = folder / f"instance-{number}.log"
        with self.log.open("wb") as log:
            self.process = instances.start(self.path, *options, executable=executable, stderr=log)

    def environment(self, **more: str) -> dict[str, str]:
        """Of a program under the shim."""
        return self.environment_of(self.path, **more)

    @staticmethod
    def environment_of(path: str, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("FFLOOP", "FF_"))}
        return {
            **kept,
            "LD_PRELOAD": str(NATIVE / "libff_syscall.so"),
            "FFLOOP_INSTANCE": path,
            **more,
        }

    def same(self, *command: str | Path, **more: str) -> None:
        """The program does well natively, and the same under the shim, on the stack."""
        accepts = self.stats().totals["accepts"]
        shimmed = self.environment(**more)
        plain = {k: v for k, v in shimmed.items() if k not in ("LD_PRELOAD", *PLACES)}
        seen = []
        for environment in (plain, shimmed):
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            seen.append((done.returncode, done.stdout, done.stderr))
        assert seen[0][0] == 0, seen[0]
        assert seen[1] == seen[0]
        assert self.stats().totals["accepts"] > accepts, "not on the stack"

    def holds(self, port: int) -> int:
        """How many of this kernel's TCP sockets at a local port are this instance's."""
        inodes = set()
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
        fds = Path("/proc", str(self.process.pid), "fd")
        return sum(os.readlink(fd) in inodes for fd in fds.iterdir())

    def stats(self) -> stats_page.Instance:
        """What its page shows, but for each socket."""
        return stats_page.read(self.process.pid, sockets=False)

    def drained(self) -> None:
        """Until it has no session and no socket; AssertionError when that does not come."""
        late = time.monotonic() + 60
        while (seen := self.stats()).open_sockets or seen.sessions:
            assert time.monotonic() < late, f"left behind: {seen}"
            time.sleep(0.005)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()


class OnFStack(Instance):
    """The session's instance on the real F-Stack (fstack/net.py); `stop` leaves it running. With
    `loopback`, the library built from mirror.c, programs find each other at loopback addresses."""

    loopback: Path | None = None

    def __init__(self, fstack: Any) -> None:
        from fstack import net

        self.fstack, self.path, self.process = fstack, fstack.path, fstack.process
        self.address, self.mirror, self.peer = net.STACK, net.MIRROR[net.STACK], net.PEER
        self.places = dict(zip(PLACES, (net.STACK, net.SILENT), strict=True))

    def environment(self, **more: str) -> dict[str, str]:
        environment = super().environment(**more)
        if self.loopback is None:
            return environment
        libraries = f"{self.loopback}:{environment['LD_PRELOAD']}"
        routes = "0.0.0.0/0=stack,::/0=stack"
        return {**environment, **self.places, "FFLOOP_ROUTES": routes, "LD_PRELOAD": libraries}

    def stop(self) -> None:
        self.fstack.revive()
