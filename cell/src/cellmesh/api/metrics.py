"""What /metrics shows; read when asked for, so that counting costs the message path an integer."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from cellmesh.service.cell import Cell


class CellCollector(Collector):
    """Metrics of one cell."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self.oldest_pending_seconds: float | None = None
        self.oldest_queued_seconds: float | None = None

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics (prometheus_client)."""
        cell = self._cell
        gauges = cell.inbox.gauges
        state = GaugeMetricFamily("cellmesh_inbox_messages", "Messages in the inbox.", labels=["state"])
        for name in ("pending", "leased", "consumed", "dead"):
            state.add_metric([name], getattr(gauges, name))
        yield state
        yield GaugeMetricFamily("cellmesh_inbox_bytes", "Size of the inbox's files.", value=cell.inbox.file_bytes())
        yield GaugeMetricFamily(
            "cellmesh_inbox_oldest_pending_seconds",
            "Age of the oldest pending message; 0 if there is none.",
            value=self.oldest_pending_seconds or 0.0,
        )
        yield CounterMetricFamily("cellmesh_inbox_groups", "Group commits.", value=cell.inbox.writer.groups)
        yield CounterMetricFamily(
            "cellmesh_inbox_commit_seconds", "Time spent in group commits.", value=cell.inbox.writer.commit_seconds
        )
        for name, text, counter in (
            ("cellmesh_received_messages", "Messages received, by outcome.", cell.counters.received),
            ("cellmesh_sent_messages", "Messages sent, by outcome.", cell.counters.sent),
            ("cellmesh_asked_messages", "Messages sent whose reply was awaited, by outcome.", cell.counters.asked),
            ("cellmesh_settled_messages", "Messages settled by consumers, by outcome.", cell.counters.settled),
            (
                "cellmesh_handled_messages",
                "Messages given to handlers of this cell, by outcome.",
                cell.counters.handled,
            ),
        ):
            family = CounterMetricFamily(name, text, labels=["outcome"])
            for outcome, count in counter.items():
                family.add_metric([outcome], count)
            yield family
        for name, text, counter in (
            ("cellmesh_handed_over", "Handed over to siblings.", cell.counters.handed_over),
            ("cellmesh_taken_over", "Taken over from siblings.", cell.counters.taken_over),
        ):
            family = CounterMetricFamily(name, text, labels=["what"])
            for what in ("messages", "records"):
                family.add_metric([what], counter[what])
            yield family
        yield GaugeMetricFamily(
            "cellmesh_consumers_waiting", "Consumers waiting for a message.", value=cell.inbox.writer.consumers_waiting
        )
        yield CounterMetricFamily(
            "cellmesh_leased_messages", "Messages handed out to consumers.", value=cell.counters.leased
        )
        yield CounterMetricFamily(
            "cellmesh_send_retries", "Attempts beyond the first of a message.", value=cell.counters.retries
        )
        yield GaugeMetricFamily("cellmesh_send_waiting", "Messages waiting for a request.", value=cell.courier.waiting)
        yield GaugeMetricFamily("cellmesh_handling_messages", "Messages being handled now.", value=cell.handling)
        yield GaugeMetricFamily(
            "cellmesh_handlers_lingering", "Handlers that ran out of time and still run.", value=cell.lingering
        )
        yield from self._outbox()
        yield GaugeMetricFamily("cellmesh_ready", "Whether this instance is ready.", value=float(cell.ready))

    def _outbox(self) -> Iterator[Metric]:
        outbox = self._cell.outbox
        state = GaugeMetricFamily("cellmesh_outbox_messages", "Messages in the outbox.", labels=["state"])
        for name, count in outbox.totals.items():
            state.add_metric([name], count)
        yield state
        yield GaugeMetricFamily(
            "cellmesh_outbox_oldest_queued_seconds",
            "Age of the oldest message that is queued to be sent; 0 if there is none.",
            value=self.oldest_queued_seconds or 0.0,
        )
        yield CounterMetricFamily("cellmesh_outbox_queued", "Messages queued.", value=self._cell.counters.queued)
        yield CounterMetricFamily("cellmesh_outbox_attempts", "Attempts to deliver a message.", value=outbox.attempts)
        ended = CounterMetricFamily(
            "cellmesh_outbox_ended", "Queued messages that ended, by outcome.", labels=["outcome"]
        )
        for name, count in outbox.ended.items():
            ended.add_metric([name], count)
        yield ended


class Metrics:
    """The registry of one cell."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._collector = CellCollector(cell)
        self._registry = CollectorRegistry()
        self._registry.register(self._collector)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    async def render(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        self._collector.oldest_pending_seconds = await self._cell.inbox.oldest_pending_seconds()
        self._collector.oldest_queued_seconds = await self._cell.outbox.oldest_queued_seconds()
        return generate_latest(self._registry)
