"""The logger "ffloop": which instance is used, and when it goes and comes back."""

import logging

log = logging.getLogger("ffloop")
