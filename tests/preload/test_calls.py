"""Every call that the shim has, from a C program (calls.c), natively and under the shim: the same.

Built as programs are: with the fortified twins, and with 64-bit offsets.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from common.processes import completed
from programs import need
from shim import NATIVE, Instance

HERE = Path(__file__).parent
CASES = re.findall(r"^(?:CASE|EXEC)\((\w+)", (HERE / "calls.c").read_text(), re.MULTILINE)

BUILDS = {
    "fortified": ["-O2", "-D_FORTIFY_SOURCE=2"],
    "more-fortified": ["-O2", "-D_FORTIFY_SOURCE=3", "-D_FILE_OFFSET_BITS=64"],
}
# What programs call, beside CPython's. fork and the pread family need no name of ours.
EXPORTED = """
    socket bind listen accept accept4 connect shutdown close close_range closefrom dup dup2 dup3
    fcntl fcntl64 ioctl getsockname getpeername getsockopt setsockopt read readv recv recvfrom
    recvmsg recvmmsg preadv2 pwritev2 write writev send sendto sendmsg sendmmsg sendfile sendfile64
    splice poll ppoll select pselect epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait
    epoll_pwait2 vfork _Fork clone setrlimit prlimit posix_spawn posix_spawnp execl execle execlp
    execv execve execveat execvp execvpe fexecve _exit _Exit __read_chk __recv_chk __recvfrom_chk
    __poll_chk __ppoll_chk kqueue kevent syscall bindresvport
"""
# What makes a descriptor, and streams.
MAKERS = """
    open open64 openat openat64 creat creat64 __open_2 __open64_2 __openat_2 __openat64_2 pipe pipe2
    socketpair eventfd timerfd_create signalfd memfd_create inotify_init inotify_init1 mkstemp
    mkostemp mkstemps mkostemps shm_open posix_openpt fopen fopen64 tmpfile popen dprintf vdprintf
    __dprintf_chk __vdprintf_chk
"""
UNTOUCHED = "pread pread64 preadv preadv64 pwrite pwrite64 pwritev fork"


def symbols(path: Path, *which: str) -> set[str]:
    nm = shutil.which("nm")
    if not nm:
        pytest.skip("no nm")
    done = completed(nm, "-D", *which, path, check=True)
    return {line.split()[-1].partition("@")[0] for line in done.stdout.splitlines()}


@pytest.fixture(scope="session", params=BUILDS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = need("cc")
    out = tmp_path_factory.mktemp("calls") / "calls"
    command = [compiler, "-Wall", "-Wextra", "-Werror", *BUILDS[request.param]]
    subprocess.run([*command, HERE / "calls.c", "-o", out], check=True)
    return out


@pytest.mark.parametrize("case", CASES)
def test_call(program: Path, instance: Instance, case: str) -> None:
    instance.same(program, case)


def test_the_program_calls_the_twins(program: Path) -> None:
    called = symbols(program, "--undefined-only")
    assert {n for n in EXPORTED.split() if n.endswith("_chk")} <= called
    assert ("sendfile64" in called) == ("fcntl64" in called) == ("pread64" in called)


def test_exports() -> None:
    exported = symbols(NATIVE / "libff_syscall.so", "--defined-only")
    assert set((EXPORTED + MAKERS).split()) <= exported
    assert not exported & set(UNTOUCHED.split())
