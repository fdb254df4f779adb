"""What tests of several folders share: instances as processes, servers, free ports."""

import os

# Where F-Stack is built, tests run on it as well: by an instance, and in this process. See
# fstack/net.py.
ON_FSTACK = ("fstack", "fstack-direct") if os.environ.get("FF_PATH") else ()
