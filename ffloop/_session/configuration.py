"""Options, from arguments and the environment, checked once and told apart clearly.

| variable | argument | meaning |
|---|---|---|
| FFLOOP_INSTANCE | instance | socket path of the instance; "@name" is an abstract address |
| FFLOOP_STACK | stack | "host" or "fstack": insist on this stack |
| FFLOOP_SPIN_US | spin_us | microseconds to spin before sleeping, "auto" or "forever" |
| FFLOOP_RECONNECT | reconnect | 1 or 0: attach and listen again when the instance is back |
| FFLOOP_ROUTES | routes | "10.0.0.0/8=stack,127.0.0.0/8=kernel", first match wins |
| FFLOOP_DUAL_LISTEN | dual_listen | 1: create_server's ports are served on the kernel too |
| FFLOOP_KERNEL_SOCKETS | kernel_sockets | "adopt", "both", "kernel" or "error": _net/inherited.py |
| FFLOOP_REUSE_PORT | reuse_port | 1: listeners share their port with other processes' |
| FFLOOP_POOL_KIB | pool_kib | buffer memory a side, KiB |
| FFLOOP_TX_CAP | tx_cap | bytes that one socket may have unsent |
| FFLOOP_MAX_SOCKETS | max_sockets | sockets of this session |
| FFLOOP_TIMEOUT_MS | timeout_ms | limit of the handshake and of calls that wait |
| FF_NB_FSTACK_INSTANCE | instances | how many instances there are, one a worker |
| FF_PROC_ID | proc_id | which worker this is: its first loop uses instance proc_id mod instances |
| FF_INITIAL_LCORE_ID | initial_lcore | CPU mask in hexadecimal: worker i runs i places above it |

The FF_ names are F-Stack's own, with F-Stack's meaning.

A process that has more rights than who started it (set-user-id, set-group-id, file capabilities)
takes nothing of this from the environment: who started it must not choose where its data goes.
"""

import functools
import importlib
import os
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError

SPIN_FOREVER = -1
SPIN_AUTO = -2
STACKS = ("host", "sim", "fstack")
KERNEL_SOCKETS = ("adopt", "both", "kernel", "error")


@dataclass(frozen=True, slots=True)
class Config:
    """What a loop needs to know to attach. Build it with `load`."""

    instance: str | None = None
    stack: str | None = None
    spin_us: int = SPIN_AUTO
    reconnect: bool = True
    routes: str = ""
    dual_listen: bool = False
    kernel_sockets: str | None = None
    reuse_port: bool = False
    pool_kib: int = 0
    tx_cap: int = 0
    max_sockets: int = 0
    timeout_ms: int = 0
    instances: int = 1
    proc_id: int = 0
    initial_lcore: int | None = None

    def cpu(self) -> int | None:
        """The CPU that the worker's thread is to run on, or None: where it likes."""
        if self.initial_lcore is None:
            return None
        return (self.initial_lcore & -self.initial_lcore).bit_length() - 1 + self.proc_id


def _spin(text: str) -> int:
    if text == "auto":
        return SPIN_AUTO
    if text == "forever":
        return SPIN_FOREVER
    return _count(text)


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**31:
        raise ValueError("out of range")
    return value


def _positive(text: str) -> int:
    value = _count(text)
    if not value:
        raise ValueError("zero")
    return value


def _mask(text: str) -> int:
    value = int(text, 16)
    if not 0 < value < 2**64:
        raise ValueError("out of range")
    return value


def _flag(text: str) -> bool:
    try:
        return {"1": True, "yes": True, "true": True, "0": False, "no": False, "false": False}[
            text.lower()
        ]
    except KeyError:
        raise ValueError("not a flag") from None


def _one_of(words: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError("unknown")
        return text

    return parse


_OPTIONS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "instance": ("FFLOOP_INSTANCE", str, "a socket path or @name"),
    "stack": ("FFLOOP_STACK", _one_of(STACKS), " or ".join(repr(s) for s in STACKS)),
    "spin_us": ("FFLOOP_SPIN_US", _spin, "a number of microseconds, 'auto' or 'forever'"),
    "reconnect": ("FFLOOP_RECONNECT", _flag, "0 or 1"),
    "routes": ("FFLOOP_ROUTES", str, "NETWORK=stack|kernel, comma-separated"),
    "dual_listen": ("FFLOOP_DUAL_LISTEN", _flag, "0 or 1"),
    "kernel_sockets": (
        "FFLOOP_KERNEL_SOCKETS",
        _one_of(KERNEL_SOCKETS),
        " or ".join(repr(s) for s in KERNEL_SOCKETS),
    ),
    "reuse_port": ("FFLOOP_REUSE_PORT", _flag, "0 or 1"),
    "pool_kib": ("FFLOOP_POOL_KIB", _count, "a number of KiB"),
    "tx_cap": ("FFLOOP_TX_CAP", _count, "a number of bytes"),
    "max_sockets": ("FFLOOP_MAX_SOCKETS", _count, "a number of sockets"),
    "timeout_ms": ("FFLOOP_TIMEOUT_MS", _count, "a number of milliseconds"),
    "instances": ("FF_NB_FSTACK_INSTANCE", _positive, "a number of instances, 1 or more"),
    "proc_id": ("FF_PROC_ID", _count, "a worker's number, from 0"),
    "initial_lcore": ("FF_INITIAL_LCORE_ID", _mask, "a CPU mask in hexadecimal, such as 0x4"),
}


_AT_SECURE = 23  # in auxv: getauxval(3)
_instead: dict[str, str] = {}  # of the environment, where that is not to be believed


@functools.cache
def _secure() -> bool:
    core: Any = importlib.import_module("ffloop._native._core")
    return bool(core.lib.getauxval(_AT_SECURE))


def environment() -> MutableMapping[str, str]:
    """os.environ, or an empty mapping of this process's where the environment is not its own."""
    return _instead if _secure() else os.environ


def load(environ: Mapping[str, str] | None = None, **arguments: Any) -> Config:
    """Merges arguments (None: not given) over the environment. Raises ConfigError."""
    environ = environment() if environ is None else environ
    values: dict[str, Any] = {}
    for name, (variable, parse, wanted) in _OPTIONS.items():
        given = arguments.pop(name, None)
        source = f"{name}="
        if given is None:
            given = environ.get(variable) or None
            source = f"{variable}="
        if given is None:
            continue
        try:
            values[name] = parse(_text(given))
        except ValueError:
            raise ConfigError(f"{source}{given!r}: expected {wanted}") from None
    if arguments:
        raise TypeError(f"unknown option {', '.join(sorted(arguments))}")
    return Config(**values)


def _text(given: Any) -> str:
    if isinstance(given, bool):
        return "1" if given else "0"
    if isinstance(given, os.PathLike):
        return os.fsdecode(given)
    return str(given)
