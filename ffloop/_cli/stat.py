"""`ffloop stat`: shows instances once, as tables, JSON or Prometheus's text; or serves metrics."""

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict

from .._session.stats_page import Instance
from . import collect, metrics


def main(args: argparse.Namespace) -> int:
    """Prints the instances, or serves their metrics. Returns an exit status. Raises InstanceError
    where no instance can be read."""
    if args.metrics is not None:
        address, port = args.metrics
        return metrics.serve(address, port, args.instance)
    instances, refused = collect.some(args.instance)
    if args.json:
        print(as_json(instances, refused))
    elif args.prometheus or args.openmetrics:
        print(metrics.text(instances, args.openmetrics), end="")
    else:
        from . import tables

        tables.console().print(tables.tables(instances, refused, args.sockets))
    return 0


def as_json(instances: list[Instance], refused: Iterable[str] = ()) -> str:
    """{"instances": [...], "refused": [...]}; fields as in stats_page."""
    return json.dumps(
        {"instances": [asdict(instance) for instance in instances], "refused": list(refused)},
        indent=1,
    )
