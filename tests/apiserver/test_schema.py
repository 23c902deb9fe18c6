"""The Cell's schema on a real API server: what it takes, what it refuses and how, what it fills in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from apiserver.api import Api, Refused
from apiserver.control_plane import CRD, ControlPlane
from cell_tables import ACCEPTED, REFUSED, RIGHT_NAMES, WRONG_NAMES, cell
from cellmesh.manifests.schema import cell_schema, with_defaults
from tools.core_cuts import KUBERNETES
from tools.core_schemas import rewritten

#: Most that the annotations of an object may hold together; client-side apply puts the whole object into one.
ANNOTATIONS_LIMIT = 262_144


def create(api: Api, namespace: str, data: dict[str, Any], *, dry_run: bool = True) -> dict[str, Any]:
    """Create a Cell as kubectl does: unknown fields are errors."""
    query = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
    return api.create("cells", namespace, data, **query)


def change(api: Api, namespace: str, spec: dict[str, Any]) -> Any:
    """Change the spec of the Cell ``alpha`` by a merge patch."""
    return api.patch("cells", namespace, "alpha", {"spec": spec})


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_cell_that_is_right_is_taken_with_the_defaults_that_a_laptop_fills_in(
    plane: ControlPlane, namespace: str, name: str
) -> None:
    """One schema, two programs, the same object out of it."""
    created = create(plane.api, namespace, cell(ACCEPTED[name]))

    assert created["spec"] == with_defaults(cell(ACCEPTED[name]))["spec"]


def test_a_cell_that_is_wrong_is_refused_by_its_field(plane: ControlPlane, namespace: str) -> None:
    """The whole table: the field is named, and why."""
    silent = {}
    for name, (spec, field, why) in REFUSED.items():
        try:
            create(plane.api, namespace, cell(spec))
        except Refused as refused:
            if _names(refused, field) and why in refused.message:
                continue
            silent[name] = refused.message
        else:
            silent[name] = "taken"

    assert silent == {}
    assert len(REFUSED) >= 30


def _names(refused: Refused, field: str) -> bool:
    """Tell whether an answer names a field: as the place of an error, or as one that does not exist."""
    return f"{field}: " in refused.message or f'unknown field "{field}"' in refused.message


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_a_name_that_is_wrong_is_refused(plane: ControlPlane, namespace: str, name: str) -> None:
    """Names are DNS-1035 labels of at most 52 characters."""
    with pytest.raises(Refused, match=r"metadata\.name: .*must be lower-case letters"):
        create(plane.api, namespace, cell(name=name))


@pytest.mark.parametrize("name", RIGHT_NAMES)
def test_a_name_that_is_right_is_taken(plane: ControlPlane, namespace: str, name: str) -> None:
    """Up to the longest."""
    assert create(plane.api, namespace, cell(name=name))["metadata"]["name"] == name


@pytest.mark.parametrize(
    ("before", "after", "field", "why"),
    [
        ({"size": "2Gi"}, {"size": "1Gi"}, "size", "may grow, not shrink"),
        ({"size": "2Gi"}, {"size": "1.9Gi"}, "size", "may grow, not shrink"),
        ({"size": "2Gi", "className": "a"}, {"className": "b"}, "className", "cannot be changed"),
        ({"size": "2Gi", "className": "a"}, {"className": None}, "className", "cannot be changed"),
        ({"size": "2Gi"}, {"className": "b"}, "className", "cannot be changed"),
        ({"size": "2Gi"}, {"accessModes": ["ReadWriteMany"]}, "accessModes", "cannot be changed"),
        ({"size": "2Gi"}, {"size": None, "ephemeral": {}}, "ephemeral", "do not change into each other"),
        ({"ephemeral": {}}, {"size": "2Gi", "ephemeral": None}, "ephemeral", "do not change into each other"),
        ({"ephemeral": {}}, None, "ephemeral", "do not change into each other"),
    ],
)
def test_what_volumes_cannot_do_is_refused(
    plane: ControlPlane, namespace: str, before: Any, after: Any, field: str, why: str
) -> None:
    """Storage grows and nothing else; the answer names the field."""
    create(plane.api, namespace, cell({"storage": before}), dry_run=False)

    with pytest.raises(Refused, match=rf"spec\.storage\.{field}: .*{why}"):
        change(plane.api, namespace, {"storage": after})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"size": "1Gi"}, {"size": "1024Mi"}),
        ({"size": "1Gi"}, {"size": "1.5Gi"}),
        ({"size": "2Gi"}, {"accessModes": ["ReadWriteOnce"]}),
        ({"size": "2Gi"}, {"retention": {"whenScaled": "Delete"}}),
        ({"ephemeral": {}}, {"ephemeral": {"sizeLimit": "1Gi"}}),
        ({"ephemeral": {"sizeLimit": "2Gi"}}, {"ephemeral": {"sizeLimit": "1Gi"}}),
    ],
)
def test_what_volumes_can_do_is_taken(plane: ControlPlane, namespace: str, before: Any, after: Any) -> None:
    """Also the same size in other words, and what is the default anyway."""
    create(plane.api, namespace, cell({"storage": before}), dry_run=False)

    assert change(plane.api, namespace, {"storage": after})


def test_a_new_cell_has_not_been_seen(plane: ControlPlane, namespace: str) -> None:
    """Who waits for it (kstatus) sees -1 and waits on."""
    created = create(plane.api, namespace, cell(), dry_run=False)

    assert created["status"] == {"observedGeneration": -1}


def test_the_status_is_apart_from_the_spec(plane: ControlPlane, namespace: str) -> None:
    """Neither can be written through the other, and a report is no new generation."""
    create(plane.api, namespace, {**cell(), "status": {"replicas": 7}}, dry_run=False)
    plane.api.patch("cells", namespace, "alpha", {"spec": {"port": 1}, "status": {"replicas": 2}}, subresource="status")

    found = plane.api.must_get("cells", namespace, "alpha")
    assert (found["status"]["replicas"], found["spec"]["port"], found["metadata"]["generation"]) == (2, 8000, 1)


def test_a_condition_without_a_reason_is_refused(plane: ControlPlane, namespace: str) -> None:
    """Conditions are whole, and one of each type."""
    create(plane.api, namespace, cell(), dry_run=False)
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-31T12:00:00Z", "message": ""}

    for conditions, why in (
        ([ready], r"conditions\[0\]\.reason: Required"),
        ([{**ready, "reason": "not one word"}], r"conditions\[0\]\.reason: Invalid"),
        ([{**ready, "reason": "A"}] * 2, r"conditions\[1\]: Duplicate"),
    ):
        with pytest.raises(Refused, match=why):
            plane.api.patch("cells", namespace, "alpha", {"status": {"conditions": conditions}}, subresource="status")


def test_kubectl_scales_a_cell(plane: ControlPlane, namespace: str) -> None:
    """Through the scale subresource, which autoscalers use: with replicas and selector."""
    create(plane.api, namespace, cell(), dry_run=False)
    report = {"status": {"replicas": 1, "selector": "cellmesh.dev/cell=alpha"}}
    plane.api.patch("cells", namespace, "alpha", report, subresource="status")

    plane.kubectl("scale", "cell", "alpha", "--replicas=3", namespace=namespace)

    assert plane.api.must_get("cells", namespace, "alpha")["spec"]["replicas"] == 3
    scale = plane.api.get("cells", namespace, "alpha", "scale")
    assert scale is not None
    assert (scale["spec"], scale["status"]) == (
        {"replicas": 3},
        {"replicas": 1, "selector": "cellmesh.dev/cell=alpha"},
    )
    assert "1001" in plane.kubectl("scale", "cell", "alpha", "--replicas=1001", namespace=namespace, check=False).stderr


def test_kubectl_get_shows_what_matters(plane: ControlPlane, namespace: str) -> None:
    """Ready, replicas, why, and the age; more with -o wide; also among `all` and by the short name."""
    create(plane.api, namespace, cell({"port": 8002}), dry_run=False)
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "ImagePullBackOff",
        "message": "alpha-0: no such image",
        "lastTransitionTime": "2026-01-31T12:00:00Z",
    }
    plane.api.patch(
        "cells", namespace, "alpha", {"status": {"conditions": [ready], "replicas": 1}}, subresource="status"
    )

    narrow = plane.kubectl("get", "cell", namespace=namespace).stdout.splitlines()
    wide = plane.kubectl("get", "cells", "-o", "wide", namespace=namespace).stdout.splitlines()
    everything = plane.kubectl("get", "all", namespace=namespace).stdout

    assert narrow[0].split() == ["NAME", "READY", "REPLICAS", "REASON", "AGE"]
    assert narrow[1].split()[:4] == ["alpha", "False", "1", "ImagePullBackOff"]
    assert wide[0].split() == ["NAME", "READY", "REPLICAS", "REASON", "AGE", "PORT", "MESSAGE"]
    assert wide[1].endswith("8002   alpha-0: no such image")
    assert "cell.cellmesh.dev/alpha" in everything


def test_kubectl_explains_every_field(plane: ControlPlane) -> None:
    """Each field of the spec has a description, and a type."""
    explained = plane.kubectl("explain", "cell.spec").stdout
    deep = plane.kubectl("explain", "cell.spec.storage.retention.whenDeleted").stdout

    assert "What the cell should be." in explained
    for field in cell_schema()["properties"]["spec"]["properties"]:
        assert f"\n  {field}\t<" in explained, field
    assert "Of all volumes when the Cell is deleted." in deep
    assert "ENUM:\n    Retain\n    Delete\n" in deep


def test_every_field_is_described() -> None:
    """Also the deepest, in words."""
    silent = [path for path, schema in _fields(cell_schema(), "") if not schema.get("description", "").strip()]

    assert [path for path in silent if not path.endswith("[]")] == ["metadata"]


def test_every_string_list_and_map_has_a_bound() -> None:
    """Without bounds the API server takes no rules, and an object could be as large as etcd allows."""
    unbounded = []
    for path, schema in _fields(cell_schema(), ""):
        if path.split(".")[0] in {"apiVersion", "kind", "metadata"}:
            continue
        kind = schema.get("type")
        if kind == "string" and not {"maxLength", "enum", "format"} & set(schema):
            unbounded.append(path)
        if kind == "array" and not {"maxItems", "x-kubernetes-list-type"} <= set(schema):
            unbounded.append(path)
        if kind == "object" and "additionalProperties" in schema and "maxProperties" not in schema:
            unbounded.append(path)
        if kind == "integer" and not path.startswith("status") and not {"minimum", "maximum"} <= set(schema):
            unbounded.append(path)

    assert unbounded == []


def _fields(schema: dict[str, Any], path: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    parts = {f"{path}.{name}".lstrip("."): part for name, part in schema.get("properties", {}).items()}
    parts |= {f"{path}[]": schema[part] for part in ("items", "additionalProperties") if part in schema}
    for name, part in parts.items():
        found += [(name, part), *_fields(part, name)]
    return found


def test_the_definition_can_be_applied_by_the_client_again_and_again(plane: ControlPlane) -> None:
    """`kubectl apply -f` keeps the whole object in an annotation, which must not be too long."""
    for _ in range(2):
        plane.kubectl("apply", "-f", str(CRD))

    kept = plane.api.must_get("customresourcedefinitions", None, "cells.cellmesh.dev")["metadata"]["annotations"]
    annotation = kept["kubectl.kubernetes.io/last-applied-configuration"]
    assert len(annotation) < 0.8 * ANNOTATIONS_LIMIT
    assert CRD.stat().st_size < 200_000


def test_the_api_server_has_nothing_to_say_against_the_definition(plane: ControlPlane) -> None:
    """It is structural, its names are free, and it is served."""
    conditions = plane.api.must_get("customresourcedefinitions", None, "cells.cellmesh.dev")["status"]["conditions"]

    assert {one["type"]: one["status"] for one in conditions} == {"NamesAccepted": "True", "Established": "True"}


def test_what_is_kept_of_kubernetes_schemas_is_what_kubernetes_has(plane: ControlPlane) -> None:
    """Cut anew from this API server's own document, it is the same (of another version: but for descriptions)."""
    version = plane.api.request("GET", "/version")
    document = plane.api.request("GET", "/openapi/v3/api/v1")
    written, anew = CRD.read_text("utf-8"), rewritten(CRD.read_text("utf-8"), document)

    assert _types(yaml.safe_load(written)) == _types(yaml.safe_load(anew))
    if f"{version['major']}.{version['minor']}" == KUBERNETES:
        assert written == anew


def _types(definition: dict[str, Any]) -> list[tuple[str, Any]]:
    (version,) = definition["spec"]["versions"]
    fields = _fields(version["schema"]["openAPIV3Schema"], "")
    return [
        (path, {key: value for key, value in schema.items() if key in {"type", "format"}}) for path, schema in fields
    ]


def test_the_example_is_taken(plane: ControlPlane, namespace: str) -> None:
    """By the client, strictly."""
    example = Path(__file__).parents[2] / "examples" / "alpha-pure.yaml"

    applied = plane.kubectl("apply", "--dry-run=server", "-o", "json", "-f", str(example), namespace=namespace).stdout

    assert [item["metadata"]["name"] for item in json.loads(applied)["items"]] == ["alpha", "pure"]
