"""Kqueue and kevent: CPython's own tests of select.kqueue on them, FreeBSD's manual."""

import asyncio
import errno
import importlib
import select
import socket
import unittest

import pytest

import ffloop
from ffloop import (
    KQ_EV_ADD,
    KQ_EV_CLEAR,
    KQ_EV_DELETE,
    KQ_EV_DISABLE,
    KQ_EV_ENABLE,
    KQ_EV_EOF,
    KQ_EV_ERROR,
    KQ_EV_ONESHOT,
    KQ_FILTER_READ,
    KQ_FILTER_TIMER,
    KQ_FILTER_WRITE,
    Kqueue,
    kevent,
)

from . import stackpair

pytestmark = pytest.mark.ring


@pytest.fixture
def cpython(monkeypatch):
    """test.test_kqueue, which skips itself where select has no kqueue."""
    names = {name: getattr(ffloop, name) for name in ffloop.kqueue.__all__ if name[:3] == "KQ_"}
    for name, value in {**names, "kqueue": Kqueue, "kevent": kevent}.items():
        monkeypatch.setattr(select, name, value, raising=False)
    try:
        return importlib.import_module("test.test_kqueue")
    except ImportError:
        pytest.skip("this interpreter has no test.test_kqueue")


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("test_create_queue", None),
        ("test_create_event", None),
        ("test_queue_event", None),
        ("testPair", None),
        ("testPair", stackpair.socketpair),
        ("test_issue30058", None),
        ("test_issue30058", stackpair.socketpair),
        ("test_close", None),
        ("test_fd_non_inheritable", None),
    ],
    ids=lambda value: value if isinstance(value, str) else "stack" if value else "kernel",
)
def test_cpython(cpython, name, pair, monkeypatch):
    if pair is not None:
        monkeypatch.setattr(socket, "socketpair", pair)
    result = unittest.TestResult()
    cpython.TestKQueue(name).run(result)
    assert result.testsRun == 1
    problems = [text for _, text in result.failures + result.errors]
    assert not problems, "\n".join(problems)


@pytest.fixture(params=["kernel", "stack"])
def pair(request):
    """Two connected sockets."""
    one, other = socket.socketpair() if request.param == "kernel" else stackpair.socketpair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield one, other


@pytest.fixture
def kq():
    with Kqueue() as made:
        yield made
    assert made.closed
    with pytest.raises(ValueError, match="closed"):
        made.control(None, 1)


def short(events):
    return [(event.ident, event.filter) for event in events]


def test_level(kq, pair):
    one, other = pair
    assert kq.control([kevent(one)], 10, 0) == []
    other.send(b"hello")
    for _ in range(2):
        [event] = kq.control(None, 10, 60)
        assert (event.ident, event.filter) == (one.fileno(), KQ_FILTER_READ)
        assert event.data == 5
        assert not event.flags & (KQ_EV_EOF | KQ_EV_ERROR)
    assert one.recv(10) == b"hello"
    assert kq.control(None, 10, 0.01) == []


def test_clear(kq, pair):
    """Edge-triggered: once, then when more has come."""
    one, other = pair
    kq.control([kevent(one, flags=KQ_EV_ADD | KQ_EV_CLEAR)], 0)
    for part in (b"one", b"two"):
        other.send(part)
        [event] = kq.control(None, 10, 60)
        assert event.flags & KQ_EV_CLEAR
        assert kq.control(None, 10, 0.01) == []
    assert event.data == 6
    assert one.recv(10) == b"onetwo"
    other.close()
    [event] = kq.control(None, 10, 60)
    assert event.flags & KQ_EV_EOF
    assert kq.control(None, 10, 0.01) == []


def test_clear_of_what_waited_before(kq, pair):
    one, other = pair
    with Kqueue() as before:
        other.send(b"x")
        assert before.control([kevent(one)], 10, 60)
    assert short(kq.control([kevent(one, flags=KQ_EV_ADD | KQ_EV_CLEAR)], 10, 60))


def test_clear_write(kq, pair):
    """Writable is told once, and again after it was not."""
    one, other = pair
    change = kevent(one, KQ_FILTER_WRITE, KQ_EV_ADD | KQ_EV_CLEAR)
    [event] = kq.control([change], 10, 60)
    assert event.data > 0
    assert kq.control(None, 10, 0.01) == []
    with pytest.raises(BlockingIOError):
        for _ in range(10_000):
            one.send(bytes(65536))
    with Kqueue() as reader:
        reader.control([kevent(other)], 0)
        seen = []
        while not seen:
            if reader.control(None, 1, 0):
                other.recv(1 << 20)
            seen = kq.control(None, 10, 0.01)
    assert short(seen) == [(one.fileno(), KQ_FILTER_WRITE)]


def test_oneshot(kq, pair):
    one, other = pair
    kq.control([kevent(one, flags=KQ_EV_ADD | KQ_EV_ONESHOT, udata=7)], 0)
    other.send(b"x")
    [event] = kq.control(None, 10, 60)
    assert event.udata == 7
    assert kq.control(None, 10, 0.01) == []
    with pytest.raises(FileNotFoundError):
        kq.control([kevent(one, flags=KQ_EV_DELETE)], 0)
    assert len(kq.control([kevent(one)], 10, 60)) == 1


