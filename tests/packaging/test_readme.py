"""README's two commands and what it says of the files it names."""

from __future__ import annotations

import pathlib
import re
import shlex

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    """The fenced blocks under "Two commands", which .ci/run executes as they stand."""
    section = README.split("## Two commands")[1].split("\n## ")[0]
    return re.findall(r"```sh\n(.*?)\n```", section, re.S)


def test_two_commands_of_one_line() -> None:
    found = commands()
    assert len(found) == 2
    for command in found:
        assert "\n" not in command
        assert shlex.split(command)[0] == "apt-get"
    assert "pytest" in found[1]
    assert "python -m pytest" not in found[1]  # it would import the source tree


def test_named_files_exist() -> None:
    named = set(re.findall(r"\]\(([\w./-]+)\)", README))
    named |= set(re.findall(r"`((?:docs|examples|benchmarks|tests)/[\w./-]+)`", README))
    named |= set(re.findall(r"(?:docs|examples)/[\w/-]+\.(?:md|py)", README))
    assert named
    missing = [name for name in sorted(named) if not (ROOT / name).exists()]
    assert not missing
