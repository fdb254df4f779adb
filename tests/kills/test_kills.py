"""kill -9 at random moments under load, on the host stack; FFLOOP_SCALE=full kills 2,000 times."""

import asyncio
import os
from pathlib import Path

import pytest

from .world import OnHost, live_and_die

FULL = os.environ.get("FFLOOP_SCALE") == "full"
KILLS = 2000 if FULL else 60


@pytest.mark.timeout(3000 if FULL else 300)
def test_kills(tmp_path: Path) -> None:
    asyncio.run(live_and_die(OnHost(tmp_path), KILLS, quiet=5.0 if FULL else 1.0))
