"""What a program may count on, from C, natively and under the shim: the same.

Each program here is one kind of promise; cases.h says how they are built up.
"""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import need
from shim import Instance

HERE = Path(__file__).parent
PROGRAMS = (
    "streams",
    "numbers",
    "children",
    "shared",
    "passing",
    "states",
    "settings",
    "async",
    "storm",
    "small",
    "pointers",
    "prefork",
    "idle",
    "leaving",
)
FLAGS = ["-Wall", "-Wextra", "-Werror", "-O2", "-D_FORTIFY_SOURCE=2", "-pthread"]


def cases(program: str) -> list[str]:
    text = (HERE / f"{program}.c").read_text()
    sides = re.findall(r"^ASKED\((\w+)", text, re.MULTILINE)  # each of both ends
    single = re.findall(r"^(?:CASE|MADE)\((\w+)", text, re.MULTILINE)
    return single + [f"{side}_{name}" for name in sides for side in ("connected", "accepted")]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Builds a program of this folder, once."""
    compiler = need("cc")
    folder = tmp_path_factory.mktemp("contract")

    def build(program: str) -> Path:
        out = folder / program
        if not out.exists():
            subprocess.run([compiler, *FLAGS, HERE / f"{program}.c", "-o", out], check=True)
        return out

    return build


@pytest.mark.parametrize(("program", "case"), [(p, c) for p in PROGRAMS for c in cases(p)])
def test_same(built, instance: Instance, program: str, case: str) -> None:
    instance.same(built(program), case)
