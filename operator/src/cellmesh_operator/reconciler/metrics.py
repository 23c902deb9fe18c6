"""Metrics of the reconciler in Prometheus' text format. Labels have a fixed, small set of values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX: Final = "cellmesh_reconciler_"
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

#: Name, help and value of a gauge that is read when it is asked for.
Gauge = tuple[str, str, Callable[[], float]]


class Metrics:
    """What is counted while the reconciler works, and gauges that others provide."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._durations = Histogram(
            _PREFIX + "reconcile_seconds",
            "Time that one look at a Cell took.",
            registry=self._registry,
            buckets=_BUCKETS,
        )
        self._reconciles = self._counter("reconciles", "Looks at a Cell, by result.", "result")
        self._writes = self._counter("writes", "Requests that change something, by kind and result.", "kind", "result")
        self._repairs = self._counter(
            "repairs", "Objects that a watch had missed and a complete list brought, by kind.", "kind"
        )
        self._changes = self._counter("events", "Changes that watches reported, by kind.", "kind")
        self._notices = self._counter("notices", "Events about Cells: sent, repeated or left out.", "result")
        self._restarts = self._counter("watcher_restarts", "Times that watching ended by itself and began anew.")
        for result in ("success", "failure"):
            self._reconciles.labels(result)

    def reconciled(self, seconds: float, *, failed: bool) -> None:
        """Count and time one look at a Cell."""
        self._durations.observe(seconds)
        self._reconciles.labels("failure" if failed else "success").inc()

    def wrote(self, kind: str, *, failed: bool) -> None:
        """Count a request that changes something."""
        self._writes.labels(kind, "failure" if failed else "success").inc()

    def repaired(self, kind: str, count: int) -> None:
        """Count objects that a watch had missed."""
        self._repairs.labels(kind).inc(count)

    def changed(self, kind: str) -> None:
        """Count a change that a watch reported."""
        self._changes.labels(kind).inc()

    def noticed(self, result: str) -> None:
        """Count an Event; ``result`` is sent, repeated or dropped."""
        self._notices.labels(result).inc()

    def restarted(self) -> None:
        """Count a new beginning of watching."""
        self._restarts.inc()

    def watch(self, gauges: Iterable[Gauge], conditions: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        """Add gauges, and the number of Cells by condition and its status."""
        self._registry.register(_Now(tuple(gauges), conditions))

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(_PREFIX + name, text, labels, registry=self._registry)


class _Now(Collector):
    """What is read at the moment it is asked for."""

    def __init__(self, gauges: tuple[Gauge, ...], conditions: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        self._gauges = gauges
        self._conditions = conditions

    def describe(self) -> list[Metric]:
        """Return nothing: nobody else writes into this registry, so there are no names to keep apart."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its value now."""
        for name, text, value in self._gauges:
            yield GaugeMetricFamily(_PREFIX + name, text, value=value())
        cells = GaugeMetricFamily(
            _PREFIX + "cells", "Cells by condition and its status.", labels=["condition", "status"]
        )
        for (condition, status), count in sorted(self._conditions().items()):
            cells.add_metric([condition, status], count)
        yield cells
