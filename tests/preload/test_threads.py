"""threads.c, crossings.c and left.c: sockets that cross threads, threads that keep to themselves,
and calls that are left.

All runs twice: as it is, and with the program and the shim built with ThreadSanitizer, which must
find nothing at all.
"""

import asyncio
import re
import signal
import subprocess
from pathlib import Path

import pytest
from building import Build, placed
from common.processes import completed
from programs import need
from shim import NATIVE, Instance, python

HERE = Path(__file__).parent
NATIVE_RUN, PLAIN, TSAN = "native", "plain", "tsan"
CONNECTIONS = 24
SIZES = [0, 1, 3, 602, 4096, 70_000, 5, 300_000, 17, 20_000]  # bytes a request
ONE_LOCK: dict[str, str] = {}
PER_THREAD = {"FF_THREAD_SOCKET": "1"}


CROSSINGS = (HERE / "crossings.c").read_text()
CASES = re.findall(r"^CASE\((\w+)\)", CROSSINGS, re.MULTILINE)
LEFT = re.findall(r"^CASE\((\w+)\)", (HERE / "left.c").read_text(), re.MULTILINE)
OF_A_THREAD = re.findall(r"^OF_A_THREAD\((\w+)\)", CROSSINGS, re.MULTILINE)


class Programs:
    """Built when first asked for; `command` is how to run one under its shim."""

    def __init__(self, folder: Path, build: Build) -> None:
        self.folder, self.build = folder, build

    def program(self, name: str, kind: str) -> Path:
        compiler = need("cc")
        out = self.folder / f"{name}-{kind}"
        flags = ["-Wall", "-Wextra", "-Werror", "-O1", "-g", "-pthread"]
        flags += ["-fsanitize=thread"] if kind == TSAN else []
        if not out.exists():
            done = completed(compiler, *flags, HERE / f"{name}.c", "-o", out)
            if done.returncode and kind == TSAN:
                pytest.skip(f"-fsanitize=thread does not link here: {done.stderr[-300:]}")
            assert done.returncode == 0, done.stderr
        return out

    def command(self, name: str, kind: str, *args: str) -> list[str]:
        program = self.program(name, kind)
        if kind == NATIVE_RUN:
            return [str(program), *args]
        folder = self.build("thread", "ff_syscall") if kind == TSAN else NATIVE
        command = ["env", f"LD_PRELOAD={folder / 'libff_syscall.so'}", str(program), *args]
        return placed(command) if kind == TSAN else command


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory, build: Build) -> Programs:
    return Programs(tmp_path_factory.mktemp("threads"), build)


def environment(instance: Instance, more: dict[str, str]) -> dict[str, str]:
    """Without the shim: `env` brings it, so that `setarch` runs without."""
    made = instance.environment(TSAN_OPTIONS="exitcode=66 second_deadlock_stack=1", **more)
    del made["LD_PRELOAD"]
    return made


