"""Whether a live object still says what we applied, and what others have added to it.

``changed``   fields of ours that are gone or have another value. What only the live object has is ignored:
              the API server fills in defaults, and others may label and annotate.
``additions`` what stands in the security-relevant parts of a pod template besides ours. An apply, forced or
              not, leaves fields alone that it never owned, so a merge patch has to take them away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cellmesh.protocol.quantities import same_quantity

Object = Mapping[str, Any]

#: Lists that the API server merges item by item, by these fields of theirs (apimachinery's list-map-keys).
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "containers": ("name",),
    "env": ("name",),
    "ephemeralContainers": ("name",),
    "hostAliases": ("ip",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ownerReferences": ("uid",),
    "ports": ("containerPort", "port", "protocol"),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "volumeDevices": ("devicePath",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
#: Maps whose values are quantities, and fields that are one.
_QUANTITY_MAPS: Final = frozenset({"limits", "requests"})
_QUANTITIES: Final = frozenset({"divisor", "sizeLimit"})

#: Fields of a pod's spec that may only be there if we have set them, with the defaults of the API server.
_GUARDED_POD: Final[Mapping[str, Any]] = {
    "automountServiceAccountToken": True,
    "dnsConfig": None,
    "dnsPolicy": "ClusterFirst",
    "ephemeralContainers": None,
    "hostAliases": None,
    "hostIPC": False,
    "hostNetwork": False,
    "hostPID": False,
    "hostname": None,
    "initContainers": None,
    "nodeName": None,
    "runtimeClassName": None,
    "shareProcessNamespace": False,
    "volumes": None,
}
_GUARDED_CONTAINER: Final = (
    "args",
    "command",
    "env",
    "envFrom",
    "lifecycle",
    "ports",
    "securityContext",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
)
#: What others may add to a securityContext: it only takes rights away, and policy engines do it everywhere.
_TIGHTENING: Final[Mapping[str, Any]] = {
    "allowPrivilegeEscalation": False,
    "appArmorProfile": {"type": "RuntimeDefault"},
    "privileged": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
#: False and 0 are left out of what the API server answers, but for these, whose absence means true.
_TRUE_WHEN_ABSENT: Final = frozenset(
    {"allowPrivilegeEscalation", "automountServiceAccountToken", "enableServiceLinks", "hostUsers"}
)
_PROBES: Final = ("livenessProbe", "readinessProbe", "startupProbe")
_PROBE_ACTIONS: Final = frozenset({"exec", "grpc", "httpGet", "tcpSocket"})


def changed(desired: Object, live: Object) -> tuple[str, ...]:
    """Return the paths of fields that we want and the live object lacks or has otherwise."""
    return tuple(_changed(desired, live, "", ""))


@dataclass(frozen=True)
class Additions:
    """What others have added to a pod template."""

    paths: tuple[str, ...]
    patch: Object
    """Merge patch of the pod's spec that takes it away; a list comes whole."""


def additions(desired: Object, live: Object) -> Additions:
    """Compare two specs of pods, ours and the live one, for what is in the live one only."""
    paths: list[str] = []
    patch: dict[str, Any] = {}
    for name, default in _GUARDED_POD.items():
        if name not in desired and not _empty(live.get(name)) and live[name] != default:
            paths.append(name)
            patch[name] = None
    foreign = list(_loosening(_map(desired, "securityContext"), _map(live, "securityContext")))
    if foreign:
        paths += [f"securityContext.{key}" for key in foreign]
        patch["securityContext"] = dict.fromkeys(foreign)
    for name, compare in (
        ("containers", _container_additions),
        ("initContainers", _container_additions),
        ("volumes", _volume_additions),
    ):
        if name not in desired:
            continue
        found = list(_list_additions(name, desired[name], live.get(name) or [], compare))
        if found:
            paths += found
            patch[name] = desired[name]
    return Additions(tuple(paths), patch)


