"""The fenced blocks of README and docs/."""

from __future__ import annotations

import pathlib
import re
import textwrap
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCED = re.compile(r'^( *)```(\w*)(?: title="([^"]*)")?\n(.*?)^\1```$', re.M | re.S)
_NEEDS = re.compile(r"# needs (.*)$")
_ALL_NEED = re.compile(r"^Every command of this page needs (.*)\.$", re.M)


@dataclass(frozen=True)
class Block:
    """`needs`: what its lines take that not every machine has, as a comment says ("# needs ...":
    of its line, or of all the block where it is a line of its own), or the page."""

    page: str
    language: str
    title: str
    text: str
    all_need: tuple[str, ...]

    @property
    def needs(self) -> list[str]:
        lines = self.text.splitlines()
        return [*self.all_need, *(found[1] for line in lines if (found := _NEEDS.search(line)))]

    def is_of_terminal(self, number: int) -> bool:
        return self.text.startswith(f"# terminal {number}\n")

    def lines(self, everywhere: bool = True) -> list[str]:
        """The command lines; with `everywhere` those only that need nothing."""
        found = self.text.replace("\\\n", " ").splitlines()
        if everywhere:
            if self.all_need or any(line.startswith("# needs ") for line in found):
                return []
            found = [line for line in found if not _NEEDS.search(line)]
        return [line for line in found if line and not line.startswith("#")]


def blocks(page: pathlib.Path) -> list[Block]:
    text = page.read_text()
    all_need = tuple(_ALL_NEED.findall(text))
    return [
        Block(page.name, language, title, textwrap.dedent(body), all_need)
        for _, language, title, body in _FENCED.findall(text)
    ]