async def ask(port: int, first: int) -> None:
    """Sends all requests without waiting; checks every byte that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    pattern = bytes((first + k) & 255 for k in range(256))
    requests = [(pattern * (n // 256 + 1))[:n] for n in SIZES]
    higher = bytes((i + 1) & 255 for i in range(256))

    async def send() -> None:
        for request in requests:
            writer.write(len(request).to_bytes(4, "big") + request)
            await writer.drain()

    sending = asyncio.create_task(send())
    for request in requests:
        assert int.from_bytes(await reader.readexactly(4), "big") == len(request)
        assert await reader.readexactly(len(request)) == request.translate(higher)
    await sending
    writer.close()
    await writer.wait_closed()


async def load(port: int) -> None:
    """Connections come and go; many are open at a time."""
    async with asyncio.timeout(240):
        for _ in range(2):
            await asyncio.gather(*[ask(port, i) for i in range(CONNECTIONS)])


@pytest.mark.parametrize("kind", [PLAIN, TSAN])
@pytest.mark.parametrize(
    ("form", "mode"),
    [
        pytest.param("pipeline", ONE_LOCK, id="pipeline"),
        pytest.param("cores", ONE_LOCK, id="cores"),
        pytest.param("cores", PER_THREAD, id="cores-FF_THREAD_SOCKET"),
        pytest.param("data", ONE_LOCK, id="data"),
        pytest.param("data", PER_THREAD, id="data-FF_THREAD_SOCKET"),
    ],
)
def test_serves(
    programs: Programs, instance: Instance, form: str, mode: dict[str, str], kind: str
) -> None:
    server = subprocess.Popen(
        programs.command("threads", kind, form),
        env=environment(instance, mode),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stdout
    try:
        asyncio.run(load(int(server.stdout.readline() or 0)))
    finally:
        try:
            _, errors = server.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            server.kill()
            _, errors = server.communicate()
        print(errors)
    assert (server.returncode, errors) == (0, "")


CLOSING = ("churning", "close_of_the_epoll")


def races(errors: str) -> list[str]:
    """ThreadSanitizer's reports but those on descriptors: the program closes some while others use
    them, on purpose."""
    reports = errors.split("==================\n")
    return [r for r in reports if "WARNING" in r and "Location is file descriptor" not in r]


def run(
    command: list[str], instance: Instance, mode: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    env = environment(instance, mode)
    return completed(*command, env=env)


@pytest.mark.parametrize("kind", [NATIVE_RUN, PLAIN, TSAN])
@pytest.mark.parametrize("case", CASES)
def test_crossings(programs: Programs, instance: Instance, case: str, kind: str) -> None:
    done = run(programs.command("crossings", kind, case), instance, ONE_LOCK)
    if kind == TSAN and case in CLOSING and done.returncode == 66:
        assert races(done.stderr) == []
    else:
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("kind", [PLAIN, TSAN])
@pytest.mark.parametrize("case", OF_A_THREAD)
def test_sockets_of_a_thread(programs: Programs, instance: Instance, case: str, kind: str) -> None:
    """FF_THREAD_SOCKET: what is another thread's fails, says so once, and is not touched."""
    done = run(programs.command("crossings", kind, case), instance, PER_THREAD)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert "FF_THREAD_SOCKET=1: a socket or an epoll belongs to another thread" in done.stderr


@pytest.mark.parametrize("kind", [NATIVE_RUN, PLAIN])
@pytest.mark.parametrize("case", LEFT)
def test_left(programs: Programs, instance: Instance, case: str, kind: str) -> None:
    """A thread that is cancelled in a call, or jumps out of one, leaves nothing behind there."""
    done = run(programs.command("left", kind, case), instance, ONE_LOCK)
    assert (done.returncode, done.stderr) == (0, "")


# With as many descriptors as it may have, a thread attaches, which waits for a stopped instance;
# another closes a socket meanwhile, then lets the instance go on.
FULL = """
import errno, os, resource, signal, socket, sys, threading

def first():
    with socket.socket() as s:
        made.set()
        full.wait()
        print(errno.errorcode[s.connect_ex(("127.0.0.1", 1))], flush=True)

made, full = threading.Event(), threading.Event()
thread = threading.Thread(target=first)
thread.start()
made.wait()
mine = socket.socket()
limits = os.open("/proc/self/limits", os.O_RDONLY)

def soft():
    line = next(x for x in os.pread(limits, 4096, 0).splitlines() if x.startswith(b"Max open"))
    return int(line.split()[3])

free = os.dup(0)
os.close(free)
resource.setrlimit(resource.RLIMIT_NOFILE, (free, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
full.set()
while soft() == free:
    pass
mine.close()
print("closed", resource.getrlimit(resource.RLIMIT_NOFILE)[0] == free, flush=True)
os.kill(int(sys.argv[1]), signal.SIGCONT)
thread.join()
print(soft() == free)
"""


def test_an_attach_at_the_limit_holds_up_nobody(instance: Instance) -> None:
    instance.process.send_signal(signal.SIGSTOP)
    try:
        done = python(FULL, str(instance.process.pid), env=instance.environment(**PER_THREAD))
    finally:
        instance.process.send_signal(signal.SIGCONT)
    assert done.stderr == ""
    assert done.stdout == "closed True\nECONNREFUSED\nTrue\n"
