"""Reconciler, discovery, and both are away for half a minute: messages go on.

Reconciler and discovery overlap, so that one run has all three: first the one is away, then both, then the other;
each is for longer than half a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from e2e.clusters import SOON
from e2e.ledgers import Ledger, Record
from e2e.releases import Release
from e2e.spaces import VOLUME, Space, cell
from e2e.watching import PodWatch, stay
from support import eventually

#: Seconds that both are away.
AWAY = 30.0
#: Seconds that reconciler and discovery are each away before and after that.
ALONE = 15.0


@dataclass
class Outage:
    """What happened while something was away: begin and end of each phase, the ledger over all of it."""

    space: Space
    flow: Ledger
    phases: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def record(self) -> Record:
        """The ledger's record."""
        return self.flow.finish()

    def during(self, phase: str) -> tuple[int, list[object]]:
        """Return how many messages were delivered in a phase, and the attempts that failed."""
        begin, end = self.phases[phase]
        delivered = [one for one in self.record.delivered if begin < one.began and one.ended < end]
        failed = [one for one in self.record.failed if one.ended > begin and one.began < end]
        return len(delivered), list(failed)


@pytest.fixture(scope="module")
def without_operator(
    make_shared_space: Callable[[], Space], release: Release, ledger: Callable[..., Ledger]
) -> Iterator[Outage]:
    """Take the reconciler away, then discovery too, then bring back the one and then the other."""
    space = make_shared_space()
    space.start(cell("alpha"), cell("pure", replicas=2, storage=VOLUME), cell("other"))
    with ledger(space, to="pure") as flow:
        outage = Outage(space, flow)
        try:
            release.scale("reconciler", 0)
            begin = PodWatch.now()
            # A change of a Cell waits for the reconciler; a pod that goes is none of its business.
            space.patch("other", {"replicas": 2})
            space.cluster.api.delete("pods", space.name, "pure-1")
            stay(ALONE)
            assert len(space.pods("other")) == 1
            assert "pure-1" in space.peers()
            outage.phases["reconciler"] = (begin, PodWatch.now())
            release.scale("discovery", 0)
            begin = PodWatch.now()
            unknown = space.send("alpha-0", "other", timeout=2)
            stay(AWAY)
            outage.phases["both"] = (begin, PodWatch.now())
        finally:
            release.scale("reconciler", 1)
        begin = PodWatch.now()
        stay(ALONE)
        outage.phases["discovery"] = (begin, PodWatch.now())
        release.scale("discovery", 2)
        assert (unknown.status, unknown.json["code"]) == (503, "discovery_unavailable")
        space.wait_ready("other")
        eventually(lambda: space.peers().keys() >= {"other-0", "other-1"}, within=SOON, message="other's peers")
        eventually(lambda: space.send("alpha-0", "other").status == 200, within=SOON, message="a send to other")
        flow.wait_flowing()
        yield outage


@pytest.mark.parametrize("phase", ["reconciler", "both", "discovery"])
def test_messages_go_on_without_the_operator(without_operator: Outage, phase: str) -> None:
    """Between cells that know each other no send fails, whichever part of the operator is away."""
    delivered, failed = without_operator.during(phase)
    print(f"\n{phase} away: {delivered} messages delivered")
    assert delivered > ALONE
    assert failed == []


def test_no_message_is_lost_over_an_outage_of_the_operator(without_operator: Outage) -> None:
    """All that was acknowledged, a pod's deletion included, is in the inboxes."""
    assert without_operator.record.failed == []
    without_operator.flow.check_inboxes()
