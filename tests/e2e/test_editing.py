"""A Cell's image, port, resources and environment are edited while messages flow to it.

All edits are made at once, each on a cell of two instances and on a cell of one, and the tests look at what
became of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from e2e.images import Images
from e2e.ledgers import Ledger, excused
from e2e.spaces import VOLUME, Space, cell, port_of
from e2e.watching import PodWatch, percentiles, watched

EDITS = ("image", "port", "resources", "env")
RESOURCES = {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}
ENV = [{"name": "MOOD", "value": "mellow"}]


@dataclass
class Edited:
    """What happened: a ledger for each cell, by its name."""

    space: Space
    ledgers: dict[str, Ledger]
    pods: PodWatch
    before: dict[str, set[str]]
    began: float


@pytest.fixture(scope="module")
def edited(make_shared_space: Callable[[], Space], ledger: Callable[..., Ledger], built: Images) -> Iterator[Edited]:
    """Edit every cell, let messages flow until all are rolled out and a while longer."""
    space = make_shared_space()
    names = [f"{count}-{edit}" for edit in EDITS for count in ("one", "two")]
    # Those whose image is edited have a volume, so that what they acknowledged must be there afterwards.
    space.start(cell("alpha"), *(cell(name, replicas=_replicas(name), storage=_storage(name)) for name in names))
    changes: dict[str, dict[str, Any]] = {
        "image": {"image": built.next_cell},
        "port": {"port": 8100},
        "resources": {"resources": RESOURCES},
        "env": {"env": ENV},
    }
    with ExitStack() as stack:
        pods, _ = stack.enter_context(watched(space))
        ledgers = {
            name: stack.enter_context(ledger(space, to=name, clients=2, timeout=10 if _replicas(name) > 1 else 1))
            for name in names
        }
        before = {name: {pod["metadata"]["uid"] for pod in space.pods(name)} for name in names}
        began = pods.now()
        for name in names:
            space.patch(name, changes[name.partition("-")[2]])
        space.wait_ready()
        for flow in ledgers.values():
            flow.wait_flowing()
            flow.finish()
        yield Edited(space, ledgers, pods, before, began)


def _replicas(name: str) -> int:
    return 2 if name.startswith("two") else 1


def _storage(name: str) -> dict[str, Any]:
    return VOLUME if name.endswith("image") else {"ephemeral": {}}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_reaches_every_instance(edited: Edited, edit: str, built: Images) -> None:
    """Every pod is a new one, and runs with what was asked for."""
    for count in ("one", "two"):
        pods = edited.space.pods(f"{count}-{edit}")
        assert len(pods) == _replicas(count)
        for pod in pods:
            assert pod["metadata"]["uid"] not in edited.before[f"{count}-{edit}"]
            (container,) = (box for box in pod["spec"]["containers"] if box["name"] == "cell")
            assert (container["image"] == built.next_cell) == (edit == "image")
            assert (port_of(pod) == 8100) == (edit == "port")
            assert (container["resources"] == RESOURCES) == (edit == "resources")
            assert all(one in container["env"] for one in ENV) == (edit == "env")


@pytest.mark.parametrize("edit", EDITS)
def test_with_two_instances_no_send_fails_during_an_edit(edited: Edited, edit: str) -> None:
    """Every `/send` is delivered at the first attempt."""
    record = edited.ledgers[f"two-{edit}"].finish()
    assert len(record.acknowledged) > 20, record
    assert record.failed == []


@pytest.mark.parametrize("edit", EDITS)
def test_with_one_instance_a_send_fails_only_while_none_is_ready(edited: Edited, edit: str) -> None:
    """With a timeout shorter than the restart: 503 with Retry-After, while the pod is not Ready."""
    name = f"one-{edit}"
    record = edited.ledgers[name].finish()
    spans = list(edited.pods.unready(name, until=edited.pods.now()))
    assert len(spans) == 1, spans
    assert [attempt for attempt in record.failed if not excused(attempt, spans)] == [], spans


def test_how_long_an_edit_interrupts_a_cell_of_one_instance(edited: Edited) -> None:
    """Printed, not judged: the longest time without a delivery, for each of the edits."""
    gaps = [edited.ledgers[f"one-{edit}"].finish().gap(edited.began, edited.pods.now()) for edit in EDITS]
    print(f"\ngap of a cell of one instance during an edit: {percentiles(gaps)}")
    assert len(gaps) == len(EDITS)


@pytest.mark.parametrize("name", ["one-image", "two-image"])
def test_what_was_acknowledged_before_and_during_an_edit_is_there(edited: Edited, name: str) -> None:
    """With a volume: nothing acknowledged is lost, nothing is stored twice."""
    edited.ledgers[name].check_inboxes()
