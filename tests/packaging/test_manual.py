"""The manual: installed, without a fault that mandoc knows, and with every option that there is."""

from __future__ import annotations

import importlib.metadata
import pathlib
import re
import shutil
import sysconfig

import pytest
from common.processes import completed

from ffloop._session import configuration

ROOT = pathlib.Path(__file__).resolve().parents[2]
FFLOOP = pathlib.Path(sysconfig.get_path("scripts"), "ffloop")
PAGES = ("ffloop.1", "ffloop-instance.8", "libff_syscall.7")


def installed(page: str) -> pathlib.Path:
    files = importlib.metadata.distribution("ffloop").files or ()
    found = [f for f in files if f.name == page and f.parent.parent.name == "man"]
    if not found:
        pytest.skip("an editable install: it has no manual")
    assert found[0].parent.name == f"man{page[-1]}"
    return pathlib.Path(str(found[0].locate())).resolve()


@pytest.mark.parametrize("page", PAGES)
def test_installed(page: str) -> None:
    assert installed(page).read_text() == (ROOT / "docs" / "man" / page).read_text()
    assert installed(page).is_relative_to(pathlib.Path(sysconfig.get_path("data")).resolve())


@pytest.mark.parametrize("page", PAGES)
def test_lint(page: str) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed (Debian: apt-get install mandoc)")
    done = completed("mandoc", "-T", "lint", ROOT / "docs" / "man" / page)
    # (Whether the other pages are installed is this machine's affair.)
    faults = [x for x in done.stdout.splitlines() if "referenced manual not found" not in x]
    assert not faults


def options_of_page(page: str, section: str = "") -> set[str]:
    text = (ROOT / "docs" / "man" / page).read_text()
    if section:
        text = text.partition(f".Ss {section}\n")[2].partition("\n.S")[0]
    return set(re.findall(r"^\.It Fl -([a-z0-9-]+)", text, re.M))


def options_of_help(*command: str) -> set[str]:
    done = completed(FFLOOP, *command, "--help", check=True)
    listed = (
        re.sub(r"^usage:.*?\n\n", "", done.stdout, flags=re.S)
        if "instance" not in command
        else done.stdout
    )
    return set(re.findall(r"(?<![\w-])--([a-z0-9]+(?:-[a-z0-9]+)*)", listed)) - {"help"}


def commands() -> list[str]:
    done = completed(FFLOOP, "--help", check=True)
    return re.findall(r"^    ([a-z]+) ", done.stdout, re.M)


def test_commands() -> None:
    text = (ROOT / "docs" / "man" / "ffloop.1").read_text()
    assert [f"ffloop {name}" for name in commands()] == re.findall(r"^\.Ss (.*)$", text, re.M)


@pytest.mark.parametrize("command", commands())
def test_options(command: str) -> None:
    if command == "instance":
        assert options_of_page("ffloop-instance.8") == options_of_help(command)
    else:
        assert options_of_page("ffloop.1", f"ffloop {command}") == options_of_help(command)


def variables(page: str) -> set[str]:
    text = (ROOT / "docs" / "man" / page).read_text()
    return set(re.findall(r"^\.It Ev (\w+)", text, re.M))


def test_variables() -> None:
    for page, user in (("ffloop.1", configuration.LOOP), ("libff_syscall.7", configuration.SHIM)):
        theirs = {name for name, one in configuration.SETTINGS.items() if one.users & user}
        assert variables(page) == theirs
