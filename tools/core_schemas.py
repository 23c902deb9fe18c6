"""Cut the parts of the Cell's schema that Kubernetes defines out of an API server's own OpenAPI document.

    kubectl get --raw /openapi/v3/api/v1 > core.json
    python -m tools.core_schemas core.json          write them into the definition of Cells
    python -m tools.core_schemas --check core.json  say whether that would change anything

In ``cells.cellmesh.dev.yaml`` a part stands between ``# <core NAME>`` and ``# </core>``; the rest of that file
is written by hand. ``tools/core_cuts.py`` says for each NAME which fields are kept, with which bounds and rules.
Descriptions are shortened to their beginning, so that the definition stays small enough for client-side apply.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tools.core_cuts import BOUNDS, CUTS, LISTS, Cut

CRD = Path(__file__).parents[1] / "cell/src/cellmesh/protocol/cells.cellmesh.dev.yaml"
_BLOCK = re.compile(r"^(?P<indent> *)# <core (?P<name>[^>\n]+)>\n(?P<body>.*?)^ *# </core>\n", re.DOTALL | re.MULTILINE)
#: Longest description that is kept whole, in characters.
_BRIEF = 100
#: Keywords of the OpenAPI document that mean the same in a definition.
_KEPT = {"type", "format", "enum", "default", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"}
_QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
_INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"

#: Keywords that hold other schemas; they come last.
_HOLDING = ("items", "additionalProperties", "properties")

Schema = dict[str, Any]


class Unknown(Exception):  # noqa: N818 - it says what the document lacks
    """The document has no such definition or field; the text names it."""


def cut(document: Mapping[str, Any], name: str) -> Schema:
    """Return one part of the schema.

    Args:
        document: the OpenAPI document of the core group.
        name: key of ``CUTS``.

    Raises:
        Unknown: the document lacks something that the cut keeps.

    """
    return _Cutter(document["components"]["schemas"]).definition(name)


def rewritten(text: str, document: Mapping[str, Any]) -> str:
    """Return the text of the definition of Cells with every part cut anew."""

    def replace(match: re.Match[str]) -> str:
        indent = match["indent"]
        lines = "".join(f"{indent}{line}\n" for line in dumped(cut(document, match["name"])).splitlines())
        return f"{indent}# <core {match['name']}>\n{lines}{indent}# </core>\n"

    return _BLOCK.sub(replace, text)


class _Dumper(yaml.SafeDumper):
    """Puts a schema that holds no other on one line: with one line for each keyword the file were twice as large."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        """Write everything out; anchors are for people."""
        return True

    def represent_mapping(
        self,
        tag: str,
        mapping: Any,
        flow_style: bool | None = None,  # noqa: ARG002 - decided here
    ) -> yaml.MappingNode:
        """Return the node of a mapping, on one line if it is a leaf."""
        leaf = _is_leaf(mapping) or ("items" in mapping and _is_leaf(mapping["items"]))
        node: yaml.MappingNode = super().represent_mapping(tag, mapping, leaf)
        return node

    def represent_sequence(
        self,
        tag: str,
        sequence: Any,
        flow_style: bool | None = None,  # noqa: ARG002 - decided here
    ) -> yaml.SequenceNode:
        """Return the node of a list, on one line if it is one of plain values."""
        plain = not any(isinstance(item, dict) for item in sequence)
        node: yaml.SequenceNode = super().represent_sequence(tag, sequence, plain)
        return node


def _is_leaf(mapping: Mapping[str, Any]) -> bool:
    nested = {"properties", "items", "additionalProperties", "rule"} & set(mapping)
    return bool(mapping) and not nested and not any(isinstance(value, dict) and value for value in mapping.values())


def dumped(schema: Schema) -> str:
    """Return a schema as YAML, one line for each field that holds no others."""
    return yaml.dump(schema, Dumper=_Dumper, sort_keys=False, width=2**16, allow_unicode=True)


def brief(description: str) -> str:
    """Return the beginning of a description: its first sentences, as many as are short."""
    paragraph = " ".join(description.split("\n\n", maxsplit=1)[0].split())
    paragraph = re.sub(r" ?(More info|See|Cannot be updated)[:.]? ?(https?://\S+)?\.?$", "", paragraph)
    sentences = re.split(r"(?<=[a-z0-9)\"'`][.])\s+(?=[A-Z])", paragraph)
    kept = sentences[0]
    for sentence in sentences[1:]:
        if len(kept) + len(sentence) >= _BRIEF:
            break
        kept += f" {sentence}"
    return kept if len(kept) <= 240 else kept[:240].rsplit(" ", 1)[0] + " ..."


class _Cutter:
    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions

    def definition(self, name: str) -> Schema:
        how = CUTS[name]
        source = self._source(how.source or name)
        properties = source["properties"]
        schema: Schema = {"description": how.description or brief(source.get("description", "")), "type": "object"}
        required = [field for field in how.fields if field in {*source.get("required", ()), *how.required}]
        if required:
            schema["required"] = required
        # The rest goes before the fields, so that what belongs together stays within sight.
        if source.get("x-kubernetes-map-type"):
            schema["x-kubernetes-map-type"] = source["x-kubernetes-map-type"]
        if how.rules:
            schema["x-kubernetes-validations"] = [dict(rule) for rule in how.rules]
        schema["properties"] = {}
        for field in how.fields:
            if field not in properties:
                raise Unknown(f"{name}.{field} is not in the OpenAPI document; cut it from a newer Kubernetes")
            schema["properties"][field] = self._field(how, name, field, properties[field], required=field in required)
        return schema

    def _source(self, name: str) -> Mapping[str, Any]:
        for prefix in ("io.k8s.api.core.v1.", "io.k8s.apimachinery.pkg.apis.meta.v1."):
            if prefix + name in self._definitions:
                found: Mapping[str, Any] = self._definitions[prefix + name]
                return found
        raise Unknown(f"{name} is not in the OpenAPI document")

    def _field(self, how: Cut, name: str, field: str, source: Mapping[str, Any], *, required: bool) -> Schema:
        schema = self._value(source, how.uses.get(field, ""))
        if "description" in source:
            schema = {
                "description": brief(source["description"]),
                **{k: schema[k] for k in schema if k != "description"},
            }
        if required or schema.get("default") == "":
            schema.pop("default", None)  # the zero of Kubernetes' own type, which none of its checks lets through
        bounds = BOUNDS.get(f"{name}.{field}", BOUNDS.get(field, {}))
        schema = _bounded(schema, bounds)
        return {
            **{k: v for k, v in schema.items() if k not in _HOLDING},
            **{k: schema[k] for k in _HOLDING if k in schema},
        }

    def _value(self, source: Mapping[str, Any], use: str) -> Schema:
        reference = source.get("$ref") or next((part["$ref"] for part in source.get("allOf", [])), "")
        if reference:
            return self._reference(reference.rpartition("/")[2], use)
        schema: Schema = {key: value for key, value in source.items() if key in _KEPT}
        if "items" in source:
            schema["items"] = self._value(source["items"], use)
            for repeated in ("default", "description"):
                schema["items"].pop(repeated, None)
            schema.setdefault("x-kubernetes-list-type", "atomic")
        if "additionalProperties" in source:
            schema["additionalProperties"] = self._value(source["additionalProperties"], use)
            schema["additionalProperties"].pop("default", None)
        return schema

    def _reference(self, name: str, use: str) -> Schema:
        if name == _QUANTITY:
            return {"x-kubernetes-int-or-string": True, **BOUNDS["Quantity"]}
        if name == _INT_OR_STRING:
            return {"x-kubernetes-int-or-string": True, **BOUNDS["IntOrString"]}
        return self.definition(use or name.rpartition(".")[2])


def _bounded(schema: Schema, bounds: Mapping[str, Any]) -> Schema:
    """Return a schema in which every string, list and map has a bound, the given ones before the general ones."""
    bounds = dict(bounds)
    schema = {**schema}
    for part in ("items", "additionalProperties"):
        if part in schema:
            schema[part] = _bounded(schema[part], bounds.pop(part, {}))
    kind = schema.get("type")
    if kind == "array":
        bounds = {**LISTS["array"], **bounds}
    elif kind == "object" and "additionalProperties" in schema:
        bounds = {**LISTS["object"], **bounds}
    elif kind == "string" and "enum" not in schema and "enum" not in bounds:
        bounds = {**LISTS["string"], **bounds}
    elif kind == "integer":
        bounds = {**LISTS[schema.get("format", "int32")], **bounds}
    return {**schema, **bounds}


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if something would change")
    parser.add_argument("document", type=Path, help="what `kubectl get --raw /openapi/v3/api/v1` prints")
    arguments = parser.parse_args()
    before = CRD.read_text("utf-8")
    after = rewritten(before, json.loads(arguments.document.read_text("utf-8")))
    if arguments.check:
        return int(before != after)
    CRD.write_text(after, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
