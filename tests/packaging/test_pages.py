"""Every block of README and docs/: its lines run, or a comment says what they need."""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig

import pytest
from common.commands import check, options
from pages import PAGES, Block, blocks
from test_readme import commands as two_commands  # .ci/run executes them

pytestmark = pytest.mark.timeout(600)

TERMINAL = pathlib.Path(__file__).with_name("terminal.py")
SCRIPTS = pathlib.Path(sysconfig.get_path("scripts"))
BLOCKS = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in BLOCKS if block.language == "sh"]

# What a comment "# needs ..." may name.
NEEDS = (
    "a C compiler",
    "CMake",
    "F-Stack",
    "a bare Debian",
    "a quiet machine",
)

# `app.py` and `package/module.py` of the pages but the tutorial's: an app for every server, and a
# script that serves.
APP = """
from aiohttp import web

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})

async def hello(request):
    return web.Response(text="hello")

def make_app():
    made = web.Application()
    made.add_routes([web.get("/", hello)])
    return made

if __name__ == "__main__":
    web.run_app(make_app(), port=8080)
"""
# A page whose lines look at what runs.
INSTANCE = ("ffloop instance --socket /run/ffloop.sock", None)
BEFORE = {"operations.md": [INSTANCE]}

Step = tuple[str, str | None]


def machine() -> list[str] | None:
    """What starts a process with a network, PIDs and a /run of its own."""
    if shutil.which("unshare") is None:
        return None
    how = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    for more in ([], ["--user", "--map-root-user"]):
        command = [*how, *more, "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh"]
        if subprocess.run([*command, "true"], stderr=-3, check=False).returncode == 0:
            return command
    return None


def steps(page: str) -> list[Step]:
    """The lines of the page that need nothing; what terminal 2 has, with the line of terminal 1."""
    found: list[Step] = []
    for block, after in itertools.pairwise([*(b for b in SHELL if b.page == page), None]):
        assert block
        if block.is_of_terminal(2) or block.text.strip() in two_commands():
            continue
        second = after.text if after and after.is_of_terminal(2) else None
        found += [(line, second) for line in block.lines()]
    return BEFORE.get(page, []) + found if found else []


@pytest.mark.parametrize("page", sorted({b.page for b in SHELL if steps(b.page)}))
def test_lines_run(page: str, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("aiohttp")
    pytest.importorskip("uvicorn")
    if (prefix := machine()) is None:
        pytest.skip("this user may not make namespaces")
    typed = " ".join(f"{one} {two}" for one, two in steps(page))
    for tool in ("cc", "curl", "nginx"):
        if re.search(rf"\b{tool} ", typed) and shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    write_files(page, tmp_path)
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("FFLOOP_", "XDG_"))}
    environ |= {"PATH": f"{SCRIPTS}:{environ['PATH']}", "PIP_NO_INDEX": "1"}
    environ |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [*prefix, sys.executable, "-P", TERMINAL],
        input=json.dumps(steps(page)),
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if page == "tutorial.md":  # "The answer names"
        assert done.stdout.count('{"loop": "DirectLoop"}') == 2
        assert done.stdout.count('{"loop": "SessionLoop"}') == 1


def write_files(page: str, folder: pathlib.Path) -> None:
    """Those that the page's commands name."""
    (folder / "package").mkdir()
    for name in ("app.py", "package/module.py"):
        (folder / name).write_text(APP)
    for block in BLOCKS:
        if block.page == page and block.title:
            (folder / block.title).write_text(block.text)
    (folder / "server.c").write_text(c_program())


def c_program() -> str:
    """The fragment of preload.md in a program."""
    [fragment] = [block.text for block in BLOCKS if block.language == "c"]
    around = (
        "#include <ff_syscall.h>\nint main(void) {\nstruct kevent events[512];\nint listener = 0;\n"
    )
    return f"#include <stddef.h>\n{around}{fragment}}}\n"


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.page)
def test_what_lines_need(block: Block) -> None:
    """Is one of a few words. A line that does not run has ffloop's options all the same."""
    assert all(needs.startswith(NEEDS) for needs in block.needs)
    for line in block.lines(everywhere=False):
        words = shlex.split(line, comments=True)
        words = [*itertools.dropwhile(lambda word: re.match(r"\w+=", word), words)]
        if words[:1] == ["ffloop"]:
            check([word for word in words[1:] if word != "&"])


def test_options_in_sentences() -> None:
    """Commands of ffloop's within the text."""
    found = [
        (command, option)
        for page in PAGES
        for command, rest in re.findall(r"`ffloop ([a-z]+) ([^`\n]*)`", page.read_text())
        for option in re.findall(r"--[a-z0-9-]+", rest)
    ]
    assert len(found) > 5
    assert [(command, option) for command, option in found if option not in options(command)] == []


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.language == "python"], ids=lambda block: block.page
)
def test_python_runs(block: Block) -> None:
    """A program; or a fragment in which main is the reader's."""
    if block.title or block.needs:
        compile(block.text, block.page, "exec")
        return
    program = "import asyncio\nasync def main(): pass\n" + block.text
    subprocess.run([sys.executable, "-P", "-c", program], check=True, timeout=60)


def test_every_block_is_of_a_kind() -> None:
    """One that a test here takes, or a figure, in which no line is a command."""
    commands = {line.split()[0] for block in SHELL for line in block.lines(everywhere=False)}
    for block in BLOCKS:
        if block.language not in ("sh", "python", "c"):
            first = {line.split()[0] for line in block.text.splitlines() if line.strip()}
            assert not block.language and not first & commands
