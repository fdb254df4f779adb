"""Which stack an address belongs to. Pure functions and a small table.

With the host stack everything of AF_INET and AF_INET6 goes to the instance. With fstack, loopback
stays on the kernel: the stack has no loopback of the machine's. Rules come first and the first one
that matches decides.
"""

import ipaddress
import socket
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
FAMILIES = (socket.AF_INET, socket.AF_INET6)


@dataclass(frozen=True, slots=True)
class Router:
    """Decides for one loop; made by `router`."""

    loopback_on_stack: bool
    rules: tuple[tuple[_Network, bool], ...] = ()

    def on_stack(self, family: int, address: Any) -> bool:
        """Whether a socket address (numeric) is the stack's, as a destination or to bind to."""
        if family not in FAMILIES:
            return False
        if self.loopback_on_stack and not self.rules:
            return True
        ip = _ip(address)
        if ip is None:
            return True
        for network, stack in self.rules:
            if ip.version == network.version and ip in network:
                return stack
        return self.loopback_on_stack or not ip.is_loopback


def _ip(address: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(str(address[0]).partition("%")[0])
    except (ValueError, IndexError, TypeError):
        return None  # "" or a name: a wildcard, or not resolved
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip


def parse_rules(text: str) -> tuple[tuple[_Network, bool], ...]:
    """ "10.0.0.0/8=stack,::1/128=kernel" to (network, on the stack). Raises ConfigError."""
    rules = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        network, _, where = item.partition("=")
        try:
            rules.append((ipaddress.ip_network(network.strip()), _WHERE[where.strip()]))
        except (ValueError, KeyError):
            raise ConfigError(
                f"routes (FFLOOP_ROUTES) {text!r}: {item!r} is not NETWORK=stack or NETWORK=kernel"
            ) from None
    return tuple(rules)


_WHERE = {"stack": True, "kernel": False}


def router(stack: str, rules: str = "") -> Router:
    """The router for an instance's stack and the `routes` option."""
    return Router(stack != "fstack", parse_rules(rules))
