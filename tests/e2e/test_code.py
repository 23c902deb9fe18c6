"""Code of users' own in the cluster: the examples, as their READMEs say."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

import golang
from e2e.clusters import SOON, Cluster, script
from e2e.images import Images
from e2e.programs import ROOT, run
from e2e.spaces import Space
from pictures import png
from support import eventually

EXAMPLES = ROOT / "examples"


def ask(space: Space, sender: str, to_cell: str, payload: Any, message_type: str = "query") -> dict[str, Any]:
    """Have an instance ask a cell; return the payload of the reply."""
    body = {"to_cell": to_cell, "message_type": message_type, "payload": payload, "await_reply": 60, "timeout": 60}
    answer = space.ask(sender, "POST", "/send", body)
    assert answer.status == 200, answer
    return dict(answer.json["reply"]["payload"])


def cells(example: str) -> list[dict[str, Any]]:
    """Return the manifest of an example."""
    return list(yaml.safe_load_all((EXAMPLES / example / "cells.yaml").read_text()))


@pytest.fixture
def built_for_nodes(cluster: Cluster, needs_nodes: None) -> Iterator[Callable[..., str]]:
    """Build images of examples and bring them onto the nodes."""
    names = []

    def build(name: str, context: Path, *arguments: str) -> str:
        environ = {"DOCKER_BUILDKIT": "0"}  # it is not on every machine
        run(["docker", "build", "--network", "none", "--tag", name, *arguments, str(context)], environ=environ)
        names.append(name)
        script("tests/kind/cluster.sh", "load", name, "--name", cluster.kind)
        return name

    yield build
    for name in names:
        run(["docker", "rmi", name], environ={})


def test_code_in_a_configmap_answers(space: Space) -> None:
    """The standard image runs it, and runs it again after its pod was deleted; messages wait meanwhile."""
    space.kubectl("create", "configmap", "word-count", f"--from-file={EXAMPLES / 'word-count' / 'word_count.py'}")
    space.start(*cells("word-count"))
    wanted = {"words": 6, "different": 4, "top": [{"word": "to", "count": 2}]}
    assert ask(space, "alpha-0", "word-count", {"text": "to be or not to be", "top": 1}) == wanted
    uid = space.pod("word-count-0")["metadata"]["uid"]
    space.kubectl("delete", "pod", "word-count-0", "--wait=false")
    assert ask(space, "alpha-0", "word-count", {"text": "to be or not to be", "top": 1}) == wanted
    space.wait_pod("word-count-0", other_than=uid)
    assert ask(space, "alpha-0", "word-count", {"text": "to be or not to be", "top": 1}) == wanted


def test_code_that_cannot_be_loaded_says_so_in_the_cells_condition(space: Space) -> None:
    """The Cell is not ready, and the line with the reason is where `kubectl logs` finds it."""
    (_, cell) = cells("word-count")
    cell["spec"] = {"app": "absent:cell", "storage": {"ephemeral": {}}}
    space.apply(cell)
    space.wait_condition("word-count", "Ready", "False", "CrashLoopBackOff")
    assert "there is no module 'absent' in /app" in space.kubectl("logs", "word-count-0", "--tail=5")


def test_a_program_beside_the_cell_gets_its_messages(
    space: Space, built_for_nodes: Callable[..., str], tmp_path: Path
) -> None:
    """It is in an image of its own, with nothing of CellMesh, and answers through the cell."""
    golang.build(EXAMPLES / "thumbnails", tmp_path / "thumbnails")
    # The second stage of the example's Dockerfile, where the image of the first cannot be had.
    _, _, second = (EXAMPLES / "thumbnails" / "Dockerfile").read_text().partition("\n\n")
    (tmp_path / "Dockerfile").write_text(second.replace("COPY --from=build /thumbnails", "COPY thumbnails"))
    image = built_for_nodes("thumbnails:e2e", tmp_path)
    manifest = cells("thumbnails")
    manifest[1]["spec"]["template"]["initContainers"][0]["image"] = image
    space.start(*manifest)
    picture = base64.b64encode(png(200, 100)).decode()
    reply = ask(space, "alpha-0", "thumbnails", {"picture": picture, "side": 50})
    assert (reply["width"], reply["height"]) == (50, 25)


def test_an_image_with_code_takes_orders_while_its_pods_are_deleted(
    space: Space, built: Images, built_for_nodes: Callable[..., str]
) -> None:
    """As many orders are accepted as there are pens, and each is shipped once."""
    image = built_for_nodes("orders:e2e", EXAMPLES / "orders", "--build-arg", f"CELL_IMAGE={built.cell}")
    manifest = cells("orders")
    for cell in manifest[:2]:
        cell["spec"]["image"] = image
    space.start(*manifest)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(_order, space, f"order-{number}") for number in range(14)]
        for name in ("inventory-0", "orders-0"):
            eventually(lambda: any(one.done() for one in answers), within=SOON)
            uid = space.pod(name)["metadata"]["uid"]
            space.kubectl("delete", "pod", name, "--grace-period=1", "--wait=false")
            space.wait_pod(name, other_than=uid)
        numbers = [number for one in answers if (number := one.result()) is not None]
    assert len(set(numbers)) == len(numbers) == 10
    assert ask(space, "shipping-0", "inventory", {}, "stock") == {"book": 2, "pen": 0}
    eventually(lambda: sorted(_parcels(space)) == sorted(numbers), within=SOON, message="ten parcels")


def _order(space: Space, message_id: str) -> str | None:
    body = {"to_cell": "orders", "message_type": "order", "payload": {"item": "pen"}, "message_id": message_id}
    sent = space.ask("shipping-0", "POST", "/send", body | {"mode": "queued", "ttl": 0})
    assert sent.status == 202, sent

    def reply() -> dict[str, Any] | None:
        found = [message for message in _from_orders(space) if message.get("reply_to") == message_id]
        assert len(found) <= 1, "one order, two replies"
        return found[0]["payload"] if found else None

    found = eventually(reply, within=2 * SOON, message=f"a reply to {message_id}")
    return str(found["order"]) if found["accepted"] else None


def _parcels(space: Space) -> list[str]:
    return [one["payload"]["order"] for one in _from_orders(space) if one["message_type"] == "parcel"]


def _from_orders(space: Space) -> list[dict[str, Any]]:
    return [message for message in space.messages("shipping-0") if message["from_cell"] == "orders"]
