"""Cells that the API server takes and that cannot run say why, while others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from e2e.images import Images
from e2e.ledgers import Ledger
from e2e.spaces import Space, cell
from support import eventually

#: What is wrong with each, and the reason that condition Ready gives, with a word of its message.
REASONS = {
    "missing-image": ("ImagePullBackOff", "is-not-there"),
    "bad-image": ("InvalidImageName", "couldn't parse"),
    "over-quota": ("QuotaExceeded", "exceeded quota"),
    "nowhere": ("Unschedulable", "node(s) didn't match"),
    "too-big": ("Unschedulable", "Insufficient memory"),
    "no-class": ("StorageClassNotFound", "no-such-class"),
    "insecure": ("PodSecurityViolation", "violates PodSecurity"),
    "no-secret": ("CreateContainerConfigError", "no-such-secret"),
    "crashing": ("CrashLoopBackOff", "ends again and again"),
}


@pytest.fixture(scope="module")
def broken(make_shared_space: Callable[[], Space], ledger: Callable[..., Ledger], built: Images) -> Iterator[Space]:
    """Apply them all at once beside a Cell that is in order and has messages flowing to it."""
    space = make_shared_space()
    space.start(cell("alpha"), cell("pure", replicas=2))
    quota = {"hard": {"requests.cpu": "10"}}
    space.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "cpu"}, "spec": quota})
    cells: dict[str, dict[str, Any]] = {
        "missing-image": {"image": f"{built.cell}-is-not-there", "imagePullPolicy": "Never"},
        "bad-image": {"image": "UPPER//case:1"},
        "over-quota": {"resources": {"requests": {"cpu": "11"}}},
        "nowhere": {"template": {"nodeSelector": {"cellmesh.dev/no-such-node": "yes"}}},
        "too-big": {"resources": {"requests": {"cpu": "10m", "memory": "64Ti"}}},
        "no-class": {"storage": {"size": "1Gi", "className": "no-such-class"}},
        "insecure": {
            "template": {
                "metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/cell": "unconfined"}}
            }
        },
        "no-secret": {"envFrom": [{"secretRef": {"name": "no-such-secret"}}]},
        "crashing": {"env": [{"name": "PYTHONHOME", "value": "/no-such-place"}]},
    }
    assert cells.keys() == REASONS.keys()
    with ledger(space, to="pure") as flow:
        space.apply(*(cell(name, **spec) for name, spec in cells.items()))
        yield space
        flow.wait_flowing()
        assert flow.finish().failed == []


@pytest.mark.parametrize("name", REASONS)
def test_a_cell_that_cannot_run_says_why(broken: Space, name: str) -> None:
    """Condition Ready is False with the reason, and its message has Kubernetes' own words."""
    reason, words = REASONS[name]
    broken.wait_condition(name, "Ready", "False", reason)

    def named() -> dict[str, Any] | None:
        # The kubelet's first words may be of its own cache ("timed out waiting"), the cause follows.
        said = broken.condition(name, "Ready")
        return said if said["reason"] == reason and words in said["message"] else None

    said = eventually(named, within=120, message=f"condition Ready of {name} to say {words!r}")
    assert said is not None
    print(f"\n{name}: {said['reason']}: {said['message']}")
    assert broken.condition(name, "Available")["status"] == "False"


def test_cells_that_can_run_are_not_disturbed(broken: Space) -> None:
    """Beside them a Cell is made, becomes Ready, and is changed."""
    broken.start(cell("new"))
    broken.patch("pure", {"env": [{"name": "MOOD", "value": "mellow"}]})
    broken.wait_ready("pure", "alpha", "new")
    print("\n" + broken.kubectl("get", "cells"))


def test_a_cell_runs_once_what_it_lacked_is_there(broken: Space) -> None:
    """The Secret is made: the Cell becomes Ready by itself."""
    broken.wait_condition("no-secret", "Ready", "False", "CreateContainerConfigError")
    broken.kubectl("create", "secret", "generic", "no-such-secret", "--from-literal=MOOD=mellow")
    broken.wait_ready("no-secret")
