"""Manifests that are taken, their defaults, and the environment of their instances."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from cell_tables import ACCEPTED, cell
from cellmesh.errors import ManifestError
from cellmesh.manifests import CellManifest, instance_environ, load
from cellmesh.manifests.locally import USED, local_faults
from cellmesh.manifests.schema import cell_schema
from cellmesh.protocol.quantities import quantity
from cellmesh.settings import Settings

ROOT = Path(__file__).parents[3]
MINIMAL = "apiVersion: cellmesh.dev/v1alpha1\nkind: Cell\nmetadata: {name: alpha}\n"


def one(tmp_path: Path, text: str, **options: Any) -> CellManifest:
    """Return the one Cell of a text."""
    path = tmp_path / "cell.yaml"
    path.write_text(text)
    (cell,) = load([str(path)], **options)
    return cell


def environ_of(cell: CellManifest, ordinal: int = 0) -> dict[str, str]:
    """Return the environment of an instance, with ordinary circumstances."""
    return instance_environ(
        cell, ordinal, host="127.0.0.1", port=cell.port, data_dir=Path("/d"), discovery_url="http://127.0.0.1:8001"
    )


def test_defaults_are_those_of_the_settings(tmp_path: Path) -> None:
    """A Cell that says nothing behaves as a process to which nothing is said."""
    cell = one(tmp_path, MINIMAL)
    settings = Settings(cell_id="alpha")

    mailbox = ("max_messages", "max_bytes", "history", "dedupe_window", "max_deliveries")
    for field in ("port", "type", "branch", "services", *mailbox):
        assert getattr(cell, field) == getattr(settings, field), field


@pytest.mark.parametrize("spec", ["spec:\n", "spec: {}\n", "spec: {mailbox: }\n", "spec: {port: , services: }\n"])
def test_null_stands_for_the_default(tmp_path: Path, spec: str) -> None:
    """As on an API server, a key without a value is a key not written."""
    assert one(tmp_path, MINIMAL + spec) == one(tmp_path, MINIMAL)


def test_every_default_of_the_schema_is_valid_by_the_schema(tmp_path: Path) -> None:
    """An API server refuses a CRD whose defaults its own schema refuses."""
    assert cell_schema()["properties"]["spec"]["default"] == {}
    assert one(tmp_path, MINIMAL).max_bytes == 512 * 1024 * 1024


def test_the_environment_of_an_instance_makes_its_settings(tmp_path: Path) -> None:
    """Every field of the spec arrives where the process reads it."""
    spec = """spec:
  replicas: 2
  port: 8002
  type: pure
  branch: main
  services: [code-analysis, search]
  mailbox: {maxMessages: 5, maxBytes: 2Mi, history: 3, dedupeWindow: 60, maxDeliveries: 2}
  handler: {port: 9000, path: /x, timeoutSeconds: 5, maxConcurrency: 2, types: [query, "a b"]}
  env: [{name: MODEL, value: "a b"}, {name: EMPTY}]
"""
    environ = environ_of(one(tmp_path, MINIMAL + spec, namespace="lab"), 1)
    settings = Settings.from_environ(environ)

    assert settings == Settings(
        cell_id="alpha",
        instance="alpha-1",
        uid=settings.uid,
        namespace="lab",
        replicas=2,
        host="127.0.0.1",
        port=8002,
        data_dir=Path("/d/lab/alpha-1"),
        discovery_url="http://127.0.0.1:8001/meshes/lab",
        type="pure",
        branch="main",
        services=("code-analysis", "search"),
        max_messages=5,
        max_bytes=2 * 1024 * 1024,
        history=3,
        dedupe_window=60.0,
        max_deliveries=2,
        handler_url="http://127.0.0.1:9000/x",
        handler_timeout=5.0,
        handler_concurrency=2,
        handler_types=("query", "a b"),
    )
    assert (environ["MODEL"], environ["EMPTY"]) == ("a b", "")


def test_nothing_of_another_cell_is_inherited(tmp_path: Path) -> None:
    """A Cell without a type has none, whatever the terminal's environment holds."""
    inherited = {"CELLMESH_TYPE": "x", "CELLMESH_SERVICES": "y", "CELLMESH_UID": "z"}
    inherited |= {"CELLMESH_HANDLER_URL": "http://a", "CELLMESH_HANDLER_TIMEOUT": "1", "CELLMESH_HANDLER_TYPES": "q"}

    settings = Settings.from_environ({**inherited, **environ_of(one(tmp_path, MINIMAL))})

    assert (settings.type, settings.services) == ("", ())
    assert (settings.handler_url, settings.handler_timeout, settings.handler_types) == ("", 30.0, ())
    assert settings.uid != "z"


def test_a_namespace_in_the_manifest_wins(tmp_path: Path) -> None:
    """The option is for Cells that name none."""
    text = MINIMAL.replace("{name: alpha}", "{name: alpha, namespace: prod}")

    assert one(tmp_path, text, namespace="lab").namespace == "prod"


def test_the_same_name_in_two_meshes_is_no_collision(tmp_path: Path) -> None:
    """A name belongs to its mesh."""
    text = MINIMAL + "---\n" + MINIMAL.replace("alpha}", "alpha, namespace: lab}") + "spec: {port: 9000}\n"
    path = tmp_path / "cells.yaml"
    path.write_text(text)

    assert [cell.namespace for cell in load([str(path)])] == ["default", "lab"]


def test_cells_without_instances_need_no_port(tmp_path: Path) -> None:
    """Scaled to zero, a Cell takes no port from another."""
    path = tmp_path / "cells.yaml"
    path.write_text(MINIMAL + "---\n" + MINIMAL.replace("name: alpha", "name: beta") + "spec: {replicas: 0}\n")

    assert [cell.instances for cell in load([str(path)])] == [["alpha-0"], []]


