"""What tests of several folders share: instances as processes, servers, free ports."""

import os

# Where F-Stack is built, tests run on it as well: by an instance, and in this process. See
# fstack/net.py.
ON_FSTACK = ("fstack", "fstack-direct") if os.environ.get("FF_PATH") else ()


def open_fds() -> set[str]:
    """The descriptors of this process, by number and target."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{fd}->{os.readlink(f'/proc/self/fd/{fd}')}")
        except FileNotFoundError:
            pass
    return found
