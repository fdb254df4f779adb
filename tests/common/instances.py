"""Instances as processes of a test's own."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from typing import Any

from ffloop._session import discovery


def start(
    path: str | os.PathLike[str],
    *options: str,
    prefix: tuple[str, ...] = (),
    executable: str = "",
    **popen: Any,
) -> "subprocess.Popen[bytes]":
    """An instance that listens at `path`, once it is ready; `prefix` is what starts it (prlimit),
    `executable` the installed one, unless told. AssertionError, with its words where stderr is a
    pipe, when it does not start."""
    command = [*prefix, executable or discovery.executable(), "--socket", os.fspath(path), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, **popen)
    assert process.stdout
    ready = process.stdout.readline()
    if not ready.startswith(b"ffloop instance ready"):
        process.kill()
        said = process.communicate()[1]
        raise AssertionError(f"the instance did not start: {said!r}")
    return process


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ends it, also one that was stopped, and forgets it."""
    process.kill()
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()


@contextlib.contextmanager
def running(
    path: str | os.PathLike[str], *options: str, **popen: Any
) -> Iterator["subprocess.Popen[bytes]"]:
    """An instance for the time of the block."""
    process = start(path, *options, **popen)
    try:
        yield process
    finally:
        stop(process)
