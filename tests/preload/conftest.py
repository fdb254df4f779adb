"""Instances for the tests of the shim."""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import need
from shim import Instance, OnFStack


@pytest.fixture(scope="session")
def shared_instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    instance = Instance(tmp_path_factory.mktemp("instance"))
    yield instance
    instance.stop()


@pytest.fixture(scope="session")
def shim_environment(shared_instance: Instance) -> dict[str, str]:
    return shared_instance.environment()


@pytest.fixture
def instance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Instance]:
    """In it no socket may be left when the test has ended. One of the test's own on the host stack,
    or (`either_stack`) the real F-Stack's, with the test in its peer's namespace."""
    with contextlib.ExitStack() as stack:
        if getattr(request, "param", "host") == "host":
            instance = Instance(tmp_path)
        else:
            from fstack import net

            instance = OnFStack(request.getfixturevalue("fstack"))
            stack.enter_context(net.within(instance.fstack.net.peer))
        stack.callback(instance.stop)
        yield instance
        if instance.process.poll() is None:
            instance.drained()


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder within reach of the users that servers become."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of mirror.c."""
    out = tmp_path_factory.mktemp("mirror") / "mirror.so"
    flags = ["-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC"]
    source = Path(__file__).with_name("mirror.c")
    subprocess.run([need("cc"), *flags, source, "-o", out], check=True)
    return out


@pytest.fixture
def at_loopback(request: pytest.FixtureRequest, instance: Instance) -> Instance:
    """The instance, for programs that have both ends of their connections at loopback addresses."""
    if isinstance(instance, OnFStack):
        instance.loopback = request.getfixturevalue("mirror")
    return instance
