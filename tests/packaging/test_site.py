"""The documents: what they name is there, and the tutorial's commands do what it says."""

from __future__ import annotations

import itertools
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sysconfig
from collections.abc import Iterator

import pytest
from common.commands import check
from common.ports import unused_port

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SCRIPTS = pathlib.Path(sysconfig.get_path("scripts"))
MKDOCS = SCRIPTS / "mkdocs"


def test_every_page_is_in_the_site() -> None:
    listed = re.findall(r": ([\w-]+\.md)$", (ROOT / ".ci" / "mkdocs.yml").read_text(), re.M)
    assert sorted(listed) == sorted(path.name for path in DOCS.glob("*.md"))


def test_no_link_is_broken(tmp_path: pathlib.Path) -> None:
    if not MKDOCS.exists():
        pytest.skip("mkdocs is not installed: pip install '.[docs]'")
    command = [MKDOCS, "build", "--strict", "-f", ROOT / ".ci" / "mkdocs.yml", "-d", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "api.html").read_text().count("doc-heading") > 20


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_lists_are_lists_in_the_site(page: pathlib.Path) -> None:
    """A block in an item is indented by four, and the next number stands apart from it."""
    assert not re.findall(r"^ {1,3}```.*$", page.read_text(), re.M)
    assert not re.findall(r"^ {4}.*\n\d+\. .*$", page.read_text(), re.M)


def lines() -> Iterator[list[str]]:
    """The words of every command line in the pages and README, without variables before it."""
    for page in (*DOCS.glob("*.md"), ROOT / "README.md"):
        for block in re.findall(r"^ *```sh.*?\n(.*?)^ *```", page.read_text(), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                words = itertools.dropwhile(
                    lambda word: re.match(r"\w+=", word), shlex.split(line, comments=True)
                )
                yield list(words)


def test_commands() -> None:
    """They are ffloop's, with options that there are."""
    found = [words[1:] for words in lines() if words[:1] == ["ffloop"]]
    assert len(found) > 25
    for argv in found:
        check([word for word in argv if word not in ("&", ">/dev/null")])


def test_the_tests_that_are_named() -> None:
    """Of asked.md."""
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (DOCS / "asked.md").read_text())
    assert len(named) > 20
    missing = [
        (path, name)
        for path, name in named
        if not (ROOT / path).exists() or (name and f"def {name}(" not in (ROOT / path).read_text())
    ]
    assert not missing


def blocks() -> list[tuple[str, str]]:
    """Those of the tutorial: (title, or language; text)."""
    text = (DOCS / "tutorial.md").read_text()
    found = re.findall(r'```(\w+)(?: title="([^"]*)")?\n(.*?)```', text, re.S)
    return [(title or language, body) for language, title, body in found]


def steps() -> list[tuple[str, str]]:
    """(what runs in terminal 1, what in terminal 2 meanwhile)."""
    given = blocks()
    return [
        (one, two)
        for (first, one), (second, two) in itertools.pairwise(given)
        if (first, second) == ("terminal 1", "terminal 2")
    ]


def test_the_tutorial_has_no_other_commands() -> None:
    """But the installation, `ffloop doctor`, and what needs F-Stack."""
    titles = [title for title, _ in blocks()]
    assert titles.count("terminal 1") == titles.count("terminal 2") == len(steps()) == 3
    rest = [title for title in titles if not title.startswith("terminal")]
    assert rest == ["sh", "app.py", "sh", "needs F-Stack"]


@pytest.mark.parametrize("number", range(3))
def test_the_tutorial(number: int, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("aiohttp")
    (tmp_path / "app.py").write_text(dict(blocks())["app.py"])
    one, two = (text.replace("8000", str(unused_port())) for text in steps()[number])
    port = re.search(r"127\.0\.0\.1:(\d+)", two)
    assert port
    one = re.sub(r"--port \d+", f"--port {port[1]}", one)
    two = re.sub(r"--port \d+", f"--port {port[1]}", two)
    env = {k: v for k, v in os.environ.items() if not k.startswith("FFLOOP_")}
    env["PATH"] = f"{SCRIPTS}:{env['PATH']}"
    env["XDG_RUNTIME_DIR"] = str(tmp_path)
    terminal = ["bash", "-ec"]
    with subprocess.Popen([*terminal, f"exec {one}"], cwd=tmp_path, env=env) as first:
        try:
            two = two.replace(
                "curl http", "curl --retry 20 --retry-connrefused --retry-delay 1 http"
            )
            if "instance" in one:
                two = f"until [ -S instance.sock ]; do sleep 0.1; done\n{two}"
            done = subprocess.run(
                [*terminal, f"set -m; {two}"],
                cwd=tmp_path,
                env=env,
                stdout=subprocess.PIPE,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, done
            assert ("SessionLoop" if "instance" in one else "DirectLoop") in done.stdout
        finally:
            first.send_signal(signal.SIGINT)
        assert first.wait(20) == 0  # Ctrl-C
