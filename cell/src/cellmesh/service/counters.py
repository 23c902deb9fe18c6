"""What a cell counts on the message path: plain integers, read by /metrics and /health."""

from __future__ import annotations

from collections import Counter


class Counters:
    """Totals since the process started."""

    def __init__(self) -> None:
        #: Messages received, by outcome: stored, duplicate, or the code of the refusal.
        self.received: Counter[str] = Counter()
        #: Messages sent, by outcome: delivered, or the code of the error.
        self.sent: Counter[str] = Counter()
        #: Messages sent whose reply was waited for, by outcome: reply, or reply_timeout.
        self.asked: Counter[str] = Counter()
        #: Messages queued.
        self.queued = 0
        #: Handed over to siblings, and taken over from them: messages, and records of messages.
        self.handed_over: Counter[str] = Counter()
        self.taken_over: Counter[str] = Counter()
        #: Attempts beyond the first of a message.
        self.retries = 0
        #: Messages that handlers of this cell were given, by what came of it: handled, failed, rejected, deferred.
        self.handled: Counter[str] = Counter()
        #: Messages handed out to clients.
        self.leased = 0
        #: Messages settled by clients, by verb, or the code of the refusal.
        self.settled: Counter[str] = Counter()
        self.batches_received = 0
        self.requests: Counter[tuple[str, int]] = Counter()

    @property
    def delivered(self) -> int:
        """Messages this cell sent and that were acknowledged."""
        return self.sent["delivered"]

    @property
    def failed(self) -> int:
        """Sends that ended with an error."""
        return self.sent.total() - self.sent["delivered"]
