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
    None is as if it were not given: then the FFLOOP_ variable counts."""

    instance: str | os.PathLike[str] | None
    stack: Stack | None
    fstack: str | None
    spin_us: int | Literal["auto", "forever"] | None
    reconnect: bool | None
    routes: str | None
    dual_listen: bool | None
    kernel_sockets: KernelSockets | None
    reuse_port: bool | None
    pool_kib: int | None
    tx_cap: int | None
    max_sockets: int | None
    timeout_ms: int | None
    instances: int | None
    proc_id: int | None
    initial_lcore: str | None
