"""Checks of one object against the schema of a Cell, as an API server with strict validation makes them.

The schema is the CRD's; this module gives ``jsonschema`` the meaning of Kubernetes' own keywords and turns
its errors into lines that name the field, what is wrong with it and what is allowed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError, validators

from cellmesh.manifests.rules import RULES, is_transition

API_VERSION = "cellmesh.dev/v1alpha1"
#: What an API server puts into metadata besides the name; taken, so that `kubectl get -o yaml` can be piped in.
METADATA = {
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
}
Faults = Iterator[ValidationError]


@cache
def cell_schema() -> dict[str, Any]:
    """Return the schema of a Cell, out of the CRD."""
    text = resources.files("cellmesh.protocol").joinpath("cells.cellmesh.dev.yaml").read_text("utf-8")
    # libyaml where PyYAML has it: the schema is long, and `cellmesh up` waits for it.
    crd = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    (version,) = crd["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


def faults(data: Any) -> list[str]:
    """Return every fault of one object, each as ``path: what is wrong; what to do``."""
    if not isinstance(data, dict):
        return [f"must be an object with apiVersion, kind, metadata and spec, not {_name(data)}"]
    kind, version = data.get("kind"), data.get("apiVersion")
    if kind != "Cell":
        return [f"kind: {_shown(kind)} is not run here, only Cell; remove it" if kind else "kind: missing; write Cell"]
    if version != API_VERSION:
        return [f"apiVersion: {_shown(version) if version else 'missing'}; write {API_VERSION}"]
    whole = with_defaults(data)
    lines = list(_metadata_faults(data.get("metadata")))
    errors = [*_validator().iter_errors(whole)]
    if not errors and not lines:
        # As on an API server: rules rely on what has been checked before.
        errors = list(_rule_faults(whole, cell_schema(), ()))
    errors.sort(key=lambda error: [str(step) for step in error.absolute_path])
    return [*lines, *(f"{_path(error)}: {_say(error)}" for error in errors)]


def with_defaults(data: Any, schema: dict[str, Any] | None = None) -> Any:
    """Return a copy of an object with the schema's defaults filled in, as an API server does it.

    What is written as null counts as absent there, for no field of a Cell may be null.
    """
    schema = cell_schema() if schema is None else schema
    if isinstance(data, dict):
        parts = _Parts(schema)
        given = {name: value for name, value in data.items() if value is not None or name not in parts}
        missing = {
            name: part["default"]
            for name, part in schema.get("properties", {}).items()
            if "default" in part and name not in given
        }
        return {name: with_defaults(value, parts.get(name)) for name, value in {**given, **missing}.items()}
    if isinstance(data, list):
        return [with_defaults(item, schema.get("items", {})) for item in data]
    return data


class _Parts:
    """The schemas of what an object holds, by name: its properties, or one for all entries of a map."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._properties: dict[str, Any] = schema.get("properties", {})
        self._others: dict[str, Any] | None = schema.get("additionalProperties")

    def __contains__(self, name: str) -> bool:
        return name in self._properties or self._others is not None

    def get(self, name: str) -> dict[str, Any]:
        """Return the schema of an entry; empty where there is none."""
        part: dict[str, Any] = self._properties.get(name, self._others or {})
        return part


@cache
def _validator() -> Any:
    checker = Draft202012Validator.TYPE_CHECKER.redefine(
        "integer",
        # Stricter than JSON Schema and API servers, to which 8000.0 is 8000: whoever writes that means something else.
        lambda _, value: isinstance(value, int) and not isinstance(value, bool),
    )
    keywords = {
        "pattern": _pattern,
        "properties": _properties,
        "required": _required,
        "x-kubernetes-int-or-string": _int_or_string,
        "x-kubernetes-list-type": _list_type,
    }
    extended: Any = validators.extend(Draft202012Validator, keywords, type_checker=checker)  # type: ignore[no-untyped-call]
    return extended(cell_schema())


def _pattern(validator: Any, pattern: str, value: Any, _: Any) -> Faults:
    # `$` of Go ends the text; Python's would let a line break through.
    if validator.is_type(value, "string") and not re.search(re.sub(r"\$$", r"\\Z", pattern), value):
        yield ValidationError(f"{_shown(value)} must match {pattern}")


def _properties(validator: Any, properties: dict[str, Any], value: Any, schema: Any) -> Faults:
    if not validator.is_type(value, "object"):
        return
    for name, part in properties.items():
        if name in value:
            yield from validator.descend(value[name], part, path=name, schema_path=name)
    for name in value:
        if name in properties or schema is cell_schema()["properties"]["metadata"]:
            continue
        fault = ValidationError(f"no such field{_did_you_mean(name, properties)}")
        fault.path.appendleft(name)
        yield fault


