"""The documentation's site, and what its pages name."""

from __future__ import annotations

import pathlib
import re
import sysconfig

import pytest
from common.processes import completed

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
    done = completed(*command)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "api.html").read_text().count("doc-heading") > 20


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_lists_are_lists_in_the_site(page: pathlib.Path) -> None:
    """A block in an item is indented by four, and the next number stands apart from it."""
    assert not re.findall(r"^ {1,3}```.*$", page.read_text(), re.M)
    assert not re.findall(r"^ {4}.*\n\d+\. .*$", page.read_text(), re.M)


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
