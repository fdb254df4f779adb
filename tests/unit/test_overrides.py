"""What the loop overrides of asyncio's takes all that the running Python's asyncio gives it.

asyncio calls its private methods itself, so that a new Python may give them what nobody knows yet:
those take any keyword. The public ones take what is documented.
"""

import asyncio
import contextvars
import inspect
from collections.abc import Callable
from typing import Any

import pytest

import ffloop
from ffloop._loop.direct_loop import DirectLoop
from ffloop._loop.session_loop import SessionLoop

KINDS = inspect.Parameter


def overrides() -> dict[str, tuple[Callable[..., Any], Callable[..., Any]]]:
    """Class.name -> (ours, asyncio's)"""
    base = asyncio.SelectorEventLoop
    mine: dict[str, tuple[Any, Any]] = {}
    for kind in (DirectLoop, SessionLoop):
        for cls in kind.__mro__[: kind.__mro__.index(base)]:
            for name, ours in vars(cls).items():
                theirs = getattr(base, name, None)
                if inspect.isfunction(ours) and inspect.isfunction(theirs) and name[:2] != "__":
                    mine.setdefault(f"{cls.__name__}.{name}", (ours, theirs))
    return mine


def test_there_are_overrides() -> None:
    assert {
        "DirectLoop._make_socket_transport",
        "Loop._start_serving",
        "Loop.create_server",
        "SockCalls.sock_recv",
        "SessionLoop._make_socket_transport",
    } < set(overrides())


@pytest.mark.parametrize("name", sorted(overrides()))
def test_an_override_takes_what_asyncio_gives(name: str) -> None:
    ours, theirs = (inspect.signature(one).parameters for one in overrides()[name])
    kinds = {one.kind for one in ours.values()}
    spread = {
        KINDS.POSITIONAL_ONLY: {KINDS.VAR_POSITIONAL},
        KINDS.POSITIONAL_OR_KEYWORD: {KINDS.VAR_POSITIONAL, KINDS.VAR_KEYWORD},
        KINDS.VAR_POSITIONAL: {KINDS.VAR_POSITIONAL},
        KINDS.KEYWORD_ONLY: {KINDS.VAR_KEYWORD},
        KINDS.VAR_KEYWORD: {KINDS.VAR_KEYWORD},
    }
    given = [one for one in theirs.values() if one.name not in ours]
    assert [one.name for one in given if not spread[one.kind] & kinds] == []


# Called with an event list or nothing, by asyncio and by the compiled iteration.
PLAIN = {"Loop._process_events", "Scheduler._run_once"}
PRIVATE = [name for name in sorted(overrides()) if "._" in name and name not in PLAIN]


@pytest.mark.parametrize("name", PRIVATE)
def test_a_private_override_takes_what_nobody_knows_yet(name: str) -> None:
    ours = inspect.signature(overrides()[name][0]).parameters
    assert any(one.kind == KINDS.VAR_KEYWORD for one in ours.values())


async def _callbacks_of(context: contextvars.Context | None) -> list[str]:
    """What each callback of an accepted connection sees of a variable that connection_made sets,
    when serving began with `context`, as from Python 3.15 on."""
    seen: list[str] = []
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")
    lost = asyncio.Event()

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            seen.append(var.get())
            var.set("made")

        def data_received(self, data: bytes) -> None:
            seen.append(var.get())
            self.transport.pause_reading()
            self.transport.resume_reading()
            var.set("data")

        def eof_received(self) -> None:
            seen.append(var.get())

        def connection_lost(self, exc: Exception | None) -> None:
            seen.append(var.get())
            lost.set()

    loop: Any = asyncio.get_running_loop()
    server = await loop.create_server(Protocol, "127.0.0.1", 0, start_serving=False)
    for sock in server._sockets:
        sock.listen(1)
        more = {} if context is None else {"context": context}
        loop._start_serving(Protocol, sock, None, None, 1, None, None, **more)
    port = server.sockets[0].getsockname()[1]
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"x")
    writer.write_eof()
    await lost.wait()
    writer.close()
    await writer.wait_closed()
    for sock in server._sockets:
        loop._stop_serving(sock)
    return seen


def test_a_servers_context_lasts_for_the_whole_connection() -> None:
    context = contextvars.copy_context()
    assert ffloop.run(_callbacks_of(context)) == ["unset", "made", "data", "data"]
    assert ffloop.run(_callbacks_of(context))[0] == "unset"  # each connection has its copy


def test_without_one_callbacks_share_no_context() -> None:
    assert set(ffloop.run(_callbacks_of(None))) == {"unset"}
