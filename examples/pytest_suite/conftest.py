"""Runs a whole suite of pytest-asyncio's on ffloop, with nothing in its tests changed.

`pytest examples/pytest_suite`. Needs `pip install ffloop pytest pytest-asyncio`.
"""

from collections.abc import Callable
from typing import Any

import ffloop


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Callable[[], Any]]:
    return {"ffloop": ffloop.new_event_loop}
