"""`ffloop bench`, and with `--fstack` on the real F-Stack: `python benchmarks/run.py`.

`--fstack` compares uvloop on kernel sockets with ffloop on F-Stack, over veth pairs: the server and
the load on one CPU (an instance has the other one), or on a CPU each (F-Stack in the server's
process); it needs what tests/fstack needs.
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
