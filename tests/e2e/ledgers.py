"""Messages sent while things happen, and whether what was acknowledged is there afterwards.

Identity is judged by a number and a hash inside the payload, never by the message's id.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from e2e.client_pod import ClientPod
from e2e.clusters import SOON
from e2e.spaces import Space
from support import eventually

#: Seconds after a pod is Ready until discovery and then the sending cell know, on a slow machine.
NEWS = 2.0


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One ``POST /send`` and what came of it; ``status`` 0: no answer. Times in seconds since the epoch."""

    number: int
    began: float
    ended: float
    status: int
    code: str
    entry: str
    origin: str = ""
    retry_after: str | None = None
    maybe_delivered: bool | None = None
    instance: str = ""
    acknowledged: bool = False
    url: str = ""

    @property
    def delivered(self) -> bool:
        """Whether the receiver has acknowledged it."""
        return self.status == 200 and self.acknowledged


@dataclass(kw_only=True)
class Record:
    """All that one ledger has seen, in the order of time."""

    run: str
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def delivered(self) -> list[Attempt]:
        """The attempts that were acknowledged, in the order of their end."""
        return sorted((one for one in self.attempts if one.delivered), key=lambda one: one.ended)

    @property
    def failed(self) -> list[Attempt]:
        """The attempts that were not."""
        return [one for one in self.attempts if not one.delivered]

    @property
    def acknowledged(self) -> set[int]:
        """Numbers of the messages that were acknowledged."""
        return {one.number for one in self.delivered}

    @property
    def unclear(self) -> set[int]:
        """Numbers of which an attempt may have been stored though it was not acknowledged."""
        return {one.number for one in self.failed if one.status == 0 or one.maybe_delivered}

    def gap(self, begin: float, end: float) -> float:
        """Return the longest time, in seconds, without an acknowledgement between two moments."""
        times = [begin, *(one.ended for one in self.delivered if begin < one.ended < end)]
        return max(later - earlier for earlier, later in zip(times, [*times[1:], end], strict=True))

    def __str__(self) -> str:
        counts = Counter(f"{one.status} {one.code}".strip() for one in self.attempts)
        return f"{self.run}: {len(self.acknowledged)} acknowledged; attempts: {dict(counts)}"


class Ledger:
    """A ledger in the client pod; a context within which messages flow.

    Args:
        client: the client pod.
        space: the mesh.
        to: the cell that receives.
        entry: the cell that sends.
        options: ``clients``, ``pause`` and ``timeout`` in seconds.

    """

    def __init__(self, client: ClientPod, space: Space, to: str, entry: str = "alpha", **options: float) -> None:
        self._client = client
        self._space = space
        self.to = to
        self._entry = entry
        self._options = options
        self.run = f"{space.name}-{entry}-{to}-{len(space.ledgers)}"
        space.ledgers.append(self.run)
        self._running = False
        self._record: Record | None = None

    def __enter__(self) -> Self:
        url = self._space.release.mesh_url(self._space.name)
        more = [f"--{name}={value}" for name, value in self._options.items()]
        given = ("--run", self.run, "--mesh", url, "--entry", self._entry, "--to", self.to)
        self._client.launch(self.run, "ledger.py", *given, *more)
        self._running = True
        self.wait_flowing()
        return self

    def __exit__(self, *_: object) -> None:
        if self._running:
            self.finish()

    def so_far(self) -> Record:
        """Return what has been seen up to now."""
        return self._parse(self._client.read(self.run))

    def wait_flowing(self, within: float = SOON) -> None:
        """Wait until a message has been acknowledged that was begun from now on."""
        before = {one.number for one in self.so_far().attempts}
        eventually(
            lambda: self.so_far().acknowledged - before,
            within=within,
            message=f"messages of {self.run} to be delivered",
        )

    def finish(self) -> Record:
        """Stop sending, wait until all is acknowledged, return the record."""
        if self._record is None:
            self._running = False
            self._record = self._parse(self._client.finish(self.run))
            print(f"\n{self._record}")
        return self._record

    def check_inboxes(self) -> None:
        """Compare the record with the inboxes of the receiver's instances: nothing lost, nothing twice."""
        record = self.finish()
        found: Counter[int] = Counter()
        for pod in self._space.pods(self.to):
            for message in self._space.messages(pod["metadata"]["name"]):
                payload = message["payload"]
                if payload.get("run") == self.run:
                    assert payload["seal"] == seal(self.run, payload["number"])
                    found[payload["number"]] += 1
        assert record.acknowledged, record
        assert not record.acknowledged - found.keys(), f"lost: {sorted(record.acknowledged - found.keys())}"
        doubled = {number for number, count in found.items() if count > 1} - record.unclear
        assert not doubled, f"stored twice: {sorted(doubled)}"
        assert not found.keys() - record.acknowledged - record.unclear, "stored, and not acknowledged"

    def _parse(self, text: str) -> Record:
        record = Record(run=self.run)
        for line in text.splitlines():
            try:
                said: dict[str, Any] = json.loads(line)
            except ValueError:
                # The last line may be cut off while the ledger runs.
                assert self._running, line
                continue
            if "number" in said:
                record.attempts.append(Attempt(**said))
        return record


def excused(attempt: Attempt, spans: Sequence[tuple[float, float]]) -> bool:
    """Tell whether a send may have failed so: nobody was there to take it.

    Either 503 with Retry-After and nothing stored, while no instance was ready; or, where one became ready at the
    last moment, the time ran out while it was asked, which is said.

    Args:
        attempt: the send.
        spans: begin and end of the times in which no instance was ready.

    """
    if attempt.status == 503:
        answered = bool(attempt.retry_after) and attempt.maybe_delivered is False
        return answered and any(begin <= attempt.ended and attempt.began <= end + NEWS for begin, end in spans)
    if (attempt.status, attempt.code) == (504, "timeout"):
        # The sender may hear of a ready instance before the test's own watch does.
        return any(begin <= attempt.began <= end + NEWS and end - NEWS <= attempt.ended for begin, end in spans)
    return False


def seal(run: str, number: int) -> str:
    """Return the hash that a message of a run and number carries."""
    return hashlib.sha256(f"{run} {number}".encode()).hexdigest()
