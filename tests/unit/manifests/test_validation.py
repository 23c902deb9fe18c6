"""Manifests that are refused, with the line the user reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cellmesh.errors import ManifestError
from cellmesh.manifests import load
from cellmesh.manifests.rules import RULES, is_transition
from cellmesh.manifests.schema import cell_schema


def cell(name: Any = "alpha", **spec: Any) -> dict[str, Any]:
    """Return a Cell as data."""
    return {"apiVersion": "cellmesh.dev/v1alpha1", "kind": "Cell", "metadata": {"name": name}, "spec": spec}


def write(folder: Path, *documents: Any) -> str:
    """Write documents into a file and return its path."""
    path = folder / "cells.yaml"
    path.write_text("---\n".join(yaml.safe_dump(document) for document in documents))
    return str(path)


def refusal(path: str) -> list[str]:
    """Return the lines with which a file is refused."""
    with pytest.raises(ManifestError) as caught:
        load([path])
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({"port": 99999}, "spec.port: 99999 is greater than the maximum of 65535"),
        ({"port": 0}, "spec.port: 0 is less than the minimum of 1"),
        ({"port": "8000"}, "spec.port: '8000' must be a whole number"),
        ({"port": 8000.0}, "spec.port: 8000.0 must be a whole number"),
        ({"port": True}, "spec.port: true must be a whole number"),
        ({"port": 10**50}, "spec.port: a number of more than 40 digits is greater than the maximum of 65535"),
        ({"replicas": 1001}, "spec.replicas: 1001 is greater than the maximum of 1000"),
        ({"replicas": -1}, "spec.replicas: -1 is less than the minimum of 0"),
        ({"type": False}, "spec.type: false must be a string; quote it"),
        ({"type": "x" * 257}, "spec.type: 257 characters long; at most 256 are allowed"),
        ({"branch": "a\nb"}, "spec.branch: 'a\\nb' must match"),
        ({"branch": ["main"]}, "spec.branch: a list must be a string; quote it"),
        ({"services": "code"}, "spec.services: 'code' must be a list"),
        ({"services": ["a", "b", "a"]}, "spec.services[2]: 'a' is there twice"),
        ({"services": ["a,b"]}, "spec.services[0]: 'a,b' must match"),
        ({"services": ["a\n"]}, "spec.services[0]: 'a\\n' must match"),
        ({"services": [""]}, "spec.services[0]: must not be empty"),
        ({"services": [f"s{n}" for n in range(65)]}, "spec.services: 65 entries; at most 64 are allowed"),
        ({"mailbox": []}, "spec.mailbox: a list must be an object"),
        ({"mailbox": {"maxBytes": "512mb"}}, "spec.mailbox.maxBytes: '512mb' must match"),
        ({"mailbox": {"maxBytes": "1K"}}, "spec.mailbox.maxBytes: '1K' must match"),
        ({"mailbox": {"maxBytes": 1.5}}, "spec.mailbox.maxBytes: must be a whole number or a string, not a number"),
        ({"mailbox": {"maxBytes": 999_999}}, "spec.mailbox.maxBytes: 999999 is less than the minimum of 1000000"),
        ({"mailbox": {"maxMessages": 0}}, "spec.mailbox.maxMessages: 0 is less than the minimum of 1"),
        ({"mailbox": {"dedupWindow": 1}}, "spec.mailbox.dedupWindow: no such field; did you mean dedupeWindow?"),
        ({"mailbox": {"dedupeWindow": "10m"}}, "spec.mailbox.dedupeWindow: '10m' must be a whole number"),
        ({"env": [{"value": "x"}]}, "spec.env[0].name: missing"),
        ({"env": [{"name": "A"}, {"name": "A"}]}, "spec.env[1]: 'A' is there twice"),
        ({"env": [{"name": "A-B"}]}, "spec.env[0].name: 'A-B' must match"),
        ({"env": [{"name": "A", "value": 1}]}, "spec.env[0].value: 1 must be a string; quote it"),
        ({"env": [{"name": "A", "value": "\0"}]}, "spec.env[0].value: '\\x00' must match"),
        ({"env": [{"name": "CELLMESH_PORT"}]}, "spec.env[0].name: variables that start with CELLMESH_"),
        ({"env": ["A=1"]}, "spec.env[0]: 'A=1' must be an object"),
        ({"prot": 1}, "spec.prot: no such field; did you mean port?"),
        ({"zzz": 1}, "spec.zzz: no such field; there are app, branch, env, envFrom, handler, image"),
    ],
)
def test_a_wrong_field_is_refused_by_its_path(tmp_path: Path, spec: dict[str, Any], line: str) -> None:
    """The line names file, document, cell and field, and says what is wrong."""
    path = write(tmp_path, cell(**spec))

    assert refusal(path)[0].startswith(f"{path}: document 1 (Cell alpha): {line}")


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        (
            {"env": [{"name": "A"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
            "spec.env[1].valueFrom.secretKeyRef: there are no Secrets on this machine; give a value",
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "s", "key": "k"}}}]},
            "spec.env[0].valueFrom.configMapKeyRef: there are no ConfigMaps on this machine; give a value",
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]},
            "spec.env[0].valueFrom.fieldRef.fieldPath: there are no pods on this machine",
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]},
            "spec.env[0].valueFrom.resourceFieldRef: there are no resource limits on this machine",
        ),
        (
            {"envFrom": [{"configMapRef": {"name": "c"}}]},
            "spec.envFrom[0].configMapRef: there are no ConfigMaps on this machine; put what is needed into env",
        ),
        (
            {"envFrom": [{"secretRef": {"name": "c"}}]},
            "spec.envFrom[0].secretRef: there are no Secrets on this machine; put what is needed into env",
        ),
    ],
)
def test_what_only_a_cluster_has_is_refused_by_its_path(tmp_path: Path, spec: dict[str, Any], line: str) -> None:
    """An instance that lacked a variable would fail later, and less clearly."""
    path = write(tmp_path, cell(**spec))

    (said,) = refusal(path)

    assert said.startswith(f"{path}: document 1 (Cell alpha): {line}")


@pytest.mark.parametrize("name", ["", "Alpha", "1alpha", "alpha-", "alpha\n", "al_pha", "a" * 53, "a.b", "ä", 5, None])
def test_a_name_that_is_no_label_is_refused(tmp_path: Path, name: Any) -> None:
    """Names are DNS-1035 labels of at most 52 characters."""
    assert any("metadata.name:" in line for line in refusal(write(tmp_path, cell(name))))


@pytest.mark.parametrize("name", ["a", "alpha", "a-1", "a" * 52])
def test_a_name_that_is_a_label_is_taken(tmp_path: Path, name: str) -> None:
    """Names up to 52 characters are taken."""
    assert [found.name for found in load([write(tmp_path, cell(name))])] == [name]


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ({"apiVersion": "v1", "kind": "Service"}, "(Service): kind: 'Service' is not run here, only Cell"),
        ({"apiVersion": "v1"}, "(no kind): kind: missing; write Cell"),
        ({"kind": "Cell"}, "(Cell): apiVersion: missing; write cellmesh.dev/v1alpha1"),
        ({**cell(), "apiVersion": "cellmesh.dev/v2"}, "(Cell alpha): apiVersion: 'cellmesh.dev/v2'; write"),
        ([1], "(not an object): must be an object with apiVersion, kind, metadata and spec, not a list"),
        ("text", "(not an object): must be an object with apiVersion, kind, metadata and spec, not a string"),
        ({**cell(), "metadata": None}, "(Cell): metadata: must be an object with a name, not nothing"),
        ({**cell(), "metadata": {}}, "(Cell): metadata.name: missing"),
        ({**cell(), "metadata": {"name": "a", "lables": {}}}, "(Cell a): metadata.lables: no such field; did you mean"),
        ({**cell(), "metadata": {"name": "a", "namespace": "A/b"}}, "(Cell a): metadata.namespace: 'A/b' must be"),
        ({**cell(), "metadata": {"name": "a", "labels": {"x": 1}}}, "(Cell a): metadata.labels: must be an object of"),
        ({**cell(), "sepc": {}}, "(Cell alpha): sepc: no such field; did you mean spec?"),
        ({**cell(), "spec": [1]}, "(Cell alpha): spec: a list must be an object"),
    ],
)
def test_an_object_that_is_no_cell_is_refused(tmp_path: Path, document: Any, line: str) -> None:
    """Other kinds, versions and shapes are named with their document."""
    path = write(tmp_path, cell("first"), document)

    assert refusal(path)[0].startswith(f"{path}: document 2 {line}")


def test_all_faults_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    """Nobody has to run the command once for every mistake."""
    path = write(tmp_path, cell("a", port=0, replicas=-1), cell("b", prot=1))

    with pytest.raises(ManifestError) as caught:
        load([path, str(tmp_path / "absent.yaml")])

    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert any("absent.yaml: cannot be read (No such file or directory)" in line for line in lines)


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    """Two Cells of one mesh cannot share a name."""
    path = write(tmp_path, cell("a", port=1), cell("a", port=2))

    assert refusal(path) == [
        f"{path}: document 2 (Cell a): metadata.name: taken by {path}: document 1 (Cell a); rename one"
    ]


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    """Two Cells of one machine cannot share a port, the default included."""
    path = write(tmp_path, cell("a"), cell("b", port=8000))

    assert refusal(path) == [
        f"{path}: document 2 (Cell b): spec.port: 8000 is the port of {path}: document 1 (Cell a); give it another"
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [", "line 1, column 5: not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "line 1, column 1: not valid YAML"),
        ("a: 1\na: 2", "line 2: 'a' is there twice; remove one"),
        ("? [a]\n: 1", "line 1: a key must be a string"),
        ("1: x", "the object: the key 1 is not a string; quote it"),
        ("yes: x", "the object: the key True is not a string; quote it"),
        ("a: 2026-01-31", "a: '2026-01-31' is read as a date; quote it"),
        ("a: 2026-99-99", "a value is not of the type it is written as"),
        ("a: !!int abc", "a value is not of the type it is written as"),
        ("a: !!bool abc", "a value is not of the type it is written as"),
        ("a: !!timestamp abc", "a value is not of the type it is written as"),
        (f"a: {'9' * 5000}", "a value is not of the type it is written as"),
        ("a: .inf", "a: inf is no number that JSON has"),
        ("a: .nan", "a: nan is no number that JSON has"),
        ("a: !!binary aGk=", """a: "b'hi'" is read as a bytes; quote it"""),
        ("a: !!set {x}", """a: "{'x'}" is read as a set; quote it"""),
        ('a: "\\ud800"', "a: not Unicode text"),
        ("&a [*a]", "line 1: an anchor holds itself"),
        ("[" * 5000, "nested too deeply"),
        ("a: \0", "not valid YAML"),
        ("", "holds no object; write a Cell into it"),
        ("---\n---\n", "holds no object; write a Cell into it"),
        ("kind: List\nitems: 5", "document 1 (List): items: must be a list"),
    ],
)
def test_hostile_yaml_is_refused_in_one_line(tmp_path: Path, text: str, line: str) -> None:
    """What YAML allows and a manifest does not is refused, whatever it would have done."""
    path = tmp_path / "hostile.yaml"
    path.write_text(text)

    (said,) = refusal(str(path))

    assert said.startswith(f"{path}: {line}")


@pytest.mark.parametrize(
    "bomb",
    [
        "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)),
        "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12)),
    ],
)
@pytest.mark.timeout(10)
def test_anchors_that_unfold_without_end_are_refused_unfolded(tmp_path: Path, bomb: str) -> None:
    """A file of a few hundred bytes cannot take the memory of the machine."""
    path = tmp_path / "bomb.yaml"
    path.write_text(bomb)

    (said,) = refusal(str(path))

    assert "more than 100000 values, anchors unfolded" in said


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """The encoding is named, with the place."""
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"kind: \xe4")

    assert refusal(str(path)) == [f"{path}: not UTF-8 (byte 6); save it as UTF-8"]


def test_a_file_without_end_is_refused() -> None:
    """A file that never ends is not read to its end."""
    assert refusal("/dev/zero") == ["/dev/zero: larger than 3145728 bytes; split it"]


def test_control_characters_of_a_manifest_do_not_reach_the_terminal(tmp_path: Path) -> None:
    """Names and keys are printed escaped."""
    path = write(tmp_path, {**cell("\x1b[2Jx"), "\x1b]0;": 1})

    assert not any("\x1b" in line for line in refusal(path))


def test_every_cel_rule_of_the_schema_is_checked_here_too() -> None:
    """A rule that only the API server knew would let a manifest run here that it refuses."""

    def rules(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {rule["rule"] for rule in node.get("x-kubernetes-validations", [])}
            return own.union(*(rules(value) for value in node.values()))
        return set().union(*(rules(value) for value in node)) if isinstance(node, list) else set()

    found = rules(cell_schema())
    assert {rule for rule in found if not is_transition(rule)} == set(RULES)
    assert {rule for rule in found if is_transition(rule)}
