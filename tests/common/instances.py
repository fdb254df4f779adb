"""Instances as processes of a test's own."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from typing import Any

from ffloop._session import discovery


def launch(
    path: str | os.PathLike[str],
    *options: str,
    prefix: tuple[str, ...] = (),
    executable: str = "",
    **popen: Any,
) -> "subprocess.Popen[bytes]":
    """An instance that is to listen at `path`; `prefix` is what starts it (prlimit), `executable`
    the installed one unless told."""
    command = [*prefix, executable or discovery.executable(), "--socket", os.fspath(path), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, **popen)


def come_up(process: "subprocess.Popen[bytes]") -> bytes:
    """Its start-up line, once it is ready. AssertionError, with what it said where stderr is a
    pipe, when it does not start."""
    assert process.stdout
    ready = process.stdout.readline()
    if not ready.startswith(b"ffloop instance ready"):
        process.kill()
        said = process.communicate()[1]
        raise AssertionError(f"the instance did not start: {said!r}")
    return ready


def start(path: str | os.PathLike[str], *options: str, **how: Any) -> "subprocess.Popen[bytes]":
    """launch, and come_up."""
    process = launch(path, *options, **how)
    come_up(process)
    return process


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ends it, also one that was stopped, and forgets it."""
    process.kill()
    process.wait()
    if process.stdout and not process.stdout.closed:
        process.stdout.read()  # to its end: the instance itself has gone, not only its prefix
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
