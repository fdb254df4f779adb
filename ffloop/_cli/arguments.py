"""What commands share: the argparse types, whose errors say what each accepts, and words."""

import argparse
import pathlib
import sys
from collections.abc import Callable


class Refused(Exception):
    """A sentence that says why a command cannot do what it is told."""


def say(words: str) -> None:
    """A line of `ffloop run`'s on standard error, in one piece: other workers write there too."""
    sys.stderr.write(f"ffloop run: {words}\n")
    sys.stderr.flush()


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A whole number from `least` (to `most`)."""
    span = f"{least} or more" if most is None else f"from {least} to {most}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"a whole number, {span}, not {text!r}")
        return value

    return parse


def seconds(zero: bool = False) -> Callable[[str], float]:
    """Seconds: more than 0 (with `zero`, 0 too), 3600 at most."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not (0 < value <= 3600 or (zero and value == 0)):
            least = "from 0" if zero else "more than 0, up"
            raise argparse.ArgumentTypeError(f"seconds, {least} to 3600, not {text!r}")
        return value

    return parse


port = whole(0, 65535)


def target(text: str) -> str:
    """An instance: its socket's path, or its pid."""
    if not text:
        raise argparse.ArgumentTypeError("a socket's path or a pid")
    return text


def endpoint(text: str) -> tuple[str, int]:
    """[ADDRESS:]PORT as (address, port): "127.0.0.1" for PORT alone, "0.0.0.0" for :PORT. An IPv6
    address may stand in brackets."""
    address, colon, number = text.rpartition(":")
    if address.startswith("[") != address.endswith("]"):
        raise argparse.ArgumentTypeError(f"[ADDRESS:]PORT, not {text!r}")
    address = address.removeprefix("[").removesuffix("]")
    return address or ("0.0.0.0" if colon else "127.0.0.1"), port(number)


def words(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Words of `known`, separated by commas."""

    def parse(text: str) -> list[str]:
        given = text.split(",")
        for word in given:
            if word not in known:
                raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(known)}")
        return given

    return parse


def numbers(least: int, most: int | None = None) -> Callable[[str], list[int]]:
    """Whole numbers from `least` (to `most`), separated by commas."""
    one = whole(least, most)
    return lambda text: [one(word) for word in text.split(",")]


def file_named(suffixes: tuple[str, ...]) -> Callable[[str], pathlib.Path]:
    """A path that ends in one of the suffixes."""

    def parse(text: str) -> pathlib.Path:
        path = pathlib.Path(text)
        if path.suffix not in suffixes:
            raise argparse.ArgumentTypeError(f"{text}: a name that ends in {' or '.join(suffixes)}")
        return path

    return parse
