# PYTHON_ARGCOMPLETE_OK: what `activate-global-python-argcomplete` looks for.
"""The command `ffloop`."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `ffloop` command. Returns an exit status."""
    try:
        from . import dispatch  # here, since Ctrl-C may come while it is imported
    except KeyboardInterrupt:
        return 130
    return dispatch.main(argv)


if __name__ == "__main__":
    sys.exit(main())
