"""Instances for the tests of the shim."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from shim import Instance


@pytest.fixture(scope="session")
def shared_instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    instance = Instance(tmp_path_factory.mktemp("instance"))
    yield instance
    instance.stop()


@pytest.fixture(scope="session")
def shim_environment(shared_instance: Instance) -> dict[str, str]:
    return shared_instance.environment()


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    """One of the test's own, in which no socket may be left when the test has ended."""
    instance = Instance(tmp_path)
    yield instance
    if instance.process.poll() is None:
        instance.drained()
    instance.stop()
