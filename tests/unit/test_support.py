"""docs/asyncio-support.md says what the code does."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

_PATH = pathlib.Path(__file__).parents[1] / "conformance" / "support.py"
_spec = importlib.util.spec_from_file_location("ffloop_conformance_support", _PATH)
support = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(support)


def test_the_document_is_up_to_date():
    done = subprocess.run([sys.executable, _PATH, "--check"], cwd="/")
    assert done.returncode == 0, "what runs where has changed: run tests/conformance/support.py"


def test_every_loop_method_is_in_it():
    listed = {*support.SOCKETS, *support.SCHEDULING}
    assert listed >= set(support.public(asyncio.AbstractEventLoop))
    assert not set(support.SOCKETS) & set(support.SCHEDULING)


def test_where_is_asked_of_the_code():
    assert support.where(("create_server",)) == "stack"
    assert support.where(("create_unix_server",)) == "kernel"
    with pytest.raises(AssertionError, match="no_such_method"):
        support.where(("no_such_method",))


def test_the_counts_are_of_these_exceptions():
    """What ffloop passed is all but the lines of exceptions.txt."""
    counts = json.loads(support.COUNTS.read_text())
    assert {version.rpartition(".")[0] for version in counts} >= {"3.11", "3.12", "3.13"}
    for version, loops in counts.items():
        ours = loops["ffloop"].values()
        failed = sum(module["tests"] - module["passed"] for module in ours)
        of = [versions for _, versions, _ in support.exceptions()]
        assert failed == sum(v == "all" or version.startswith(f"{v}.") for v in of)
        assert {"asyncio", "uvloop", "ffloop"} == set(loops)
