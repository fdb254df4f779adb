"""FFLoopPolicy and install. Python deprecates event loop policies from 3.14 on and removes them in
3.16."""

import asyncio
import warnings
from typing import TYPE_CHECKING, Any, Unpack

from .._session.options import LoopOptions
from .loop import Loop

if TYPE_CHECKING:
    from asyncio import DefaultEventLoopPolicy as _DefaultPolicy
else:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        _DefaultPolicy = getattr(asyncio, "DefaultEventLoopPolicy", object)


def available() -> bool:
    """Whether this Python has policies."""
    return _DefaultPolicy is not object


class FFLoopPolicy(_DefaultPolicy):
    """An event loop policy whose loops are ffloop.Loop.

    Keyword arguments are the loop's. Child watchers and the rest are asyncio's own. Raises
    RuntimeError where Python has no policies.
    """

    def __init__(self, **options: Unpack[LoopOptions]) -> None:
        if not available():
            raise RuntimeError(
                "this Python has no event loop policies: use `ffloop.run(main())`, or "
                "`loop_factory=ffloop.new_event_loop`"
            )
        super().__init__()
        self._options = options

    def _loop_factory(self) -> Loop:
        return Loop(**self._options)


def install(**options: Unpack[LoopOptions]) -> None:
    """Makes ffloop the default loop, by `asyncio.set_event_loop_policy`. Raises RuntimeError where
    Python has no policies.

    Prefer `ffloop.run` or `loop_factory=ffloop.new_event_loop`.
    """
    policy = FFLoopPolicy(**options)
    set_policy: Any = asyncio.set_event_loop_policy
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        set_policy(policy)