def test_the_code_of_a_cell_is_beside_its_manifest(tmp_path: Path) -> None:
    """Wherever the command is called; and a Cell without code has none of whoever starts it."""
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "cells.yaml"
    path.write_text(MINIMAL + "spec: {app: 'word_count:cell'}\n")
    (with_code,) = load([str(path)])

    found = environ_of(with_code)
    assert (found["CELLMESH_APP"], found["CELLMESH_APP_DIR"]) == ("word_count:cell", str(tmp_path / "inner"))
    found = environ_of(one(tmp_path, MINIMAL))
    assert (found["CELLMESH_APP"], found["CELLMESH_APP_DIR"]) == ("", "")


def test_a_handler_cannot_listen_where_a_cell_does(tmp_path: Path) -> None:
    """In a cluster each pod has its own 127.0.0.1; here they share one."""
    path = tmp_path / "cells.yaml"
    path.write_text(
        MINIMAL + "---\n" + MINIMAL.replace("name: alpha", "name: beta") + "spec: {port: 9000, handler: {port: 8000}}\n"
    )

    with pytest.raises(ManifestError, match=r"\(Cell beta\): spec\.handler\.port: 8000 is the port of .*alpha"):
        load([str(path)])
    assert len(load([str(path)], check_ports=False)) == 2


def test_what_kubectl_prints_can_be_piped_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A List of objects with the server's metadata is read from standard input."""
    metadata = {"name": "alpha", "uid": "1", "resourceVersion": "5", "creationTimestamp": "2026-01-31T12:00:00Z"}
    cell = {"apiVersion": "cellmesh.dev/v1alpha1", "kind": "Cell", "metadata": {**metadata, "generation": 1}}
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": [cell]}).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(listed)))

    assert [found.name for found in load(["-"])] == ["alpha"]


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    """Ordinary use of YAML's own means against repetition is fine."""
    text = (
        MINIMAL + "spec:\n  type: &t x\n  branch: *t\n  mailbox: {<<: {history: 5, maxMessages: 6}, maxMessages: 7}\n"
    )
    cell = one(tmp_path, text)

    assert (cell.branch, cell.history, cell.max_messages) == ("x", 5, 7)


@pytest.mark.parametrize(
    ("written", "size"),
    [(1_000_000, 10**6), ("1000000", 10**6), ("1000k", 10**6), ("2M", 2 * 10**6), ("3Gi", 3 * 2**30), ("1T", 10**12)],
)
def test_sizes_are_read_as_kubernetes_reads_them(written: int | str, size: int) -> None:
    """Decimal and binary units are told apart."""
    assert quantity(written) == size


def test_the_example_is_valid() -> None:
    """The example of the documentation runs."""
    cells = load([str(ROOT / "examples" / "alpha-pure.yaml")])

    assert [(cell.name, cell.port, cell.services) for cell in cells] == [
        ("alpha", 8000, ()),
        ("pure", 8002, ("code-analysis",)),
    ]


def test_a_variable_may_be_a_field_that_instances_have_here_too(tmp_path: Path) -> None:
    """The instance's name and its mesh are known without a cluster."""
    spec = """spec:
  replicas: 2
  env:
    - {name: WHO, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: WHERE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
"""
    environ = environ_of(one(tmp_path, MINIMAL + spec, namespace="lab"), 1)

    assert (environ["WHO"], environ["WHERE"]) == ("alpha-1", "lab")


def test_what_may_be_missing_is_missing_here(tmp_path: Path) -> None:
    """As in a cluster without that Secret: the variable is not there."""
    spec = """spec:
  env: [{name: KEY, valueFrom: {secretKeyRef: {name: s, key: k, optional: true}}}]
  envFrom: [{configMapRef: {name: c, optional: true}}]
"""

    assert "KEY" not in environ_of(one(tmp_path, MINIMAL + spec))


def test_a_value_is_not_expanded(tmp_path: Path) -> None:
    """What is written is what arrives, as in a cluster."""
    spec = "spec: {env: [{name: A, value: x}, {name: B, value: $(A) $$}]}\n"

    assert environ_of(one(tmp_path, MINIMAL + spec))["B"] == "$(A) $$"


def test_fields_that_need_a_cluster_are_taken_and_named(tmp_path: Path) -> None:
    """Only those that the manifest holds, not the schema's defaults."""
    spec = "spec: {port: 9000, image: a, storage: {size: 2Gi}, template: {nodeSelector: {a: b}}, resources: }\n"

    assert one(tmp_path, MINIMAL + spec).unused == ("spec.image", "spec.storage", "spec.template")
    assert one(tmp_path, MINIMAL).unused == ()


def test_the_fields_that_have_an_effect_here_are_fields_of_the_schema() -> None:
    """A field that is renamed there would be named here as one without effect."""
    assert set(cell_schema()["properties"]["spec"]["properties"]) >= USED


@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED)
def test_what_is_right_either_runs_here_or_names_the_field_that_cannot(tmp_path: Path, data: dict[str, Any]) -> None:
    """No Cell that an API server takes ends in anything else."""
    path = tmp_path / "cell.yaml"
    path.write_text(json.dumps(cell(data)))

    if local_faults(cell(data)):
        with pytest.raises(ManifestError, match=r"\(Cell alpha\): spec\.env(From)?\[[0-9]\].* on this machine"):
            load([str(path)])
    else:
        assert [found.name for found in load([str(path)])] == ["alpha"]
