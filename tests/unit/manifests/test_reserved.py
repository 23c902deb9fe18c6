"""What the schema reserves is what the operator uses: the same names on both sides."""

from __future__ import annotations

from typing import Any

import pytest

from cell_tables import before, beside, cell, volume
from cellmesh.manifests.schema import faults
from cellmesh_operator import naming


def labels(name: str) -> dict[str, Any]:
    """Return a spec that sets a label of the pods."""
    return {"template": {"metadata": {"labels": {name: "x"}}}}


def named_volume(name: str) -> dict[str, Any]:
    """Return a spec with a volume of a name."""
    return {"template": {"volumes": [{"name": name, "emptyDir": {}}]}}


RESERVED = {
    "the cell's container": beside(name=naming.CONTAINER),
    "the cell's container, before it": before(name=naming.CONTAINER),
    "the cell's port": beside(ports=[{"name": naming.PORT_NAME, "containerPort": 1}]),
    "the volume of the inbox": named_volume(naming.VOLUME),
    "the volume of /tmp": named_volume(naming.TMP_VOLUME),
    "where the inbox is": {"volumeMounts": [{"name": "data", "mountPath": naming.DATA_MOUNT}], **volume(emptyDir={})},
    "an annotation of ours": {"serviceAccount": {"annotations": {f"{naming.OWN_PREFIX}x": "y"}}},
    **{f"the label {name}": labels(name) for name in naming.cell_labels("alpha")},
}


@pytest.mark.parametrize("name", RESERVED)
def test_a_name_that_the_operator_uses_cannot_be_taken(name: str) -> None:
    """Otherwise a Cell could pass the schema and make pods that are refused or select wrongly."""
    (line,) = faults(cell(RESERVED[name]))

    assert line.startswith("spec.")
