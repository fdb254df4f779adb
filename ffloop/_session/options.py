"""The types of the loop's keyword arguments. What they mean: the table in configuration.py.

For type checkers, and for the command line, which does not load the core to know its own options.
"""

import os
from typing import Literal, TypedDict, get_args

Stack = Literal["host", "fstack"]
KernelSockets = Literal["adopt", "both", "kernel", "error"]
STACKS: tuple[str, ...] = get_args(Stack)
KERNEL_SOCKETS: tuple[str, ...] = get_args(KernelSockets)


class LoopOptions(TypedDict, total=False):
    """Keyword arguments of `ffloop.Loop`, `new_event_loop`, `run`, `install` and `FFLoopPolicy`.
    None is as if it were not given: then the variable counts, which each option has, too; for the
    variables and the values without either: docs/configuration.md."""

    # Which instance, and which stack.
    instance: str | os.PathLike[str] | None  # its socket ("@name": abstract), "direct", "spawn"
    stack: Stack | None  # insist on it
    fstack: str | None  # F-Stack's options in one text, with stack="fstack", instance="direct"
    instances: int | None  # how many run in sequence; the loop uses number `proc_id` mod that
    proc_id: int | None  # which of several workers this process is, from 0
    initial_lcore: str | None  # CPU mask in hexadecimal: worker i runs i above its first CPU
    # Which sockets are the stack's.
    routes: str | None  # "10.0.0.0/8=stack,127.0.0.0/8=kernel": the first that matches decides
    kernel_sockets: KernelSockets | None  # what becomes of those that the application hands in
    dual_listen: bool | None  # what the stack serves is served on the kernel too
    reuse_port: bool | None  # listeners share their ports with other processes' (SO_REUSEPORT)
    # The session with an instance.
    reconnect: bool | None  # attach and listen again after its end
    spin_us: int | Literal["auto", "forever"] | None  # microseconds to look again before sleeping
    pool_kib: int | None  # KiB of buffer memory per side
    tx_cap: int | None  # bytes that one socket may have unsent
    max_sockets: int | None
    timeout_ms: int | None  # milliseconds: of attaching, and of each call that waits
