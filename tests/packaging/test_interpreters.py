"""What is built with one interpreter works on each other (abi3), for a few thousand requests.

Some faults show late: a reference that is not counted costs None its life after some 1,500.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from common.processes import completed
from interpreters import found

import ffloop

HERE = Path(__file__).resolve().parent
INTERPRETERS = found()
MINE = sys.version_info[:2]
OTHERS = [one for one in INTERPRETERS if one != MINE]

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not OTHERS, reason="no other supported Python with its headers is here"),
]


def name(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def call(*argv: str | Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("FFLOOP_", "PYTHON"))}
    if path is not None:
        env["PYTHONPATH"] = os.pathsep.join(map(str, sorted(path.iterdir())))
    return completed(*argv, env=env, stdin=subprocess.DEVNULL, cwd=HERE, timeout=None)


def pip(version: tuple[int, int], *argv: str | Path, path: Path | None = None) -> str:
    """Its error output; "" when all went well."""
    python = INTERPRETERS[version]
    done = call(sys.executable, "-m", "pip", "--python", python, *argv, path=path)
    return done.stderr if done.returncode else ""


Folder = Callable[[tuple[int, int], str], Path]


@pytest.fixture(scope="module")
def needs(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """needs(version, package): a folder that holds a folder with it, for that interpreter."""
    made: dict[tuple[tuple[int, int], str], Path] = {}

    def get(version: tuple[int, int], package: str) -> Path:
        key = version, package
        if key not in made:
            folder = tmp_path_factory.mktemp("needs")
            if why := pip(version, "install", "-q", "--target", folder / "0", *package.split()):
                pytest.skip(f"pip has no {package} for Python {name(version)}: {why[-500:]}")
            made[key] = folder
        return made[key]

    return get


@pytest.fixture(scope="module")
def built(needs: Folder, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """built(version): a folder that holds the package, built with that interpreter."""
    made: dict[tuple[int, int], Path] = {MINE: Path(ffloop.__file__).parents[1] / "ffloop"}

    def get(version: tuple[int, int]) -> Path:
        if version not in made:
            tools = needs(version, "scikit-build-core>=1.1 cffi>=2.1 cmake>=3.26 ninja")
            folder = tmp_path_factory.mktemp("built")
            source = HERE.parents[1]
            how = ["--no-deps", "--no-build-isolation", "--target", folder, source]
            why = pip(version, "install", "-q", *how, path=tools)
            assert not why
            made[version] = folder / "ffloop"
        return made[version]

    return get


# With the newest and with this one; on each. Every other pair differs less.
PAIRS = [(one, other) for one in {max(INTERPRETERS), MINE} for other in OTHERS + [MINE]]


@pytest.mark.parametrize(
    ("maker", "user"),
    sorted((one, other) for one, other in PAIRS if one != other),
    ids=name,
)
def test_what_one_builds_another_runs(
    maker: tuple[int, int],
    user: tuple[int, int],
    built: Callable[..., Path],
    needs: Folder,
    tmp_path: Path,
) -> None:
    package = built(maker)
    path = tmp_path / "path"
    path.mkdir()
    (path / "0").symlink_to(needs(user, "cffi>=2.1") / "0")
    shutil.copytree(package, path / "1" / "ffloop", ignore=shutil.ignore_patterns("__pycache__"))
    done = call(INTERPRETERS[user], HERE / "busy_program.py", path=path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"7000 answers on Python {name(user)}."), done.stderr
