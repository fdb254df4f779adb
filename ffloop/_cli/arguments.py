"""Kinds of arguments that the commands share, for argparse: each says in words what it takes."""

import argparse
from collections.abc import Callable


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
    """Seconds, more than 0 (or 0 too), of an hour at most."""

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
