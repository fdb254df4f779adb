"""`python benchmarks/run.py`: `ffloop bench`, and with `--fstack` the same on the real F-Stack.

`--fstack` compares uvloop on kernel sockets with ffloop on F-Stack, over veth pairs: with an
instance on one CPU, server and load share the other; with F-Stack in the server's process, server
and load have a CPU each. It needs what tests/fstack needs.
"""

from __future__ import annotations

import argparse
import sys

from ffloop._cli import parser as options
from ffloop._cli.bench import command


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.bench(parser)
    parser.add_argument("--fstack", action="store_true", help="over veth, on the real F-Stack")
    parser.add_argument("--delays", default="50,10", metavar="US,...", help="pkt_tx_delay (50,10)")
    args = parser.parse_args()
    if not args.fstack:
        return command.main(args)
    from on_fstack import on_fstack

    args.apps = [app for app in args.apps if app != "ring"]
    return command.main(args, on_fstack([int(us) for us in args.delays.split(",")]))


if __name__ == "__main__":
    sys.exit(main())
