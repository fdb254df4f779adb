"""An instance of a test's own, and the environment of programs under the shim."""

import os
import subprocess
from pathlib import Path

import ffloop

NATIVE = Path(ffloop.__path__[0], "_native")


class Instance:
    """A host instance of our own; `stop` ends it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.path = str(folder / "instance.sock")
        self.log = folder / "instance.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [NATIVE / "ffloop-instance", "--socket", self.path, *options],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout
        self.process.stdout.readline()  # ready

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

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        assert self.process.stdout
        self.process.stdout.close()
