"""A handler that runs between the beginning of a call and its sleep ends it (common/window.c)."""

from pathlib import Path

import pytest
from shim import NATIVE, Instance, python

HERE = Path(__file__).parent

PROGRAM = """
import ctypes, select, signal, sys, threading, time
from lib import buf, c, handler, pair
window = ctypes.c_int.in_dll(ctypes.CDLL(sys.argv[1]), "armed")

def call(what, b, ep):
    fd = buf(b.fileno().to_bytes(4, "little") + b"\\x01\\0\\0\\0")
    calls = {"recv": ("recv", b.fileno(), buf(1), 1, 0),
             "poll": ("poll", fd, 1, 60000),
             "epoll": ("epoll_wait", ep.fileno(), buf(12), 1, 60000)}
    window.value = signal.SIGUSR1
    if sys.argv[2:] == ["recv", "restart"]:
        threading.Thread(target=send_late).start()
    return c(*calls[what])

def send_late():
    while window.value:
        time.sleep(0.01)
    a.sendall(b"x")

signal.alarm(120)
with pair() as (a, b), handler(signal.SIGUSR1, restart=sys.argv[3] == "restart") as seen:
    ep = select.epoll()
    if sys.argv[2] == "epoll":
        ep.register(b, select.EPOLLIN)
    print(call(sys.argv[2], b, ep), len(seen), window.value)
"""


@pytest.mark.parametrize("restart", ["restart", "end"])
@pytest.mark.parametrize("what", ["recv", "poll", "epoll"])
def test_window(shared_instance: Instance, window: Path, what: str, restart: str) -> None:
    """read goes on after a handler with SA_RESTART; poll and epoll_wait never do."""
    environment = shared_instance.environment(PYTHONPATH=str(HERE))
    environment["LD_PRELOAD"] = f"{NATIVE / 'libff_syscall.so'}:{window}"
    done = python(PROGRAM, window, what, restart, env=environment)
    wanted = "1" if (what, restart) == ("recv", "restart") else "EINTR"
    assert (done.stdout.split(), done.stderr) == ([wanted, "1", "0"], "")
