"""The operator is upgraded while messages flow, and changes every Cell: another image, and a changed field."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from e2e.clusters import SOON
from e2e.images import Images
from e2e.ledgers import Ledger, excused
from e2e.releases import Release, is_ready
from e2e.spaces import VOLUME, Space, cell
from e2e.watching import PodWatch, percentiles, watched
from support import eventually

CELLS = {"one-a": 1, "one-b": 1, "two-a": 2, "two-b": 2}
#: Cells that may be rolled out at a time.
AT_A_TIME = 1


@dataclass
class Upgraded:
    """What happened, up to the moment when everything was Ready again."""

    space: Space
    flows: dict[str, Ledger]
    pods: PodWatch
    began: float
    ended: float


@pytest.fixture(scope="module")
def upgraded(
    make_shared_space: Callable[[], Space], release: Release, ledger: Callable[..., Ledger], built: Images
) -> Iterator[Upgraded]:
    """Upgrade, wait until all is rolled out; the previous values are put back at the end."""
    space = make_shared_space()
    # alpha has an image of its own, so that the upgrade leaves the sender where it is.
    fixed = {"image": built.cell, "imagePullPolicy": "IfNotPresent"}
    space.start(cell("alpha", **fixed), *(cell(name, replicas=count, storage=VOLUME) for name, count in CELLS.items()))
    with ExitStack() as stack:
        pods, _ = stack.enter_context(watched(space))
        flows = {
            name: stack.enter_context(ledger(space, to=name, clients=2, timeout=10 if count > 1 else 1))
            for name, count in CELLS.items()
        }
        began = pods.now()
        try:
            release.install(
                {
                    "cell": {"image": release.image(built.next_cell), "imagePullPolicy": "Never"},
                    "reconciler": {
                        "image": release.image(built.operator),
                        "rollout": {"maxConcurrent": AT_A_TIME},
                    },
                }
            )
            # UpToDate is still true of before until the new operator has looked at a Cell.
            eventually(lambda: _rolled_out(space, built), within=3 * SOON, message="every Cell to be rolled out")
            space.wait_ready()
            for name in CELLS:
                space.wait_condition(name, "UpToDate", "True")
            ended = pods.now()
            for flow in flows.values():
                flow.wait_flowing()
                flow.finish()
            yield Upgraded(space, flows, pods, began, ended)
        finally:
            release.install()


def _rolled_out(space: Space, built: Images) -> bool:
    pods = [pod for name in CELLS for pod in space.pods(name)]
    return all(pod["spec"]["containers"][0]["image"] == built.next_cell and is_ready(pod) for pod in pods)


def test_every_cell_has_what_the_new_operator_gives_it(upgraded: Upgraded, built: Images) -> None:
    """The new image and the changed field are in every pod of the Cells that name none; another is as it was."""
    for name, count in CELLS.items():
        pods = upgraded.space.pods(name)
        assert len(pods) == count
        for pod in pods:
            (container,) = pod["spec"]["containers"]
            assert (container["image"], container["imagePullPolicy"]) == (built.next_cell, "Never")
    alpha = upgraded.space.pod("alpha-0")
    assert alpha["spec"]["containers"][0]["image"] == built.cell


def test_an_upgrade_rolls_out_cell_by_cell(upgraded: Upgraded) -> None:
    """At no moment are more Cells without their full number of ready instances than may be rolled out at a time."""
    most, order = _most_at_a_time(upgraded)
    print(f"\nrolled out in {upgraded.ended - upgraded.began:.0f} s, order {order}, at most {most} at a time")
    assert most == AT_A_TIME
    assert sorted(order) == sorted(CELLS)


def _most_at_a_time(upgraded: Upgraded) -> tuple[int, list[str]]:
    """Return how many Cells were short of instances at once, and the Cells in the order in which they were first."""
    ready: dict[str, set[str]] = {name: set() for name in CELLS}
    short: set[str] = set()
    most, order = 0, []
    for seen in upgraded.pods.seen:
        name = seen.name.rpartition("-")[0]
        if name not in CELLS:
            continue
        (ready[name].add if seen.ready else ready[name].discard)(seen.uid)
        if not upgraded.began <= seen.at <= upgraded.ended:
            continue
        (short.discard if len(ready[name]) >= CELLS[name] else short.add)(name)
        if name in short and name not in order:
            order.append(name)
        most = max(most, len(short))
    return most, order


@pytest.mark.parametrize("name", [name for name, count in CELLS.items() if count > 1])
def test_with_two_instances_no_send_fails_during_an_upgrade(upgraded: Upgraded, name: str) -> None:
    """Every `/send` is delivered at the first attempt."""
    record = upgraded.flows[name].finish()
    assert len(record.acknowledged) > 20, record
    assert record.failed == []


@pytest.mark.parametrize("name", [name for name, count in CELLS.items() if count == 1])
def test_with_one_instance_a_send_fails_only_while_none_is_ready(upgraded: Upgraded, name: str) -> None:
    """503 with Retry-After, and only while the pod is not Ready; how long that is, is printed."""
    record = upgraded.flows[name].finish()
    spans = list(upgraded.pods.unready(name, until=upgraded.ended))
    assert [attempt for attempt in record.failed if not excused(attempt, spans)] == [], spans
    print(f"\n{name}: gap {percentiles([record.gap(upgraded.began, upgraded.ended)])}")


@pytest.mark.parametrize("name", CELLS)
def test_an_upgrade_loses_no_acknowledged_message(upgraded: Upgraded, name: str) -> None:
    """All that was acknowledged is in the inboxes, once."""
    upgraded.flows[name].check_inboxes()
