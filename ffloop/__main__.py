"""`python -m ffloop`: as the command `ffloop`."""

import sys

from ._cli.main import main

sys.exit(main())
