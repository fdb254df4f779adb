"""Programs that have more rights than who starts them (AT_SECURE) choose for themselves where their
data goes: neither the shim nor FFLOOP_INSTANCE reaches them."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from common.processes import completed

import ffloop

NOBODY = 65534
SHIM = Path(ffloop.__path__[0], "_native", "libff_syscall.so")


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that everybody may read, where set-user-id counts."""
    if os.getuid() != 0:
        pytest.skip("needs root, to make a set-user-id program")
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        if os.statvfs(made).f_flag & (os.ST_NOSUID | os.ST_NOEXEC):
            pytest.skip(f"{made} is mounted nosuid or noexec")
        yield Path(made)


def copied(program: str, folder: Path, mode: int) -> str:
    copy = shutil.copy(os.path.realpath(program), folder / f"copy-{mode:o}")
    os.chmod(copy, mode)
    return str(copy)


def output(command: list[str], **environ: str) -> str:
    done = completed(
        *command, env={**os.environ, **environ}, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_shim_is_not_loaded(folder):
    shim = shutil.copy(SHIM, folder)
    os.chmod(shim, 0o755)
    for mode, loaded in ((0o755, True), (0o4755, False)):
        cat = copied("/bin/cat", folder, mode)
        maps = output([cat, "/proc/self/maps"], LD_PRELOAD=str(shim))
        assert ("libff_syscall" in maps) == loaded


def test_python_ignores_the_environment(folder, tmp_path):
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from ffloop._session import choice, configuration\n"
        "config = configuration.load()\n"
        "print(config.instance, config.stack, list(choice.places(None, 0)))\n"
        "print(configuration.load(instance='/mine').instance)\n"
    )
    environ = {
        "FFLOOP_INSTANCE": "/theirs",
        "FFLOOP_STACK": "host",
        "FFLOOP_INSTANCE_EXECUTABLE": "/theirs",
        "XDG_RUNTIME_DIR": "/theirs",
    }
    python = copied(sys.executable, folder, 0o4755)
    said = output([python, "-c", code], **environ)
    assert said == "None None ['/run/ffloop/instance.sock']\n/mine\n"
    here = completed(sys.executable, "-c", code, env={**os.environ, **environ}, cwd=tmp_path)
    assert here.stdout.startswith("/theirs host ['/theirs/ffloop/instance.sock'"), here.stderr
