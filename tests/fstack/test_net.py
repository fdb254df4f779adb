"""The network of these tests, and that what is skipped says why."""

import pytest

from fstack import net


def test_skips_say_what_is_missing(monkeypatch):
    monkeypatch.delenv("FF_PATH", raising=False)
    assert net.missing() == "FF_PATH does not name a built F-Stack"


def test_exceptions_name_tests(request):
    """Each line of exceptions.txt is about a test that there is."""
    here = request.path.parent
    for line in (here / "exceptions.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, colon, reason = line.partition(": ")
            module, _, test = name.removesuffix(" (not run)").partition("::")
            assert f"def {test}" in (here.parent / "loop" / module).read_text(), line
            assert colon, line
            assert len(reason) > 10, line


def test_the_kernel_reaches_the_stack(fstack):
    """A kernel peer, and nobody listening: F-Stack answers with a reset."""
    import socket

    with net.within(fstack.net.peer), socket.socket() as sock:
        sock.settimeout(10)
        with pytest.raises(ConnectionRefusedError):
            sock.connect((net.STACK, 9))
