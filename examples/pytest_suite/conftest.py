"""Runs a whole pytest-asyncio suite on ffloop, its tests unchanged.

`pytest examples/pytest_suite`. Needs `pip install . pytest pytest-asyncio`, in a checkout.
"""

from collections.abc import Callable
from typing import Any

import ffloop


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Callable[[], Any]]:
    return {"ffloop": ffloop.new_event_loop}
