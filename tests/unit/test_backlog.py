"""Backlog: what waits to be sent, in order, and at the same cost however much it is."""

from hypothesis import given
from hypothesis import strategies as st

from ffloop._loop.backlog import Backlog


@given(st.data())
def test_the_bytes_leave_in_order(data):
    """Whatever part of what was taken goes out at a time, and whatever is added in between."""
    chunk = st.binary(min_size=1, max_size=70_000) | st.binary(min_size=1, max_size=9)
    first = data.draw(chunk)
    backlog, written, sent = Backlog(first), bytearray(first), bytearray()
    for add in data.draw(st.lists(st.booleans(), max_size=40)):
        if add or not backlog:
            more = data.draw(chunk)
            written += more
            backlog.append(more if len(more) % 2 else memoryview(more))
        else:
            taken = memoryview(backlog.take())
            part = data.draw(st.integers(0, len(taken)))
            sent += taken[:part]
            if part < len(taken):
                backlog.put_back(taken[part:])
        assert backlog.size == len(written) - len(sent)
    while backlog:
        sent += backlog.take()
    assert sent == written
    assert backlog.size == 0


class Counted(bytes):
    looks = 0

    def __len__(self):
        Counted.looks += 1
        return super().__len__()


def test_each_chunk_is_looked_at_a_few_times():
    """n writes cost n: nothing goes through what waits."""
    n = 10_000
    Counted.looks = 0
    backlog = Backlog(Counted(b"x"))
    for _ in range(n - 1):
        backlog.append(Counted(b"x"))
        assert backlog.size
    while backlog:
        backlog.take()
    assert Counted.looks <= 4 * n
