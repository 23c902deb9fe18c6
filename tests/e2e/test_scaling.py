"""A Cell is scaled up, to none, and back, and given an image that is not there, while messages flow to it."""

from __future__ import annotations

from collections.abc import Callable

from e2e.clusters import SOON
from e2e.images import Images
from e2e.ledgers import Ledger, excused
from e2e.spaces import VOLUME, Space, cell
from e2e.watching import watched
from support import eventually


def test_a_cell_is_scaled_to_three_to_none_and_back(space: Space, ledger: Callable[..., Ledger]) -> None:
    """Sends fail only while there is no instance, with 503 and Retry-After; every inbox keeps what it has."""
    space.start(cell("alpha"), cell("pure", storage=VOLUME))
    with watched(space) as (pods, _), ledger(space, to="pure", timeout=1) as flow:
        space.kubectl("scale", "cell", "pure", "--replicas=3")
        space.wait_ready("pure")
        assert space.cell("pure")["status"]["readyReplicas"] == 3
        eventually(lambda: len(_instances(space)) == 3, within=SOON, message="three peers")
        assert space.cluster.api.get("poddisruptionbudgets", space.name, "pure")
        flow.wait_flowing()
        assert flow.so_far().failed == []

        space.kubectl("scale", "cell", "pure", "--replicas=0")
        space.wait_condition("pure", "Ready", "True", "ScaledToZero")
        eventually(lambda: not space.pods("pure"), within=SOON, message="no pods")
        assert space.condition("pure", "Available")["status"] == "False"
        assert space.cluster.api.get("poddisruptionbudgets", space.name, "pure") is None
        answer = space.release.ask_discovery(space.name, "/peers?cell_id=pure")
        assert (answer.json["count"], answer.json["known"]) == (0, True)
        refused = space.send("alpha-0", "pure", timeout=0.5)
        assert (refused.status, refused.json["code"]) == (503, "no_ready_instance")
        assert int(refused.headers["retry-after"]) >= 1

        space.kubectl("scale", "cell", "pure", "--replicas=1")
        space.wait_ready("pure")
        flow.wait_flowing()
        record = flow.finish()
        spans = list(pods.unready("pure", until=pods.now()))
    assert len(spans) == 1, spans
    assert record.failed, "nothing was sent while there was no instance"
    assert [attempt for attempt in record.failed if not excused(attempt, spans)] == [], spans
    # What the other two had acknowledged waits on their volumes.
    space.kubectl("scale", "cell", "pure", "--replicas=3")
    space.wait_ready("pure")
    flow.check_inboxes()


def _instances(space: Space) -> list[str]:
    return [name for name in space.peers() if name.startswith("pure-")]


def test_a_missing_image_stops_no_message_and_the_right_one_mends_it(
    space: Space, ledger: Callable[..., Ledger], built: Images
) -> None:
    """The instance with the missing image is said to be it, the other goes on; with the right image both are back."""
    space.start(cell("alpha"), cell("pure", replicas=2, storage=VOLUME))
    with ledger(space, to="pure") as flow:
        space.patch("pure", {"image": f"{built.cell}-is-not-there", "imagePullPolicy": "Never"})
        space.wait_condition("pure", "Ready", "False", "ImagePullBackOff")
        assert space.condition("pure", "Available")["status"] == "True"
        flow.wait_flowing()
        space.patch("pure", {"image": built.next_cell})
        space.wait_ready("pure")
        flow.wait_flowing()
    assert {pod["spec"]["containers"][0]["image"] for pod in space.pods("pure")} == {built.next_cell}
    assert flow.finish().failed == []
    flow.check_inboxes()
