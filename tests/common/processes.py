"""Other programs, run to their end."""

import os
import subprocess
from typing import Any


def completed(
    *command: str | os.PathLike[str], timeout: float | None = None, **options: Any
) -> "subprocess.CompletedProcess[str]":
    """Runs a command to its end, with what it writes as text."""
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, **options)
