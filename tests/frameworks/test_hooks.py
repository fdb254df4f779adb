"""Where others take a loop factory: each as its example or the documentation shows it."""

import asyncio
import re
import shutil
import socket
import sys

import pytest
from common.processes import completed
from loop.util import HOST, PEER

import ffloop

from .util import EXAMPLES, command


def run(*argv, **options):
    return completed(*argv, **options)


def test_runner(stack):
    with asyncio.Runner(loop_factory=ffloop.new_event_loop) as runner:
        assert isinstance(runner.get_loop(), ffloop.Loop)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio.run(loop_factory=) of Python 3.12")
def test_asyncio_run(stack):
    async def main():
        return asyncio.get_running_loop()

    assert isinstance(asyncio.run(main(), loop_factory=ffloop.new_event_loop), ffloop.Loop)


OUTWARD = """
import asyncio
import pytest

@pytest.mark.asyncio
async def test_outward():
    reader, writer = await asyncio.open_connection("{host}", {port})
    writer.write(b"hello")
    writer.close()
    await writer.wait_closed()
"""


def test_pytest_asyncio(stack, tmp_path):
    """A user's whole suite, by one hook in its conftest."""
    pytest.importorskip("pytest_asyncio", minversion="1.4")
    suite = tmp_path / "suite"
    shutil.copytree(EXAMPLES / "pytest_suite", suite)
    with socket.create_server((PEER, 0)) as listener:
        port = listener.getsockname()[1]
        (suite / "test_outward.py").write_text(OUTWARD.format(host=PEER, port=port))
        done = run(command("pytest"), "-q", "-p", "no:cacheprovider", suite)
        assert "3 passed" in done.stdout, done.stdout + done.stderr
        assert "warning" not in done.stdout
        listener.setblocking(False)  # the connection waits
        connection, (host, _) = listener.accept()
        with connection:
            assert host == HOST
            assert connection.recv(100) == b"hello"


def test_pytest_asyncio_without_the_hook(tmp_path):
    """The suite is asyncio's own: without the hook the loop is asyncio's."""
    pytest.importorskip("pytest_asyncio", minversion="1.4")
    (tmp_path / "test_echo.py").write_text((EXAMPLES / "pytest_suite/test_echo.py").read_text())
    done = run(command("pytest"), "-q", "-p", "no:cacheprovider", tmp_path)
    assert "1 failed, 1 passed" in done.stdout


def test_anyio_fixtures(stack, tmp_path):
    """anyio's own pytest plugin: the backend's options name the factory."""
    pytest.importorskip("anyio")
    (tmp_path / "test_it.py").write_text(
        "import asyncio, ffloop, pytest\n"
        "@pytest.fixture\n"
        "def anyio_backend():\n"
        "    return 'asyncio', {'loop_factory': ffloop.new_event_loop}\n"
        "@pytest.mark.anyio\n"
        "async def test_it():\n"
        "    assert isinstance(asyncio.get_running_loop(), ffloop.Loop)\n"
    )
    done = run(command("pytest"), "-q", "-p", "no:cacheprovider", tmp_path)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_unittest(stack):
    done = run(sys.executable, "-P", EXAMPLES / "unittest_suite.py")
    assert done.returncode == 0, done.stderr
    assert "Ran 1 test" in done.stderr


@pytest.mark.parametrize("suite", ["unittest_suite.py", "pytest_suite/conftest.py"])
def test_a_suite_runs_in_a_checkout_as_its_first_lines_say(suite):
    said = re.search(r"`((?:python|pytest) [^`]+)`", (EXAMPLES / suite).read_text())[1].split()
    said[0] = sys.executable if said[0] == "python" else command(said[0])
    done = run(*said, cwd=EXAMPLES.parent)
    assert done.returncode == 0, done.stdout + done.stderr
