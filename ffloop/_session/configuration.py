"""Settings, from arguments and the environment, checked once.

The core has one table of the variables, their values and meaning (ffloop/_native/policy/setting.c),
which the shim reads as well; docs/configuration.md shows it. The FF_ names are F-Stack's own, with
F-Stack's meaning.

A process with more rights than the user who started it (set-user-id, set-group-id, file
capabilities) reads none of them: that user must not choose where its data goes.
"""

import functools
import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import ConfigError
from .native import Why, c_text, ffi, lib, text_of

SPIN_FOREVER: int = lib.FFL_SPIN_FOREVER
SPIN_AUTO: int = lib.FFL_SPIN_AUTO


@dataclass(frozen=True, slots=True)
class Config:
    """A loop's settings. Made by `load`."""

    instance: str | None
    stack: str | None
    fstack: str | None
    routes: str
    kernel_sockets: str | None
    dual_listen: bool
    reuse_port: bool
    reconnect: bool
    spin_us: int
    pool_kib: int
    tx_cap: int
    max_sockets: int
    timeout_ms: int
    instances: int
    proc_id: int
    initial_lcore: int

    def cpu(self) -> int | None:
        """The CPU that the worker's thread runs on; None: any."""
        cpu = int(lib.ffl_choice_cpu(self.initial_lcore, self.proc_id))
        return None if cpu < 0 else cpu


class Setting(NamedTuple):
    """A row of the table. `argument`: "" where a loop has none; `words`: () where they vary."""

    variable: str
    argument: str
    users: int
    places: bool
    words: tuple[str, ...]
    otherwise: str
    meaning: str
    row: Any

    @property
    def expected(self) -> str:
        """The values that it takes, in words."""
        words = Why()
        lib.ffl_setting_expected(self.row, *words.room)
        return str(words)


def _words(pointer: Any) -> tuple[str, ...]:
    found: list[str] = []
    while pointer != ffi.NULL and pointer[len(found)] != ffi.NULL:
        found.append(text_of(pointer[len(found)]))
    return tuple(found)


def _table() -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    while (row := lib.ffl_setting_at(len(found))) != ffi.NULL:
        names = text_of(row.variable), text_of(row.argument)
        documented = text_of(row.otherwise), text_of(row.meaning)
        found[names[0]] = Setting(
            *names, int(row.users), bool(row.places), _words(row.words), *documented, row
        )
    return found


SETTINGS = _table()  # by variable
LOOP: int = lib.FFL_SETTING_LOOP  # bits of Setting.users
SHIM: int = lib.FFL_SETTING_SHIM
_OF_LOOPS = [(name, row.argument) for name, row in SETTINGS.items() if row.argument]
_RAW = frozenset(os.fsencode(name) for name, _ in _OF_LOOPS)

STACKS = SETTINGS["FFLOOP_STACK"].words
KERNEL_SOCKETS = SETTINGS["FFLOOP_KERNEL_SOCKETS"].words


class _Values:
    """A struct ffl_config, and the texts that it points to."""

    def __init__(self) -> None:
        self._config = ffi.new("struct ffl_config *")
        self._texts: dict[str, Any] = {}
        lib.ffl_config_init(self._config)

    def set(self, setting: Setting, source: str, text: str) -> None:
        held, why = c_text(text, source), Why()
        if lib.ffl_config_set(self._config, setting.row, source.encode(), held, *why.room) < 0:
            raise ConfigError(str(why))
        self._texts[setting.variable] = held

    def get(self, setting: Setting) -> Any:
        kind, field = setting.row.kind, ffi.cast("char *", self._config) + setting.row.field
        if kind == lib.FFL_SETTING_ROUTES:
            return text_of(self._texts.get(setting.variable, ffi.NULL))
        if kind == lib.FFL_SETTING_FLAG:
            return bool(ffi.cast("bool *", field)[0])
        if kind in (lib.FFL_SETTING_TEXT, lib.FFL_SETTING_WORD):
            return text_of(ffi.cast("const char **", field)[0]) or None
        unsigned = kind == lib.FFL_SETTING_MASK
        return int(ffi.cast("uint64_t *" if unsigned else "int64_t *", field)[0])


_instead: dict[str, str] = {}  # of the environment, where that is not to be believed


def environment() -> MutableMapping[str, str]:
    """os.environ, or an empty mapping of this process's where the environment is not its own."""
    return os.environ if lib.ffl_setting_trusted() else _instead


def load(environ: Mapping[str, str] | None = None, **arguments: Any) -> Config:
    """Merges arguments (None: not given) over the environment. Raises ConfigError."""
    environ = environment() if environ is None else environ
    # os.environ raises and catches an exception for each name that it lacks; its dictionary of
    # bytes, the same in each Python, says at once that it lacks all.
    if environ is os.environ and _RAW.isdisjoint(getattr(environ, "_data", _RAW)):
        environ = {}
    given: list[tuple[str, str, str]] = []
    for variable, argument in _OF_LOOPS:
        chosen = arguments.pop(argument, None)
        if chosen is not None:
            given.append((variable, argument, _text(chosen)))
        elif text := environ.get(variable):
            given.append((variable, variable, text))
    if arguments:
        raise TypeError(_unknown(sorted(arguments)))
    return _config(*given)


def _unknown(options: list[str]) -> str:
    import difflib  # for this sentence alone

    known = [argument for _, argument in _OF_LOOPS]
    found = [difflib.get_close_matches(one, known, 1, 0.7) for one in options]
    near = dict.fromkeys(name for names in found for name in names)
    hint = f"did you mean {', '.join(near)}?" if near else "ffloop.LoopOptions has all"
    return f"unknown option {', '.join(options)}: {hint}"


@functools.lru_cache(maxsize=64)
def _config(*given: tuple[str, str, str]) -> Config:
    # From (variable, its source, value), of those that are given.
    values = _Values()
    for variable, source, text in given:
        values.set(SETTINGS[variable], source, text)
    return Config(**{argument: values.get(SETTINGS[name]) for name, argument in _OF_LOOPS})


def value(variable: str) -> Any:
    """The environment's value of one variable. Raises ConfigError."""
    setting, values = SETTINGS[variable], _Values()
    if given := environment().get(variable):
        values.set(setting, variable, given)
    return values.get(setting)


def _text(given: Any) -> str:
    if isinstance(given, bool):
        return "1" if given else "0"
    if isinstance(given, os.PathLike):
        return os.fsdecode(given)
    return str(given)
