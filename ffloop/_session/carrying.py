"""Options that are carried over when the stack takes a kernel socket's place, by the core's rule
(ffloop/_native/policy/carry.h), as in the shim."""

import os
import struct
from collections.abc import Iterator
from typing import Any

from ..errors import InstanceError
from .log import log
from .native import Why, ffi, lib

_FPROG = struct.Struct("@HP")  # struct sock_fprog
_said: set[str] = set()


class StaysOnKernel(Exception):
    """The host stack refuses an option that the kernel has taken: the socket stays on the
    kernel."""


class OptionRefused(OSError):
    """The stack refuses an option that restricts the socket, which may not do without."""


def carried(fd: int, stack: str) -> Iterator[tuple[int, int, bytes]]:
    """(level, name, value) of the options that were set on the kernel's socket. Raises OSError."""
    carry, option = ffi.new("struct ffl_carry *"), ffi.new("struct ffl_optarg *")
    rc = lib.ffl_carry_begin(carry, fd, stack.encode(), ffi.NULL)
    if rc < 0:
        raise OSError(-rc, os.strerror(-rc))
    try:
        while lib.ffl_carry_next(carry, option):
            yield option.level, option.name, bytes(ffi.buffer(option.data, option.len))
    finally:
        lib.ffl_carry_end(carry)


class _Program(bytes):
    """A struct sock_fprog, with the program that it points to."""

    program: Any


def lasting(level: int, name: int, value: Any) -> Any:
    """The option's value, to be set again later: with a copy of a program that it points to."""
    row = lib.ffl_option_find(level, name)
    if row == ffi.NULL or row.kind != lib.FFL_OPTION_PROGRAM:
        return value
    count, address = _FPROG.unpack(value)
    program = ffi.new("uint64_t[]", count)
    ffi.memmove(program, ffi.cast("char *", address), ffi.sizeof(program))
    lasts = _Program(_FPROG.pack(count, int(ffi.cast("uintptr_t", program))))
    lasts.program = program
    return lasts


def refused(stack: str, level: int, name: int, exc: OSError) -> None:
    """Called with the stack's error for an option. Warns once of a hint; else raises StaysOnKernel
    or OptionRefused."""
    if isinstance(exc, InstanceError):
        raise exc
    why = Why()
    fate = lib.ffl_carry_refused(stack.encode(), level, name, -(exc.errno or 0), *why.room)
    if fate == lib.FFL_CARRY_FAILS:
        raise OptionRefused(exc.errno, str(why)) from exc
    if str(why) not in _said:
        _said.add(str(why))
        log.warning("%s", why)
    if fate == lib.FFL_CARRY_STAYS:
        raise StaysOnKernel(str(why))
