"""The ring and the pool in C against a model of each: whatever is done in whatever order, the two
agree. (What two processors may see of it is ring.c's.)"""

from __future__ import annotations

import collections
import ctypes
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

EPROTO = -errno.EPROTO
NO_BUF = 0xFFFFFFFF
CLASSES = [1 << 8, 1 << 12, 1 << 16]  # bytes a buffer
SETTINGS = settings(
    max_examples=300,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def lib(build: Callable[[str, str], Path]) -> ctypes.CDLL:
    lib = ctypes.CDLL(str(next(Path(build("", "model")).glob("tests/libmodel*"))))
    for name in ("model_new", "pool_new"):
        getattr(lib, name).restype = ctypes.c_void_p
    lib.model_get.restype = ctypes.c_int64
    lib.pool_get.restype = ctypes.c_uint32
    lib.pool_free_bytes.restype = lib.pool_share.restype = ctypes.c_uint64
    lib.pool_share.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
    return lib


class Ring(RuleBasedStateMachine):
    lib: Any

    @initialize(
        size=st.sampled_from([64, 128]),
        start=st.sampled_from([0, 2**32 - 1, 2**32 - 64, 2**31 - 3, 12345]),
    )
    def begin(self, size: int, start: int) -> None:
        self.size = size
        self.m = ctypes.c_void_p(self.lib.model_new(size, ctypes.c_uint32(start)))
        self.written: collections.deque[int] = collections.deque()  # put, and not read yet
        self.queued: collections.deque[int] = collections.deque()  # in the private queue
        self.committed = 0  # of the written
        self.held = 0  # slots read and not given back
        self.count = 0

    def teardown(self) -> None:
        self.lib.model_free(self.m)

    def next(self) -> int:
        self.count += 1
        return self.count

    @property
    def room(self) -> int:
        return self.size - len(self.written) - self.held

    @rule(want=st.integers(1, 130))
    def look_for_room(self, want: int) -> None:
        """Exact when it is less than was wanted; else what it knew, which is never too much."""
        found = self.lib.model_room(self.m, want)
        assert found <= self.room
        assert found >= want or found == self.room

    @rule(n=st.integers(1, 130))
    def put(self, n: int) -> None:
        """As both sides do: behind a queue that has begun, else into the ring, else into it."""
        for _ in range(n):
            if not self.queued and self.lib.model_room(self.m, 1) > 0:
                assert self.room > 0
                self.written.append(self.next())
                self.lib.model_put(self.m, self.count)
            else:
                assert self.queued or self.room == 0
                self.queued.append(self.next())
                assert self.lib.model_queue(self.m, self.count) == 0

    @rule()
    def drain(self) -> None:
        moved = min(self.room, len(self.queued))
        assert self.lib.model_drain(self.m) == moved
        for _ in range(moved):
            self.written.append(self.queued.popleft())

    @rule(quiet=st.booleans())
    def commit(self, quiet: bool) -> None:
        self.lib.model_commit(self.m, quiet)
        self.committed = len(self.written)

    @rule(most=st.integers(0, 130))
    def read(self, most: int) -> None:
        assert self.lib.model_avail(self.m) == self.committed
        for _ in range(min(most, self.committed)):
            assert self.lib.model_get(self.m) == self.written.popleft()
            self.committed -= 1
            self.held += 1

    @rule()
    def give_back(self) -> None:
        self.lib.model_consumed(self.m)
        self.held = 0

    @rule(by=st.integers(1, 2**32 - 1))
    def lying_producer(self, by: int) -> None:
        """A tail that cannot be is seen, and changes nothing."""
        self.lib.model_lie(self.m, 0, ctypes.c_uint32(by))
        claims = (self.committed + by) % 2**32
        assert self.lib.model_avail(self.m) == (claims if claims <= self.size else EPROTO)
        self.lib.model_lie(self.m, 0, ctypes.c_uint32(-by))
        assert self.lib.model_avail(self.m) == self.committed

    @precondition(lambda self: self.held or self.written)
    @rule(by=st.integers(1, 2**32 - 1))
    def lying_consumer(self, by: int) -> None:
        self.lib.model_lie(self.m, 1, ctypes.c_uint32(by))
        used = (len(self.written) + self.held - by) % 2**32
        if used > self.size:  # else it is a lie that can be true
            assert self.lib.model_room(self.m, self.size + 1) == EPROTO
        self.lib.model_lie(self.m, 1, ctypes.c_uint32(-by))
        assert self.lib.model_room(self.m, self.size + 1) == self.room

    @invariant()
    def words(self) -> None:
        if not hasattr(self, "m"):
            return
        assert bool(self.lib.model_pending(self.m)) == (self.committed > 0)


class Pool(RuleBasedStateMachine):
    lib: Any

    @initialize(counts=st.tuples(*[st.integers(1, 12)] * 3))
    def begin(self, counts: tuple[int, int, int]) -> None:
        self.counts = counts
        self.p = ctypes.c_void_p(self.lib.pool_new(*counts))
        self.free = [[c << 28 | i for i in reversed(range(n))] for c, n in enumerate(counts)]
        self.out: list[int] = []

    def teardown(self) -> None:
        self.lib.pool_free(self.p)

    @rule(want=st.sampled_from([0, 1, 256, 257, 4096, 4097, 65536, 10**6]), spare=st.booleans())
    def get(self, want: int, spare: bool) -> None:
        """The class that fits, else a larger, else a smaller one; the last one given back first."""
        fits = next((c for c in range(2) if want <= CLASSES[c]), 2)
        kept = [n // 4 if spare else 0 for n in self.counts]
        order = [*range(fits, 3), *reversed(range(fits))]
        chosen = next((c for c in order if len(self.free[c]) > kept[c]), None)
        expected = NO_BUF if chosen is None else self.free[chosen].pop()
        assert self.lib.pool_get(self.p, want, spare) == expected
        if chosen is not None:
            self.out.append(expected)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def put(self, data: Any) -> None:
        buf = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        assert self.lib.pool_put(self.p, buf) == 0
        self.free[buf >> 28].append(buf)

    @rule(
        buf=st.integers(0, 2**32 - 1)
        | st.builds(lambda c, i: c << 28 | i, st.integers(0, 3), st.integers(0, 14))
    )
    def put_what_is_not_out(self, buf: int) -> None:
        if buf not in self.out:
            assert self.lib.pool_put(self.p, ctypes.c_uint32(buf)) == EPROTO

    @invariant()
    def bytes(self) -> None:
        if not hasattr(self, "p"):
            return
        free = sum(len(ids) * CLASSES[c] for c, ids in enumerate(self.free))
        total = sum(n * CLASSES[c] for c, n in enumerate(self.counts))
        assert self.lib.pool_free_bytes(self.p) == free
        for cap in (1, 4096, 10**6, 2**40):
            share = self.lib.pool_share(self.p, cap)
            exact = free**3 // total**2 // 4
            assert share <= cap
            # the short cut gives the cap where what follows would be no less, but for rounding
            assert share == cap if exact >= cap else exact - 2 <= share <= exact


@pytest.mark.parametrize("machine", [Ring, Pool])
def test_model(lib: ctypes.CDLL, machine: type[RuleBasedStateMachine]) -> None:
    bound = type(machine.__name__, (machine,), {"lib": lib})
    run_state_machine_as_test(bound, settings=SETTINGS)
