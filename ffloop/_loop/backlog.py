"""Backlog: the bytes that a transport could not send yet."""

import collections
from itertools import islice
from typing import Any

_GATHER = 64 * 1024  # bytes: smaller chunks are joined up to this
_COUNT = 1024  # chunks that are joined at the most


class Backlog:
    """Chunks of a stream in order, bytes or memoryviews. The cost of each method does not depend on
    `size`, the bytes that wait."""

    __slots__ = ("_chunks", "size")

    def __init__(self, first: Any) -> None:
        self._chunks = collections.deque((first,))
        self.size = len(first)

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def append(self, data: Any) -> None:
        self._chunks.append(data)
        self.size += len(data)

    def put_back(self, data: Any) -> None:
        """Puts the unsent rest of a `take` back at the head."""
        self._chunks.appendleft(data)
        self.size += len(data)

    def take(self) -> Any:
        """Takes the head off, small chunks joined."""
        chunks = self._chunks
        first = chunks.popleft()
        size, count = len(first), 0
        for chunk in islice(chunks, _COUNT):
            if size + len(chunk) > _GATHER:
                break
            size += len(chunk)
            count += 1
        self.size -= size
        return b"".join((first, *(chunks.popleft() for _ in range(count)))) if count else first
