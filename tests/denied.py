"""Runs a program that the kernel denies a system call, as a container's seccomp profile does.

python denied.py CALL[,CALL] PROGRAM ARGS...: the call fails with EPERM, in its children too.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

NUMBERS = {  # x86_64, and the numbers of the architectures that came later
    "accept4": (288, 242),
    "epoll_pwait2": (441, 441),
    "eventfd2": (290, 19),
    "getrandom": (318, 278),
    "memfd_create": (319, 279),
    "pidfd_open": (434, 434),
    "recvmsg": (47, 212),
    "sendmsg": (46, 211),
}
EPERM = 1
_NO_NEW_PRIVS, _SECCOMP, _FILTER = 38, 22, 2  # prctl
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # classic BPF: load a word, jump if equal, return
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def _program(number: int) -> bytes:
    steps = [
        (_LOAD, 0, 0, 0),  # the call's number
        (_EQUAL, 0, 1, number),
        (_RETURN, 0, 0, _ERRNO | EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def deny(call: str) -> None:
    """This process and its children cannot make the call from now on."""
    code = _program(NUMBERS[call][platform.machine() != "x86_64"])
    buffer = ctypes.create_string_buffer(code, len(code))
    libc = ctypes.CDLL(None, use_errno=True)
    described = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    for args in ((_NO_NEW_PRIVS, 1, 0, 0, 0), (_SECCOMP, _FILTER, described, 0, 0)):
        if libc.prctl(*args) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    for one in sys.argv[1].split(","):
        deny(one)
    os.execvp(sys.argv[2], sys.argv[2:])
