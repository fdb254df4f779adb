"""Prints docs/configuration.md from the tables in the core (an installed ffloop's).

python .ci/configuration.py >docs/configuration.md
"""

from ffloop._session import configuration

HEAD = """\
# Configuration

Printed from the core's tables by `.ci/configuration.py`; a test says when it is not.

## Variables

Each may be set in the environment. The loop has most of them as arguments too (`ffloop.run(main(),
stack="host")`, `ffloop.new_event_loop(routes=...)`), which go before. Upper case, and blanks around a
value, do not matter; an empty value is none. A malformed one is a `ConfigError` of the loop, a line on
standard error under the shim, and a finding of `ffloop doctor`, in the same words. Under the shim sockets
are refused then (ENETDOWN) if the variable says where they go (marked with *); without the others the
program goes on. A process that has more rights than who started it takes nothing from the environment.
"""

ROUTES = """
## Routes

`FFLOOP_ROUTES` is a list of rules, `NETWORK/BITS=stack` or `NETWORK/BITS=kernel`, separated by commas. The
first that matches the address that a socket is bound or connected to decides; without bits a rule is for
one address. An IPv4 address in IPv6's clothes (`::ffff:10.0.0.1`) is the IPv4 address, in rules as in
sockets; `::/0` is for no IPv4 address. Bits that are set behind the network's (`127.0.0.1/8`) are a
mistake. Without a match all goes to the stack, but loopback with fstack, which has none of the machine's.
"""


def variables() -> str:
    lines = ["", "| variable | argument | value | default | meaning |", "|---|---|---|---|---|"]
    for one in configuration.SETTINGS.values():
        name = f"`{one.variable}`{'*' if one.places else ''}"
        argument = f"`{one.argument}`" if one.argument else whose(one)
        cells = (name, argument, one.expected, one.otherwise or "none", one.meaning)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def whose(one: configuration.Setting) -> str:
    if one.users & configuration.SHIM:
        return "(the shim's)"
    return "(embedded instances')" if one.users & configuration.LOOP else "(the build's)"


def page() -> str:
    return HEAD + variables() + ROUTES


if __name__ == "__main__":
    print(page(), end="")
