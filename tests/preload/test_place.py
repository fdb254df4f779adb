"""Where the socket of an instance is: no program under the shim attaches where others may write."""

from pathlib import Path

import pytest
from shim import Instance, python

CREATES = "import socket; socket.create_server(('127.0.0.1', 0))"


def _link(made: Path) -> Path:
    link = made.with_name("link")
    link.symlink_to(made)
    return link


def _open_to_all(made: Path) -> Path:
    made.chmod(0o777)
    return made


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(_link, "is a symbolic link: name the directory itself", id="link"),
        pytest.param(_open_to_all, "every user may write in", id="open"),
    ],
)
def test_unsafe_places(tmp_path, spoil, words):
    made = tmp_path / "made"
    made.mkdir()
    instance = Instance(made)
    path = spoil(made) / "instance.sock"
    try:
        done = python(CREATES, env=Instance.environment_of(str(path)))
    finally:
        instance.stop()
    assert done.returncode != 0
    assert words in done.stderr
