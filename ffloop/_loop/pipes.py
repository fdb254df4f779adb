"""Transports of pipes: asyncio's own, with their usual ways compiled (_native/hot/pipe.c)."""

from .._session.hot import PipeReader, PipeWriter
from .asyncio_private import READ_SIZE, UnixReadPipe, UnixWritePipe


class ReadPipeTransport(PipeReader, UnixReadPipe):  # type: ignore[misc]
    """The reading end of a pipe. Made by the loop, never by the user."""

    max_size = READ_SIZE


class WritePipeTransport(PipeWriter, UnixWritePipe):  # type: ignore[misc]
    """The writing end of a pipe. Made by the loop, never by the user."""