def _changed(desired: Any, live: Any, path: str, name: str) -> Iterator[str]:
    if desired == live:
        return
    if _empty(desired):
        if not _empty(live) and not isinstance(desired, dict):
            yield path
    elif isinstance(desired, dict):
        if not isinstance(live, dict):
            yield path
            return
        for key, value in desired.items():
            inner = _QUANTITY if name in _QUANTITY_MAPS or key in _QUANTITIES else key
            yield from _changed(value, live.get(key), _join(path, key), inner)
    elif isinstance(desired, list):
        yield from _changed_list(desired, live, path, name)
    elif not _same(desired, live, name):
        yield path


#: Stands for the name of a field that holds a quantity.
_QUANTITY: Final = "<quantity>"


def _changed_list(desired: Sequence[Any], live: Any, path: str, name: str) -> Iterator[str]:
    if not isinstance(live, list):
        yield path
    elif name in _KEYS:
        there = {_key(item, name): item for item in live}
        for item in desired:
            where = f"{path}[{_label(item, name)}]"
            if _key(item, name) in there:
                yield from _changed(item, there[_key(item, name)], where, "")
            else:
                yield where
    elif len(desired) != len(live):
        yield path
    else:
        for index, (want, have) in enumerate(zip(desired, live, strict=True)):
            yield from _changed(want, have, f"{path}[{index}]", "")


def _same(desired: Any, live: Any, name: str) -> bool:
    if name == _QUANTITY:
        return same_quantity(desired, live)
    if live is None and not desired:
        return name not in _TRUE_WHEN_ABSENT
    return bool(desired == live)


def _list_additions(name: str, desired: Sequence[Object], live: Sequence[Object], compare: Any) -> Iterator[str]:
    ours = {item["name"]: item for item in desired}
    for item in live:
        where = f"{name}[{item.get('name')}]"
        if item.get("name") not in ours:
            yield where
        else:
            yield from (f"{where}.{path}" for path in compare(ours[item["name"]], item))


def _container_additions(desired: Object, live: Object) -> Iterator[str]:
    for name in _GUARDED_CONTAINER:
        if _empty(live.get(name)):
            continue
        if name not in desired:
            yield name
        elif name == "securityContext":
            yield from (f"{name}.{key}" for key in _loosening(desired[name], live[name]))
            capabilities, ours = _map(live[name], "capabilities"), _map(desired[name], "capabilities")
            yield from (f"{name}.capabilities.{key}" for key in capabilities if key not in ours)
        elif name in _KEYS:
            yield from _item_additions(name, desired[name], live[name])
    for name in _PROBES:
        ours = _map(desired, name)
        yield from (f"{name}.{key}" for key in _map(live, name) if key in _PROBE_ACTIONS and key not in ours)


def _loosening(desired: Object, live: Object) -> Iterator[str]:
    for key, value in live.items():
        if key not in desired and not _empty(value) and not (key in _TIGHTENING and value == _TIGHTENING[key]):
            yield key


def _item_additions(name: str, desired: Sequence[Object], live: Sequence[Object]) -> Iterator[str]:
    ours = {_key(item, name): item for item in desired}
    for item in live:
        where = f"{name}[{_label(item, name)}]"
        mine = ours.get(_key(item, name))
        if mine is None:
            yield where
        elif name == "env" and "valueFrom" in item and "valueFrom" not in mine:
            yield f"{where}.valueFrom"
        elif name == "ports" and not _empty(item.get("hostPort")) and "hostPort" not in mine:
            yield f"{where}.hostPort"


def _volume_additions(desired: Object, live: Object) -> Iterator[str]:
    yield from (key for key in live if key not in desired)


def _key(item: Object, name: str) -> tuple[Any, ...]:
    # The API server fills in the protocol, a key of its own default.
    return tuple(item.get(key, "TCP" if key == "protocol" else None) for key in _KEYS[name])


def _label(item: Object, name: str) -> str:
    return "/".join(str(item[key]) for key in _KEYS[name] if key in item)


def _map(data: Object, name: str) -> Object:
    value = data.get(name)
    return value if isinstance(value, dict) else {}


def _empty(value: Any) -> bool:
    return value is None or (not value and isinstance(value, (str, dict, list)))


def _join(path: str, key: str) -> str:
    if not path:
        return key
    return f"{path}[{key}]" if "/" in key or "." in key else f"{path}.{key}"
