"""``cellmesh top``: how busy each instance is."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import click

from cellmesh.cli import http
from cellmesh.cli.lookup import addressable, discovery_options, peers
from cellmesh.cli.output import age, print_json, table
from cellmesh.protocol.peers import Peer


@dataclass(frozen=True)
class Sample:
    """What an instance says of itself, and when."""

    at: float
    messages: dict[str, Any]
    sent: dict[str, Any]
    outbox: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One line: counts as they are, rates since the sample before; None where unknown."""

    cell: str
    instance: str
    url: str
    status: str
    pending: int | None = None
    leased: int | None = None
    oldest_pending_seconds: float | None = None
    received_per_second: float | None = None
    sent_per_second: float | None = None
    failed_per_second: float | None = None
    queued: int | None = None
    received: int | None = None
    dead: int | None = None
    bytes: int | None = None


@click.command()
@click.option("--interval", type=click.FloatRange(0.05, 3600), default=1.0, show_default=True, help="Seconds.")
@click.option("--once", is_flag=True, help="Show one interval, then exit.")
@discovery_options
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON for each interval.")
def top(*, mesh: str, interval: float, once: bool, as_json: bool) -> None:
    """Show for each instance what waits, how long it has waited, and what goes in and out a second."""
    views = _watch(mesh, interval)
    if once:
        _print(next(views), as_json=as_json)
    elif as_json or not sys.stdout.isatty():
        for rows in views:
            _print(rows, as_json=as_json)
    else:
        _live(views)


def _watch(mesh: str, interval: float) -> Iterator[list[Row]]:
    with ThreadPoolExecutor(16, thread_name_prefix="top") as pool:
        before = _sample(mesh, pool)
        while True:
            time.sleep(interval)
            now = _sample(mesh, pool)
            yield [row(peer, before.get(key, (peer, None))[1], sample) for key, (peer, sample) in now.items()]
            before = now


def _sample(mesh: str, pool: ThreadPoolExecutor) -> dict[tuple[str, str], tuple[Peer, Sample | None]]:
    found = addressable(peers(mesh))
    return {(peer.cell_id, peer.key): (peer, sample) for peer, sample in zip(found, pool.map(_ask, found), strict=True)}


def _ask(peer: Peer) -> Sample | None:
    answer = http.probe(f"{peer.url}/health")
    body = answer.body if answer is not None else None
    if not isinstance(body, dict) or not isinstance(body.get("messages"), dict):
        return None
    sent, outbox = ({} if not isinstance(body.get(name), dict) else body[name] for name in ("sent", "outbox"))
    return Sample(time.monotonic(), body["messages"], sent, outbox)


def row(peer: Peer, before: Sample | None, now: Sample | None) -> Row:
    """Return the line of an instance from two samples of it."""
    if now is None:
        return Row(peer.cell_id, peer.key, peer.url, "no answer")

    def rate(part: str, name: str) -> float | None:
        old: float | None = getattr(before, part).get(name) if before else None
        new: float | None = getattr(now, part).get(name)
        # It counts from its start: fewer than before means that it has started again.
        if before is None or old is None or new is None or new < old:
            return None
        return round((new - old) / max(now.at - before.at, 1e-6), 1)

    return Row(
        peer.cell_id,
        peer.key,
        peer.url,
        "ok",
        now.messages.get("pending"),
        now.messages.get("leased"),
        now.messages.get("oldest_pending_seconds"),
        rate("messages", "received"),
        rate("sent", "delivered"),
        rate("sent", "failed"),
        now.outbox.get("queued"),
        now.messages.get("received"),
        now.messages.get("dead"),
        now.messages.get("bytes"),
    )


_HEADER = (
    "INSTANCE", "STATUS", "PENDING", "LEASED", "OLDEST", "RECEIVED/S", "SENT/S", "FAILED/S", "QUEUED", "RECEIVED",
    "DEAD", "MB",
)  # fmt: skip


def _lines(rows: list[Row]) -> list[str]:
    shown = [
        (
            line.instance,
            line.status,
            line.pending,
            line.leased,
            age(line.oldest_pending_seconds),
            line.received_per_second,
            line.sent_per_second,
            line.failed_per_second,
            line.queued,
            line.received,
            line.dead,
            None if line.bytes is None else f"{line.bytes / 1e6:.1f}",
        )
        for line in rows
    ]
    return table(_HEADER, shown, right=range(2, len(_HEADER)))


def _print(rows: list[Row], *, as_json: bool) -> None:
    if as_json:
        print_json({"instances": [asdict(line) for line in rows]})
        return
    for line in _lines(rows):
        click.echo(line)


def _live(views: Iterator[list[Row]]) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(Text("asking ..."), screen=True, auto_refresh=False) as live:
        for rows in views:
            live.update(Text("\n".join(_lines(rows))), refresh=True)
