"""Random traces of a connection's life: the protocols hear the same on ffloop as on asyncio.

Each step is followed by a wait for all that must come of it, by a model of TCP and not by time, so
that both loops are at the same point when the next step is taken. Flow control of writing depends
on how much the network takes: of pause_writing and resume_writing only the alternation is checked.
"""

import asyncio
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ffloop

from .util import HOST

SIZES = (1, 700, 5000, 70_000)
SIDES = ("server", "client")
LOOPS = {"asyncio": asyncio.SelectorEventLoop, "ffloop": ffloop.new_event_loop}
step = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(SIDES), st.sampled_from(SIZES)),
    st.tuples(st.just("writelines"), st.sampled_from(SIDES), st.sampled_from(SIZES)),
    st.tuples(
        st.sampled_from(("pause", "resume", "eof", "close", "abort")), st.sampled_from(SIDES)
    ),
)
trace = st.tuples(st.booleans(), st.booleans(), st.lists(step, min_size=1, max_size=12))


@dataclass
class Wire:
    """What one side has done and heard."""

    calls: list[object] = field(default_factory=list)
    written: int = 0
    received: int = 0
    paused: bool = False
    ended: bool = False  # it has sent all it will
    closed: bool = False
    heard_eof: bool = False
    lost: bool = False
    writing_paused: bool = False


class End(asyncio.Protocol):
    def __init__(self, wire: Wire, keep_open: bool, changed: asyncio.Event) -> None:
        self.wire = wire
        self.keep_open = keep_open
        self.changed = changed
        self.transport: asyncio.Transport

    def connection_made(self, transport):
        self.transport = transport
        self._call("made")

    def _call(self, what):
        self.wire.calls.append(what)
        self.changed.set()

    def data_received(self, data):
        self.wire.received += len(data)
        if self.wire.calls[-1] != "data":
            self.wire.calls.append("data")
        self.changed.set()

    def eof_received(self):
        if self.wire.heard_eof:
            return self.keep_open  # asyncio says it again after a pause and a resume
        self.wire.heard_eof = True
        if not self.keep_open:
            self.wire.ended = self.wire.closed = True
        self._call("eof")
        return self.keep_open

    def connection_lost(self, exc):
        self.wire.lost = self.wire.closed = True
        self._call(("lost", type(exc).__name__))

    def pause_writing(self):
        assert not self.wire.writing_paused
        self.wire.writing_paused = True

    def resume_writing(self):
        assert self.wire.writing_paused
        self.wire.writing_paused = False


def settled(me: Wire, peer: Wire) -> bool:
    """Has everything come to `me` that must?"""
    if me.closed:
        return me.lost
    if me.paused:
        return True
    return me.received == peer.written and me.heard_eof == peer.ended


async def play(keep: dict[str, bool], steps) -> list[object]:
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    wires = {side: Wire() for side in SIDES}
    ends: dict[str, End] = {}

    def end(side):
        ends[side] = End(wires[side], keep[side], changed)
        return ends[side]

    async def settle():
        async with asyncio.timeout(60):
            while not (
                settled(wires["server"], wires["client"])
                and settled(wires["client"], wires["server"])
            ):
                changed.clear()
                await changed.wait()

    server = await loop.create_server(lambda: end("server"), HOST, 0)
    async with server:
        address = server.sockets[0].getsockname()
        await loop.create_connection(lambda: end("client"), *address)
        while "server" not in ends:
            await asyncio.sleep(0)
        told: list[object] = []
        for action, side, *size in steps:
            wire, peer = wires[side], wires[SIDES[side == "server"]]
            transport = ends[side].transport
            told.append(transport.is_closing())
            if action in ("write", "writelines"):
                if wire.ended or peer.closed or wire.closed:
                    continue  # what becomes of it is a race of the network's
                data = b"x" * size[0]
                if action == "write":
                    transport.write(data)
                else:
                    # An empty piece at the end would keep CPython 3.12.1 busy for ever.
                    transport.writelines([data[: len(data) // 2], data[len(data) // 2 :]])
                wire.written += len(data)
            elif action == "pause":
                transport.pause_reading()
                wire.paused = not wire.closed
            elif action == "resume":
                transport.resume_reading()
                wire.paused = False
            elif action == "eof":
                transport.write_eof()
                wire.ended = True
            elif not wire.closed and (wire.received != peer.written or peer.closed):
                continue  # closing on unread data resets, or not, by the stack's read-ahead
            else:
                getattr(transport, action)()
                wire.ended = wire.closed = True
            told.append((transport.is_reading(), len(wire.calls)))  # nothing is called at once
            await settle()
        for side in SIDES:
            wires[side].paused = False
            ends[side].transport.resume_reading()
        await settle()
        for side in SIDES:
            wires[side].closed = wires[side].ended = True
            ends[side].transport.close()
        await settle()
        return [told, *((side, w.calls, w.received) for side, w in wires.items())]


@given(trace)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_same_callbacks(plan):
    keep_server, keep_client, steps = plan
    keep = {"server": keep_server, "client": keep_client}
    heard = {}
    for name, factory in LOOPS.items():
        with asyncio.Runner(loop_factory=factory) as runner:
            heard[name] = runner.run(play(keep, steps))
    assert heard["ffloop"] == heard["asyncio"]
