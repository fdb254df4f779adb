"""Routes: whether an address is the stack's, by the core's rule (ffloop/_native/policy/route.h)."""

import socket
from typing import Any

from ..errors import ConfigError
from .address import literal
from .native import Why, c_text, ffi, lib

FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Router:
    """Decides for one loop. Raises ConfigError for rules that are malformed."""

    def __init__(self, stack: str, rules: str = "") -> None:
        self._stack = stack.encode()
        self._routes = ffi.new("struct ffl_route *")
        why = Why()
        if lib.ffl_route_parse(self._routes, b"routes", c_text(rules, "routes"), *why.room) < 0:
            raise ConfigError(str(why))

    def on_stack(self, family: int, address: Any) -> bool:
        """Whether a socket address (numeric; a name counts as the wildcard) is the stack's, as a
        destination or to bind to."""
        if family not in FAMILIES:
            return False
        packed = ffi.from_buffer("struct ffl_addr *", literal(family, address))
        return bool(lib.ffl_route_on_stack(self._routes, self._stack, packed))


def same_kernel(stack: str) -> bool:
    """Whether the stack is this kernel, or has ports and addresses of its own."""
    return bool(lib.ffl_route_same_kernel(stack.encode()))
