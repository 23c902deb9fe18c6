"""Cells as values."""

from __future__ import annotations

from importlib import resources
from typing import Any

import pytest
import yaml

from cellmesh.manifests.schema import with_defaults
from cellmesh_operator.decisions.cells import CellSpec, Ephemeral, Volume, read_cell
from reconciled import a_cell

SCHEMA = yaml.safe_load(resources.files("cellmesh.protocol").joinpath("cells.cellmesh.dev.yaml").read_text("utf-8"))
SPEC = SCHEMA["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]


def test_defaults_are_those_of_the_schema() -> None:
    """A Cell stored before its fields existed is read as the API server would fill it in."""
    assert read_cell(a_cell(with_defaults({}, SPEC))).spec == CellSpec() == read_cell(a_cell()).spec


def test_defaults_filled_in_by_the_api_server_are_no_change_by_the_author() -> None:
    """Upgrading the schema must not look as if all Cells had been edited at once."""
    assert read_cell(a_cell(with_defaults({}, SPEC))).spec_hash == read_cell(a_cell()).spec_hash


def test_a_field_that_this_version_does_not_know_is_no_change() -> None:
    """The schema is upgraded before the reconciler."""
    assert read_cell(a_cell({"fromTheFuture": 1})).spec_hash == read_cell(a_cell()).spec_hash


@pytest.mark.parametrize("name", ["type", "branch"])
def test_what_peers_see_does_not_count_as_asked_of_the_children(name: str) -> None:
    """Editing it writes nothing."""
    assert read_cell(a_cell({name: "x"})).spec_hash == read_cell(a_cell()).spec_hash


@pytest.mark.parametrize(
    "spec",
    [
        {"replicas": 0},
        {"image": "i"},
        {"imagePullPolicy": "Always"},
        {"port": 1},
        {"storage": {"size": "2Gi"}},
        {"storage": {"size": "1Gi", "className": "c"}},
        {"storage": {"size": "1Gi", "accessModes": ["ReadWriteMany"]}},
        {"storage": {"size": "1Gi", "retention": {"whenDeleted": "Delete"}}},
        {"storage": {"size": "1Gi", "retention": {"whenScaled": "Delete"}}},
        {"storage": {"ephemeral": {}}},
        {"storage": {"ephemeral": {"sizeLimit": "1Gi"}}},
        {"mailbox": {"maxMessages": 1}},
        {"mailbox": {"maxBytes": "1Mi"}},
        {"mailbox": {"history": 1}},
        {"mailbox": {"dedupeWindow": 1}},
        {"mailbox": {"maxDeliveries": 1}},
        {"app": "word_count:cell"},
        {"handler": {"port": 9000}},
        {"handler": {"url": "http://a"}},
        {"resources": {"limits": {"cpu": 1}}},
        {"env": [{"name": "A", "value": "b"}]},
        {"envFrom": [{"secretRef": {"name": "s"}}]},
        {"volumeMounts": [{"name": "v", "mountPath": "/v"}]},
        {"serviceAccount": {"annotations": {"a": "b"}}},
        {"template": {"nodeSelector": {"a": "b"}}},
        {"template": {"topologySpreadConstraints": []}},
        {"template": {"terminationGracePeriodSeconds": 5}},
    ],
)
def test_every_wish_of_the_author_counts(spec: dict[str, Any]) -> None:
    """Each field that reaches a child changes the hash, alone."""
    assert read_cell(a_cell(spec)).spec_hash != read_cell(a_cell()).spec_hash


@pytest.mark.parametrize(
    ("handler", "more"),
    [
        ({"port": 9000}, {"path": "/x"}),
        ({"port": 9000}, {"timeoutSeconds": 1}),
        ({"port": 9000}, {"maxConcurrency": 1}),
        ({"url": "http://a"}, {"types": ["query"]}),
    ],
)
def test_every_wish_about_a_handler_counts(handler: dict[str, Any], more: dict[str, Any]) -> None:
    """And its defaults, filled in or not, do not."""
    plain = read_cell(a_cell({"handler": handler})).spec_hash
    assert read_cell(a_cell({"handler": {**handler, **more}})).spec_hash != plain
    assert read_cell(a_cell(with_defaults({"handler": handler}, SPEC))).spec_hash == plain


def test_the_hash_of_a_spec_stays_from_version_to_version() -> None:
    """Were it another for the same spec, an upgrade would roll out every Cell at once as its author's change.

    If this test fails the reading of Cells has changed: make it give these hashes again.
    """
    assert read_cell(a_cell()).spec_hash == "4ae4acf2f802f6f5210f"
    spec = {
        "replicas": 3,
        "image": "i:1",
        "storage": {"size": "2Gi", "className": "fast"},
        "env": [{"name": "A", "value": "b"}],
        "template": {"metadata": {"labels": {"a": "b"}}, "tolerations": [{"operator": "Exists"}]},
    }
    assert read_cell(a_cell(spec)).spec_hash == "e30801c5698b480966b0"


def test_empty_parts_of_a_template_say_nothing() -> None:
    """What is empty is as if it were absent."""
    template = {"metadata": {"labels": {}}, "tolerations": [], "affinity": {}, "priorityClassName": ""}
    assert read_cell(a_cell({"template": template})).spec.template == {}


def test_storage_is_a_volume_or_ephemeral() -> None:
    """An empty ``ephemeral`` counts, and null means absent."""
    assert read_cell(a_cell({"storage": {"ephemeral": {}}})).spec.storage == Ephemeral()
    assert read_cell(a_cell({"storage": {"ephemeral": None, "size": "3Gi"}})).spec.storage == Volume(size="3Gi")


def test_a_cell_that_is_being_deleted_says_so() -> None:
    """By its deletion timestamp."""
    data = a_cell()
    assert not read_cell(data).deleting
    data["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert read_cell(data).deleting
