"""A loop's figures for prometheus_client: `pip install 'ffloop[metrics]'`.

    collector = ffloop.metrics.LoopCollector(loop, "main")
    prometheus_client.REGISTRY.register(collector)
    prometheus_client.start_http_server(9100, addr="127.0.0.1")

What runs in instances is another exporter's: `ffloop stat --metrics`.
"""

from collections.abc import Iterator
from itertools import accumulate
from math import isinf

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ._loop.loop import Loop


class LoopCollector(Collector):
    """`ffloop_loop_lag_seconds`, a histogram, with the label `loop`: how long the loop's iterations
    worked, which is how long an event may have waited. It may be collected by any thread, and
    keeps the figures of a loop that was closed."""

    def __init__(self, loop: Loop, name: str = "main") -> None:
        self._loop, self._name = loop, name

    def collect(self) -> Iterator[Metric]:
        """The families, for a registry."""
        lag = self._loop.ffloop_lag()
        family = HistogramMetricFamily(
            "ffloop_loop_lag_seconds", "How long the loop's iterations worked.", labels=["loop"]
        )
        so_far = accumulate(lag.iterations.values())
        buckets = [
            ("+Inf" if isinf(bound) else str(bound), count)
            for bound, count in zip(lag.iterations, so_far, strict=True)
        ]
        family.add_metric([self._name], buckets, sum_value=lag.seconds)
        yield family
