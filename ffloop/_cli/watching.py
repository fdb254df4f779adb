"""`ffloop run --reload`: a process that sends the supervisor SIGHUP when a file has changed."""

import importlib
import os
import signal
from collections.abc import Sequence

from .arguments import Refused
from .supervisor import end_with_parent


def start(folders: Sequence[str]) -> None:
    """Forks a process that sends this one SIGHUP whenever a Python file in the folders has changed.

    Raises Refused."""
    try:
        watchfiles = importlib.import_module("watchfiles")
    except ModuleNotFoundError:
        raise Refused("--reload needs watchfiles: pip install 'ffloop[reload]'") from None
    for folder in folders:
        if not os.path.isdir(folder):
            raise Refused(f"--reload-dir {folder}: no such directory")
    parent = os.getpid()
    if os.fork():
        return
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the supervisor ends first, then this
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        end_with_parent(parent)
        for _ in watchfiles.watch(*folders, watch_filter=watchfiles.PythonFilter()):
            os.kill(parent, signal.SIGHUP)
    finally:
        os._exit(0)
