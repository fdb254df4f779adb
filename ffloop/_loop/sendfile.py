"""sendfile for stack sockets, whose bytes go through shared memory.

As sendfile(2): the file is read at an offset of the call's own, in the loop's thread, so that
several calls may send one file. Its position is then behind the last byte that was sent, also after
an error or a cancel.
"""

import asyncio
import io
import os
import stat
from collections.abc import Awaitable, Callable
from typing import Any

_PIECE = 256 * 1024  # bytes that are sent before the loop's other callbacks have their turn


async def send_file(
    file: Any, offset: int, count: int | None, send: Callable[[memoryview], Awaitable[int]]
) -> int:
    """Returns the number of bytes that were sent: `count`, or fewer at the file's end. `send` sends
    some of the bytes and says how many. Raises SendfileNotAvailableError for what is no regular
    file that can be read."""
    fd = _regular(file)
    sent = 0
    try:
        while size := _PIECE if count is None else min(_PIECE, count - sent):
            data = memoryview(os.pread(fd, size, offset + sent))
            if not data:
                break
            while data:
                done = await send(data)
                sent += done
                data = data[done:]
            await asyncio.sleep(0)
    finally:
        if sent:
            os.lseek(fd, offset + sent, os.SEEK_SET)
        os.close(fd)
    return sent


def _regular(file: Any) -> int:
    # A descriptor of the call's own: the application may close its own meanwhile.
    try:
        fd: int = file.fileno()
        if stat.S_ISREG(os.fstat(fd).st_mode):
            os.pread(fd, 0, 0)
            return os.dup(fd)
    except (AttributeError, io.UnsupportedOperation, OSError):
        pass
    raise asyncio.SendfileNotAvailableError("not a regular file that can be read")
