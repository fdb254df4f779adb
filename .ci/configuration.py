"""Prints docs/configuration.md from the tables in the core (an installed ffloop's).

python .ci/configuration.py >docs/configuration.md
"""

from collections.abc import Iterator
from typing import Any

from ffloop._session import configuration
from ffloop._session.native import ffi, lib, text_of

HEAD = """\
# Configuration

Printed from the core's tables by `.ci/configuration.py`; a test says when it is not.

## Variables

Each may be set in the environment. The loop has most of them as arguments too
(`ffloop.run(main(), stack="host")`, `ffloop.new_event_loop(routes=...)`), which go before. Upper
case, and blanks around a value, do not matter; an empty value is none. A malformed one is a
`ConfigError` of the loop, a line on standard error under the shim, and a finding of `ffloop doctor`,
in the same words. Under the shim sockets are refused then (ENETDOWN) if the variable says where they
go (marked with *); without the others the program goes on. A process that has more rights than who
started it takes nothing from the environment.
"""

ROUTES = """
## Routes

`FFLOOP_ROUTES` is a list of rules, `NETWORK/BITS=stack` or `NETWORK/BITS=kernel`, separated by
commas. The first that matches the address that a socket is bound or connected to decides; without
bits a rule is for one address. An IPv4 address in IPv6's clothes (`::ffff:10.0.0.1`) is the IPv4
address, in rules as in sockets; `::/0` is for no IPv4 address. Bits that are set behind the network's
(`127.0.0.1/8`) are a mistake. Without a match all goes to the stack, but loopback with fstack, which
has none of the machine's.
"""

OPTIONS = """
## Socket options

Options that are set on a stack socket are the stack's to take or to refuse (ENOPROTOOPT, as for
IP_LOCAL_PORT_RANGE of a datagram socket where several users are admitted; EPERM where the
application lacks the right). Options that were set before the stack took a socket's place (by the
shim at bind, listen or connect; by `sock_connect`; by `create_server(sock=)` and
`create_datagram_endpoint(sock=)`) go along. Where the stack refuses one of these:

- with the host stack, which is this kernel, the socket stays on the kernel, which has taken the
  option; the log says so;
- with another stack, the call fails and names the option if it *restricts*: whom the socket serves or
  reaches, or how. Without it the socket would do what it is not to do. Of any other the log has a
  warning, and the socket goes on.

In the table *set* is what can be set and read, *read* what can only be read. What is in no row is
refused. Multicast groups go along too. What cannot be read back from a socket (a key of TCP_MD5SIG)
goes along under the shim, which has seen it set; the loop does not know of it.
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


def rows() -> Iterator[Any]:
    i = 0
    while (row := lib.ffl_option_at(i)) != ffi.NULL:
        yield row
        i += 1


def options() -> str:
    lines = ["", "| option | host | fstack | goes along | restricts |", "|---|---|---|---|---|"]
    for row in rows():
        can = "set" if row.flags & lib.FFL_OPTION_SET else "read"
        host = can if row.flags & (lib.FFL_OPTION_SET | lib.FFL_OPTION_GET) else "no"
        fstack = can if row.bsd != lib.FFL_BSD_NONE else "no"
        carried = "yes" if row.flags & lib.FFL_OPTION_CARRY else ""
        restricts = "yes" if row.flags & lib.FFL_OPTION_RESTRICTS else ""
        lines.append(f"| {text_of(row.text)} | {host} | {fstack} | {carried} | {restricts} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    return HEAD + variables() + ROUTES + OPTIONS + options()


if __name__ == "__main__":
    print(page(), end="")
