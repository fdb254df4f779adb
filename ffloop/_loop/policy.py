"""FFLoopPolicy. Imported only when asked for: policies are deprecated from Python 3.14."""

import asyncio
import sys
import warnings
from typing import TYPE_CHECKING, Any

from .loop import Loop

if TYPE_CHECKING or sys.version_info < (3, 14):
    from asyncio import DefaultEventLoopPolicy as _DefaultPolicy
else:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        _DefaultPolicy = asyncio.DefaultEventLoopPolicy


class FFLoopPolicy(_DefaultPolicy):
    """An event loop policy whose loops are ffloop.Loop.

    Keyword arguments are the loop's. Child watchers and the rest are asyncio's own.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._options = options

    def _loop_factory(self) -> Loop:
        return Loop(**self._options)


def install(**options: Any) -> None:
    """Makes ffloop the default loop, by `asyncio.set_event_loop_policy`.

    Prefer `ffloop.run` or `loop_factory=ffloop.new_event_loop`: Python 3.16 has no policies.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(FFLoopPolicy(**options))