def test_disable_and_enable(kq, pair):
    one, other = pair
    kq.control([kevent(one, udata=1)], 0)
    other.send(b"x")
    assert len(kq.control(None, 10, 60)) == 1
    assert kq.control([kevent(one, flags=KQ_EV_DISABLE)], 10, 0.01) == []
    [event] = kq.control([kevent(one, flags=KQ_EV_ENABLE)], 10, 60)
    assert event.udata == 1
    [event] = kq.control([kevent(one, udata=2)], 10, 60)
    assert event.udata == 2
    assert kq.control([kevent(one, flags=KQ_EV_DELETE)], 10, 0.01) == []


def test_both_filters_and_room_for_one(kq, pair):
    one, other = pair
    other.send(b"x")
    kq.control([kevent(one), kevent(one, KQ_FILTER_WRITE)], 0)
    seen = set()
    while len(seen) < 2:
        [event] = kq.control(None, 1, 60)
        seen.add(event.filter)
    assert seen == {KQ_FILTER_READ, KQ_FILTER_WRITE}


def test_end_of_stream(kq, pair):
    one, other = pair
    kq.control([kevent(one)], 0)
    other.send(b"last")
    other.close()
    event = None
    while event is None or not event.flags & KQ_EV_EOF:
        [event] = kq.control(None, 10, 60)
    assert event.data == 4
    assert one.recv(10) == b"last"
    [event] = kq.control(None, 10, 60)
    assert event.flags & KQ_EV_EOF
    assert event.data == 0
    assert one.recv(10) == b""


def test_listener(kq):
    with stackpair.listener() as listener, ffloop.socket() as client:
        kq.control([kevent(listener), kevent(client, KQ_FILTER_WRITE)], 0)
        kq.control([kevent(client, KQ_FILTER_WRITE, KQ_EV_DELETE)], 0)
        client.connect_ex(listener.getsockname())
        kq.control([kevent(client, KQ_FILTER_WRITE, KQ_EV_ADD | KQ_EV_ONESHOT)], 0)
        seen = {}
        while len(seen) < 2:
            seen.update((event.ident, event) for event in kq.control(None, 10, 60))
        assert seen[listener.fileno()].data == 1
        accepted, address = listener.accept()
        assert address == client.getsockname()
        accepted.close()


def test_refused(kq):
    with ffloop.socket() as holder, ffloop.socket() as client:
        holder.bind(("127.0.0.1", 0))
        client.connect_ex(holder.getsockname())
        [event] = kq.control([kevent(client, KQ_FILTER_WRITE)], 10, 60)
        assert event.flags & KQ_EV_EOF
        assert event.fflags == errno.ECONNREFUSED


def test_closing_a_descriptor_ends_its_events(kq, pair):
    one, other = pair
    other.send(b"x")
    kq.control([kevent(one)], 0)
    assert kq.control(None, 10, 60)
    number = one.fileno()
    one.close()
    assert kq.control(None, 10, 0.01) == []
    with pytest.raises(OSError):
        kq.control([kevent(number)], 0)


def test_changes_that_fail(kq, pair):
    one, _ = pair
    bad = kevent(one, KQ_FILTER_TIMER)
    with pytest.raises(OSError, match="KQ_FILTER_READ") as caught:
        kq.control([bad], 0)
    assert caught.value.errno == errno.EINVAL
    missing = kevent(one, flags=KQ_EV_DELETE)
    events = kq.control([bad, missing, kevent(one)], 5, 60)
    assert [(event.flags & KQ_EV_ERROR, event.data) for event in events] == [
        (KQ_EV_ERROR, errno.EINVAL),
        (KQ_EV_ERROR, errno.ENOENT),
    ]
    kq.control([kevent(one, flags=KQ_EV_DELETE)], 0)  # the third one was applied
    with pytest.raises(OSError) as caught:
        kq.control([kevent(99_999)], 0)
    assert caught.value.errno == errno.EBADF
    with open(__file__) as file, pytest.raises(PermissionError):
        kq.control([kevent(file)], 0)


def test_arguments(kq):
    with pytest.raises(TypeError, match="kevent"):
        kq.control([1], 0)
    with pytest.raises(ValueError, match="-1"):
        kq.control(None, -1)
    with pytest.raises(ValueError, match="timeout"):
        kq.control(None, 1, -1)
    with pytest.raises(TypeError, match="fileno"):
        kevent("x")
    with pytest.raises(OverflowError):
        kevent(1, 1 << 15)
    with pytest.raises(TypeError, match="udata"):
        kevent(1, udata="x")
    with pytest.raises(TypeError):
        hash(kevent(1))
    with pytest.raises(OSError) as caught:
        Kqueue.fromfd(0)
    assert caught.value.errno == errno.EOPNOTSUPP
    assert repr(kevent(1, udata=16)) == (
        "<ffloop.kevent ident=1 filter=-1 flags=0x1 fflags=0x0 data=0x0 udata=0x10>"
    )


def test_inside_another_loop(pair):
    """Its descriptor can be waited on: a kqueue program inside an asyncio loop."""
    one, other = pair

    async def main():
        loop = asyncio.get_running_loop()
        with Kqueue() as kq:
            kq.control([kevent(one)], 0)
            got = bytearray()
            done = loop.create_future()

            def ready():
                for _ in kq.control(None, 10, 0):
                    got.extend(one.recv(1000))
                if len(got) == 500:
                    done.set_result(None)

            loop.add_reader(kq.fileno(), ready)
            for _ in range(500):
                other.send(b"x")
                await asyncio.sleep(0)
            await done
            assert got == b"x" * 500
            loop.remove_reader(kq.fileno())

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())
