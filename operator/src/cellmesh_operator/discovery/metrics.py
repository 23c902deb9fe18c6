"""Metrics in the text format of Prometheus, collected when they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cellmesh_operator.discovery.cluster import Cluster
from cellmesh_operator.discovery.service import Discovery

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "cellmesh_discovery_"


class Metrics(Collector):
    """The metrics of one ``Discovery``, and a count of its answers by endpoint and status."""

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery
        self._requests: Counter[tuple[str, int]] = Counter()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def count_request(self, endpoint: str, status: int) -> None:
        """Count one answer; ``endpoint`` is one of a fixed set of names."""
        self._requests[endpoint, status] += 1

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Return nothing: nobody else writes into this registry, so there are no names to keep apart."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its value now."""
        discovery = self._discovery
        peers = GaugeMetricFamily(_PREFIX + "peers", "Peers known, by mesh and source.", labels=["mesh", "source"])
        for mesh, members in discovery.registry.meshes().items():
            for source, count in (("pod", members.pods), ("registered", len(members) - members.pods)):
                if count:
                    peers.add_metric([mesh, source], count)
        yield peers
        yield GaugeMetricFamily(_PREFIX + "waiters", "Queries waiting for a change.", len(discovery.waiters))
        yield GaugeMetricFamily(
            _PREFIX + "settled", "1 once every living cell has had time to be heard.", int(discovery.settled)
        )
        counters = discovery.counters
        for name, text, value in (
            ("registrations", "Registrations taken, renewals included.", counters.registrations),
            ("heartbeats", "Heartbeats of registered cells.", counters.heartbeats),
            ("deregistrations", "Registrations removed on request.", counters.deregistrations),
            ("expired", "Registrations removed after too long a silence.", counters.expired),
        ):
            yield CounterMetricFamily(_PREFIX + name, text, value)
        requests = CounterMetricFamily(
            _PREFIX + "requests", "Answers by endpoint and status.", labels=["endpoint", "status"]
        )
        for (endpoint, status), count in self._requests.items():
            requests.add_metric([endpoint, str(status)], count)
        yield requests
        if discovery.cluster is not None:
            yield from _of_cluster(discovery.cluster)


def _of_cluster(cluster: Cluster) -> Iterator[Metric]:
    yield GaugeMetricFamily(_PREFIX + "synced", "1 once a complete list of everything has come.", int(cluster.synced))
    yield GaugeMetricFamily(
        _PREFIX + "age_seconds", "Seconds since what is told of pods and Cells was last known to be so.", cluster.age
    )
    labels = ["resource", "namespace"]
    restarts = CounterMetricFamily(_PREFIX + "watch_restarts", "Watches begun anew after a loss.", labels=labels)
    repairs = CounterMetricFamily(
        _PREFIX + "repairs", "Changes that a watch had missed, found by comparing with a complete list.", labels=labels
    )
    for reflector in cluster.reflectors:
        where = [reflector.resource.plural, reflector.namespace or ""]
        restarts.add_metric(where, reflector.restarts)
        repairs.add_metric(where, reflector.repairs)
    yield restarts
    yield repairs
    sharing = cluster.sharing
    writes = CounterMetricFamily(_PREFIX + "lease_writes", "Writes to Leases of registrations.", labels=["kind"])
    for kind, count in sharing.writes.items():
        writes.add_metric([kind], count)
    yield writes
    yield CounterMetricFamily(
        _PREFIX + "lease_write_failures", "Writes to Leases that failed, to be tried again.", sharing.failures
    )
    yield GaugeMetricFamily(
        _PREFIX + "unwritten_registrations", "Registrations changed here and not written yet.", sharing.unwritten
    )
