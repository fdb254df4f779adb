"""A handler that runs between the beginning of a call and its sleep ends it (window.c)."""

import subprocess
from pathlib import Path

import pytest
from programs import need
from shim import NATIVE, Instance, python

pytestmark = pytest.mark.timeout(40)

HERE = Path(__file__).parent

PROGRAM = """
import ctypes, select, signal, sys, threading
from lib import buf, c, handler, pair
window = ctypes.c_int.in_dll(ctypes.CDLL(sys.argv[1]), "armed")

def call(what, b, ep):
    fd = buf(b.fileno().to_bytes(4, "little") + b"\\x01\\0\\0\\0")
    calls = {"recv": ("recv", b.fileno(), buf(1), 1, 0),
             "poll": ("poll", fd, 1, 5000),
             "epoll": ("epoll_wait", ep.fileno(), buf(12), 1, 5000)}
    window.value = 1
    return c(*calls[what])

signal.alarm(10)
with pair() as (a, b), handler(signal.SIGUSR1, restart=sys.argv[3] == "restart") as seen:
    ep = select.epoll()
    if sys.argv[2] == "epoll":
        ep.register(b, select.EPOLLIN)
    late = threading.Timer(0.5, a.sendall, (b"x",))
    if sys.argv[2:] == ["recv", "restart"]:
        late.start()
    print(call(sys.argv[2], b, ep), len(seen), window.value)
"""


@pytest.fixture(scope="session")
def window(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("cc")
    out = tmp_path_factory.mktemp("window") / "window.so"
    flags = ["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["cc", *flags, HERE / "window.c", "-o", out], check=True)
    return out


@pytest.mark.parametrize("restart", ["restart", "end"])
@pytest.mark.parametrize("what", ["recv", "poll", "epoll"])
def test_window(shared_instance: Instance, window: Path, what: str, restart: str) -> None:
    """read goes on after a handler with SA_RESTART; poll and epoll_wait never do."""
    environment = shared_instance.environment(PYTHONPATH=str(HERE))
    environment["LD_PRELOAD"] = f"{NATIVE / 'libff_syscall.so'}:{window}"
    done = python(PROGRAM, window, what, restart, env=environment)
    wanted = "1" if (what, restart) == ("recv", "restart") else "EINTR"
    assert (done.stdout.split(), done.stderr) == ([wanted, "1", "0"], "")
