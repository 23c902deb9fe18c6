"""Make docs/cells.md, the reference of a Cell's fields, out of the Cell's definition.

    python -m tools.cell_reference           write it
    python -m tools.cell_reference --check   say whether it would change

``make manifests`` does it too. Parts that are Kubernetes' own are listed by name only: `kubectl explain` has the rest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cellmesh.manifests.locally import USED

ROOT = Path(__file__).parents[1]
CRD = ROOT / "cell/src/cellmesh/protocol/cells.cellmesh.dev.yaml"
REFERENCE = ROOT / "docs/cells.md"

Schema = Mapping[str, Any]

#: Objects with a table of their own, and how their section is called.
_SECTIONS = {
    "spec": "spec",
    "spec.storage": "spec.storage",
    "spec.storage.retention": "spec.storage.retention",
    "spec.storage.ephemeral": "spec.storage.ephemeral",
    "spec.mailbox": "spec.mailbox",
    "spec.handler": "spec.handler",
    "spec.serviceAccount": "spec.serviceAccount",
    "spec.template": "spec.template",
    "spec.template.metadata": "spec.template.metadata",
    "status": "status",
    "status.messagesLeft": "status.messagesLeft[]",
    "status.conditions": "status.conditions[]",
}
_HEAD = """\
# The Cell resource

<!-- Made by `make manifests` from cell/src/cellmesh/protocol/cells.cellmesh.dev.yaml: change that, not this. -->

A Cell is a named participant of a mesh: instances with a messaging API, each with a durable inbox of its own. The
mesh is the namespace; other cells send to the Cell's name. Every field has a default, so that this is a whole Cell:

    apiVersion: cellmesh.dev/v1alpha1
    kind: Cell
    metadata:
      name: pure

`kubectl apply` and `cellmesh up` take the same manifests and refuse the same mistakes, naming the field. In the tables
**up** marks the fields that have an effect on a machine without a cluster; `cellmesh up` takes the others and says
which it does not use. A variable whose value only a cluster has (from a ConfigMap, a Secret, a resource or the
pod's address) is an error there, unless it is `optional`.

`kubectl explain cell.spec.storage` shows any part of this in the terminal.

The name (`metadata.name`) is what other cells put into `to_cell`. It
{name}.
"""


def reference() -> str:
    """Return the text of docs/cells.md."""
    (version,) = yaml.safe_load(CRD.read_text("utf-8"))["spec"]["versions"]
    root = version["schema"]["openAPIV3Schema"]
    (name_rule,) = root["x-kubernetes-validations"]
    parts = [_HEAD.format(name=name_rule["message"])]
    parts += ["\n".join(_section(path, title, _at(root, path))) for path, title in _SECTIONS.items()]
    parts.append("\n".join(_columns(version)))
    return "\n".join(parts)


def _at(root: Schema, path: str) -> Schema:
    schema = root
    for step in path.split("."):
        schema = schema["properties"][step]
    return schema


def _section(path: str, title: str, schema: Schema) -> Iterator[str]:
    local = path == "spec"
    yield f"## {title}\n"
    yield f"{schema['description']}\n"
    holder = schema.get("items", schema)
    yield f"| field | type | default | what it is |{' up |' if local else ''}"
    yield f"|---|---|---|---|{'---|' if local else ''}"
    for name, part in holder["properties"].items():
        needed = " (required)" if name in holder.get("required", ()) and path.startswith("spec") else ""
        row = f"| `{name}`{needed} | {_type(part)} | {_default(part)} | {_what(f'{path}.{name}', part)} |"
        yield f"{row} {'yes' if name in USED else ''} |" if local else row
    yield ""
    rules = [
        *_rules(schema),
        *(rule for name, part in holder["properties"].items() for rule in _rules_of(path, name, part)),
    ]
    if rules:
        yield "Rules:\n"
        yield from (f"- {rule}" for rule in rules)
        yield ""


def _rules(schema: Schema) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        field = rule.get("fieldPath", "").lstrip(".")
        yield f"`{field}`: {rule['message']}." if field else f"{rule['message']}."


def _rules_of(path: str, name: str, part: Schema) -> Iterator[str]:
    """Return the rules of a part that has no section of its own, and of its entries."""
    if f"{path}.{name}" in _SECTIONS:
        return
    for where, schema in ((name, part), (f"{name}[]", part.get("items", {}))):
        for rule in schema.get("x-kubernetes-validations", ()):
            field = f"{where}{rule.get('fieldPath', '')}"
            yield f"`{field}`: {rule['message']}."


def _type(schema: Schema) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return "number or quantity"
    kind = schema.get("type", "")
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    if kind == "integer":
        low, high = schema.get("minimum"), schema.get("maximum")
        return f"integer, {low} to {high}" if low is not None and high is not None else "integer"
    if kind == "string":
        most = schema.get("maxLength")
        return f"string, at most {most} characters" if most else "string"
    if kind == "array":
        return f"list of at most {schema['maxItems']}: {_type(schema['items'])}"
    if "additionalProperties" in schema:
        return f"map of at most {schema['maxProperties']}: {_type(schema['additionalProperties'])}"
    return "object" if kind == "object" else kind


def _default(schema: Schema) -> str:
    default = schema.get("default")
    if default is None or default == {}:
        return ""
    if default in ("", []):
        return "empty"
    if isinstance(default, dict):
        return f"`{{{', '.join(f'{name}: {value}' for name, value in default.items())}}}`"
    return f"`{default}`"


def _what(path: str, schema: Schema) -> str:
    text = str(schema["description"]).replace("|", "\\|")
    if path in _SECTIONS:
        anchor = _SECTIONS[path].replace(".", "").replace("[]", "").lower()
        return f"{text} See [{_SECTIONS[path]}](#{anchor})."
    fields = schema.get("items", schema).get("properties")
    return f"{text} Fields: {', '.join(f'`{name}`' for name in fields)}." if fields else text


def _columns(version: Schema) -> Iterator[str]:
    yield "## What `kubectl get cells` shows\n"
    yield "| column | what it is | shown |"
    yield "|---|---|---|"
    for column in version["additionalPrinterColumns"]:
        what = column.get("description", "Time since the Cell was made.")
        yield f"| {column['name']} | {what} | {'with `-o wide`' if column.get('priority') else 'always'} |"
    yield ""


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if something would change")
    check = parser.parse_args().check
    text = reference()
    if check:
        return int(not REFERENCE.exists() or REFERENCE.read_text("utf-8") != text)
    REFERENCE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