def _required(validator: Any, names: list[str], value: Any, _: Any) -> Faults:
    if validator.is_type(value, "object"):
        for name in names:
            if name not in value:
                yield ValidationError("missing", path=[name])


def _did_you_mean(name: str, known: Any) -> str:
    lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), lower, n=1)
    return f"; did you mean {lower[close[0]]}?" if close else f"; there are {', '.join(sorted(known))}"


def _int_or_string(validator: Any, wanted: bool, value: Any, _: Any) -> Faults:
    if wanted and not validator.is_type(value, "integer") and not validator.is_type(value, "string"):
        yield ValidationError(f"must be a whole number or a string, not {_name(value)}")


def _list_type(validator: Any, kind: str, value: Any, schema: dict[str, Any]) -> Faults:
    if not validator.is_type(value, "array") or kind not in {"set", "map"}:
        return
    keys = schema.get("x-kubernetes-list-map-keys", [])
    seen: set[str] = set()
    for index, item in enumerate(value):
        if kind == "map" and not isinstance(item, dict):
            continue
        shown = ", ".join(_shown(item.get(key)) for key in keys) if kind == "map" else _shown(item)
        identity = repr([item.get(key) for key in keys] if kind == "map" else item)
        if identity in seen:
            fault = ValidationError(f"{shown} is there twice; remove one")
            fault.path.append(index)
            yield fault
        seen.add(identity)


def _rule_faults(value: Any, schema: dict[str, Any], path: tuple[str | int, ...]) -> Faults:
    """Evaluate the rules of a value and of all that it holds."""
    for rule in schema.get("x-kubernetes-validations", []):
        if not is_transition(rule["rule"]) and not RULES[rule["rule"]](value):
            below = [step for step in rule.get("fieldPath", "").split(".") if step]
            yield ValidationError(rule["message"], path=[*path, *below], validator="rule", validator_value=rule["rule"])
    if isinstance(value, dict):
        parts = _Parts(schema)
        for name, item in value.items():
            yield from _rule_faults(item, parts.get(name), (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _rule_faults(item, schema.get("items", {}), (*path, index))


def _metadata_faults(metadata: Any) -> Iterator[str]:
    """Check of metadata what no CRD may describe: it is Kubernetes' own type."""
    if not isinstance(metadata, dict):
        yield f"metadata: must be an object with a name, not {_name(metadata)}"
        return
    if metadata.get("name") in {None, ""}:
        yield "metadata.name: missing; give the cell a name"
    for name in metadata:
        if name not in METADATA | {"name"}:
            yield f"metadata.{name}: no such field{_did_you_mean(name, METADATA | {'name'})}"
    namespace = metadata.get("namespace")
    if namespace is not None and (
        not isinstance(namespace, str) or not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", namespace)
    ):
        yield f"metadata.namespace: {_shown(namespace)} must be lower-case letters, digits and dashes, at most 63"
    for field in ("labels", "annotations"):
        entries = metadata.get(field)
        if entries is None:
            continue
        if not isinstance(entries, dict) or not all(isinstance(value, str) for value in entries.values()):
            yield f"metadata.{field}: must be an object of strings; quote the values"


def _path(error: ValidationError) -> str:
    path = ""
    for step in error.absolute_path:
        name = step if isinstance(step, int) or step.isprintable() else ascii(step)[1:-1]
        path += f"[{name}]" if isinstance(step, int) else f".{name}"[:100]
    return path.lstrip(".") or "the object"


def _say(error: ValidationError) -> str:
    """Return what is wrong in words; the schema's own keywords mean little to who wrote the manifest."""
    value: Any = error.instance
    limit: Any = error.validator_value
    match error.validator:
        case "type":
            hint = "; quote it" if limit == "string" and value is not None else ""
            return f"{_shown(value)} must be {_type(str(limit))}{hint}"
        case "minimum":
            return f"{_shown(value)} is less than the minimum of {limit}"
        case "maximum":
            return f"{_shown(value)} is greater than the maximum of {limit}"
        case "minLength":
            return "must not be empty" if limit == 1 else f"must be at least {limit} characters long"
        case "maxLength":
            return f"{len(value)} characters long; at most {limit} are allowed"
        case "maxItems":
            return f"{len(value)} entries; at most {limit} are allowed"
        case "minItems":
            return f"{len(value)} entries; at least {limit} must be given"
        case "maxProperties":
            return f"{len(value)} entries; at most {limit} are allowed"
        case "enum":
            return f"{_shown(value)} must be one of {', '.join(map(_shown, limit))}"
    return str(error.message)


def _type(name: str) -> str:
    return {"integer": "a whole number", "object": "an object", "array": "a list"}.get(name, f"a {name}")


def _name(value: Any) -> str:
    if value is None:
        return "nothing"
    return {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}.get(
        type(value), "a string"
    )


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)) or value is None:
        return _name(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    text = str(value) if isinstance(value, (int, float)) else ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
