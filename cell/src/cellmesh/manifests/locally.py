"""What of a Cell this machine can do: it has processes and directories, but no pods, volumes or Secrets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

#: Fields of the spec that have an effect on a machine; the others need a cluster.
USED = frozenset({"replicas", "port", "type", "branch", "services", "mailbox", "app", "handler", "env", "envFrom"})
#: Fields of a pod that an instance on a machine has too.
KNOWN_OF_POD = ("metadata.name", "metadata.namespace")


@dataclass(frozen=True)
class Variable:
    """An environment variable of the instances: its value, or the field of ``KNOWN_OF_POD`` that is its value."""

    name: str
    value: str = ""
    field: str = ""


def variables(env: Sequence[dict[str, Any]]) -> tuple[Variable, ...]:
    """Return the variables of ``spec.env`` that have a value here.

    One out of a ConfigMap or Secret that may be missing is left out, as in a cluster that has none.
    """
    found = []
    for item in env:
        source = item.get("valueFrom")
        if source is None:
            found.append(Variable(item["name"], item.get("value", "")))
        elif "fieldRef" in source:
            found.append(Variable(item["name"], field=source["fieldRef"]["fieldPath"]))
    return tuple(found)


def unused_fields(spec: dict[str, Any]) -> tuple[str, ...]:
    """Return the fields of a spec, as it was written, that have no effect here."""
    return tuple(f"spec.{name}" for name, value in spec.items() if name not in USED and value is not None)


def local_faults(data: dict[str, Any]) -> list[str]:
    """Return what a Cell that is right asks for and cannot have here, each as ``path: why; what to do``."""
    spec = data.get("spec") or {}
    return [*_env_faults(spec.get("env") or []), *_env_from_faults(spec.get("envFrom") or [])]


def _env_faults(env: Sequence[dict[str, Any]]) -> Iterator[str]:
    for index, item in enumerate(env):
        source = item.get("valueFrom") or {}
        path = f"spec.env[{index}].valueFrom"
        for kind, what in (("configMapKeyRef", "ConfigMaps"), ("secretKeyRef", "Secrets")):
            if source.get(kind) and not source[kind].get("optional"):
                yield f"{path}.{kind}: there are no {what} on this machine; give a value, or say optional: true"
        if source.get("resourceFieldRef"):
            yield f"{path}.resourceFieldRef: there are no resource limits on this machine; give a value"
        field = (source.get("fieldRef") or {}).get("fieldPath")
        if field is not None and field not in KNOWN_OF_POD:
            known = " and ".join(KNOWN_OF_POD)
            yield f"{path}.fieldRef.fieldPath: there are no pods on this machine, only {known} are known; give a value"


def _env_from_faults(sources: Sequence[dict[str, Any]]) -> Iterator[str]:
    for index, source in enumerate(sources):
        for kind, what in (("configMapRef", "ConfigMaps"), ("secretRef", "Secrets")):
            if source.get(kind) and not source[kind].get("optional"):
                yield (
                    f"spec.envFrom[{index}].{kind}: there are no {what} on this machine; "
                    "put what is needed into env, or say optional: true"
                )
