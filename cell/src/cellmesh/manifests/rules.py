"""The CEL rules of the Cell's schema in Python: what an API server evaluates, a laptop knows too.

Like there, rules see values whose types and bounds have been checked and whose defaults are filled in. Rules that
compare with the object as it was (``oldSelf``) have no meaning where nothing is stored. A test holds that each
of the schema's other rules is here, and tests against a real API server that both say the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from cellmesh.protocol.handlers import is_handler_url
from cellmesh.protocol.quantities import quantity

_RESERVE = quantity("64Mi")
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL_NAME = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_OWN_LABELS = {f"app.kubernetes.io/{name}" for name in ("name", "instance", "component", "part-of", "managed-by")}
_VOLUMES = (
    "configMap",
    "secret",
    "emptyDir",
    "projected",
    "downwardAPI",
    "persistentVolumeClaim",
    "csi",
    "ephemeral",
)

Rule = Callable[[Any], bool]


def is_transition(rule: str) -> bool:
    """Tell whether a rule compares with the object as it was."""
    return "oldSelf" in rule


def _exactly_one(*names: str) -> tuple[str, Rule]:
    text = f"[{', '.join(f'has(self.{name})' for name in names)}].exists_one(x, x)"
    return text, lambda value: sum(name in value for name in names) == 1


def _holds_inbox(size: Any, spec: dict[str, Any]) -> bool:
    return quantity(size) - _RESERVE >= quantity(spec["mailbox"]["maxBytes"])


def _size_holds_inbox(spec: dict[str, Any]) -> bool:
    return "size" not in spec["storage"] or _holds_inbox(spec["storage"]["size"], spec)


def _limit_holds_inbox(spec: dict[str, Any]) -> bool:
    limit = spec["storage"].get("ephemeral", {}).get("sizeLimit")
    return limit is None or _holds_inbox(limit, spec)


def _mounts_are_known(mounts: list[dict[str, Any]], template: dict[str, Any]) -> bool:
    names = {volume["name"] for volume in template.get("volumes", [])}
    return all(mount["name"] in names for mount in mounts)


def _containers_mount_known(kind: str) -> Rule:
    return lambda template: all(
        _mounts_are_known(container.get("volumeMounts", []), template) for container in template.get(kind, [])
    )


def _port_is_free(spec: dict[str, Any]) -> bool:
    return not any(
        port["containerPort"] == spec["port"] and port["protocol"] == "TCP"
        for container in spec["template"].get("containers", [])
        for port in container.get("ports", [])
    )


def _names_differ(template: dict[str, Any]) -> bool:
    first = {container["name"] for container in template.get("initContainers", [])}
    return not any(container["name"] in first for container in template.get("containers", []))


def _requests_fit(resources: dict[str, Any]) -> bool:
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    return all(
        name not in requests or name not in limits or quantity(requests[name]) <= quantity(limits[name])
        for name in ("cpu", "memory", "ephemeral-storage")
    )


RULES: dict[str, Rule] = {
    # the object, spec and storage
    "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 52": lambda cell: (
        _NAME.fullmatch(cell["metadata"]["name"]) is not None and len(cell["metadata"]["name"]) <= 52
    ),
    "!has(self.storage) || !has(self.storage.size) || quantity(self.storage.size).sub(quantity('64Mi')) "
    ".compareTo(quantity(string(self.mailbox.maxBytes))) >= 0": _size_holds_inbox,
    "!has(self.storage) || !has(self.storage.ephemeral) || !has(self.storage.ephemeral.sizeLimit) || "
    "quantity(self.storage.ephemeral.sizeLimit).sub(quantity('64Mi')) "
    ".compareTo(quantity(string(self.mailbox.maxBytes))) >= 0": _limit_holds_inbox,
    "!has(self.volumeMounts) || self.volumeMounts.all(m, has(self.template.volumes) && "
    "self.template.volumes.exists(v, v.name == m.name))": lambda spec: _mounts_are_known(
        spec.get("volumeMounts", []), spec["template"]
    ),
    "!has(self.template) || !has(self.template.containers) || !self.template.containers.exists(c, has(c.ports) && "
    "c.ports.exists(p, p.containerPort == self.port && p.protocol == 'TCP'))": _port_is_free,
    "has(self.size) != has(self.ephemeral)": lambda storage: ("size" in storage) != ("ephemeral" in storage),
    "!has(self.ephemeral) || !(has(self.className) || has(self.accessModes) || has(self.retention))": lambda storage: (
        "ephemeral" not in storage or not {"className", "accessModes", "retention"} & set(storage)
    ),
    # app and handler
    "!has(self.app) || !has(self.handler)": lambda spec: "app" not in spec or "handler" not in spec,
    "!has(self.handler) || !has(self.handler.port) || self.handler.port != self.port": lambda spec: (
        spec.get("handler", {}).get("port") != spec["port"]
    ),
    "has(self.url) != has(self.port)": lambda handler: ("url" in handler) != ("port" in handler),
    "!has(self.path) || has(self.port)": lambda handler: "path" not in handler or "port" in handler,
    r"!has(self.url) || self.url.matches('^http://([A-Za-z0-9_.-]+|\\[[0-9A-Fa-f:.]+\\])' + "
    "'(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?(/[!$-~]*)?$')": (
        lambda handler: "url" not in handler or is_handler_url(handler["url"])
    ),
    # environment and mounts
    "!self.name.startsWith('CELLMESH_')": lambda variable: not variable["name"].startswith("CELLMESH_"),
    "!has(self.valueFrom) || !has(self.value)": lambda variable: not {"value", "valueFrom"} <= set(variable),
    "!has(self.prefix) || !self.prefix.startsWith('CELLMESH_')": lambda source: (
        not source.get("prefix", "").startswith("CELLMESH_")
    ),
    "self.mountPath != '/var/lib/cellmesh' && !self.mountPath.startsWith('/var/lib/cellmesh/')": lambda mount: (
        not (f"{mount['mountPath']}/".startswith("/var/lib/cellmesh/"))
    ),
    "!has(self.subPath) || !has(self.subPathExpr)": lambda mount: not {"subPath", "subPathExpr"} <= set(mount),
    "!has(self.limits) || !has(self.requests) || ['cpu', 'memory', 'ephemeral-storage'].all(r, "
    "!(r in self.requests) || !(r in self.limits) || "
    "quantity(string(self.requests[r])).compareTo(quantity(string(self.limits[r]))) <= 0)": _requests_fit,
    # labels and annotations
    "!self.exists(k, k.startsWith('cellmesh.dev/'))": lambda names: (
        not any(name.startswith("cellmesh.dev/") for name in names)
    ),
    "!self.exists(k, k.startsWith('cellmesh.dev/') || k in ['app.kubernetes.io/name', 'app.kubernetes.io/instance', "
    "'app.kubernetes.io/component', 'app.kubernetes.io/part-of', 'app.kubernetes.io/managed-by'])": lambda labels: (
        not any(name.startswith("cellmesh.dev/") or name in _OWN_LABELS for name in labels)
    ),
    "self.all(k, size(k) <= 317 && k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?"
    "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))": lambda names: all(
        len(name) <= 317 and _LABEL_NAME.fullmatch(name) for name in names
    ),
    # scheduling
    "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''": lambda toleration: (
        toleration.get("operator") != "Exists" or not toleration.get("value")
    ),
    "(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')": lambda toleration: (
        bool(toleration.get("key")) or toleration.get("operator") == "Exists"
    ),
    # containers
    "!has(self.containers) || !has(self.initContainers) || "
    "!self.containers.exists(c, self.initContainers.exists(i, i.name == c.name))": _names_differ,
    "!has(self.containers) || self.containers.all(c, !has(c.volumeMounts) || c.volumeMounts.all(m, "
    "has(self.volumes) && self.volumes.exists(v, v.name == m.name)))": _containers_mount_known("containers"),
    "!has(self.initContainers) || self.initContainers.all(c, !has(c.volumeMounts) || c.volumeMounts.all(m, "
    "has(self.volumes) && self.volumes.exists(v, v.name == m.name)))": _containers_mount_known("initContainers"),
    "self.name != 'cell'": lambda container: container["name"] != "cell",
    "!has(self.ports) || !self.ports.exists(p, has(p.name) && p.name == 'cell')": lambda container: (
        not any(port.get("name") == "cell" for port in container.get("ports", []))
    ),
    "has(self.restartPolicy) || !(has(self.startupProbe) || has(self.readinessProbe) || has(self.livenessProbe) || "
    "has(self.lifecycle))": lambda container: (
        "restartPolicy" in container
        or not {"startupProbe", "readinessProbe", "livenessProbe", "lifecycle"} & set(container)
    ),
    "has(self.drop) && self.drop.exists(c, c == 'ALL')": lambda capabilities: "ALL" in capabilities.get("drop", []),
    "(self.type == 'Localhost') == has(self.localhostProfile)": lambda profile: (
        (profile["type"] == "Localhost") == ("localhostProfile" in profile)
    ),
    # volumes
    "!(self.name in ['inbox', 'tmp'])": lambda volume: volume["name"] not in {"inbox", "tmp"},
    # one of several
    **dict(
        (
            _exactly_one("configMapKeyRef", "secretKeyRef", "fieldRef", "resourceFieldRef"),
            _exactly_one("configMapRef", "secretRef"),
            _exactly_one("exec", "httpGet", "tcpSocket", "grpc"),
            _exactly_one("exec", "httpGet", "sleep"),
            _exactly_one(*_VOLUMES),
            _exactly_one("configMap", "secret", "downwardAPI", "serviceAccountToken"),
            _exactly_one("fieldRef", "resourceFieldRef"),
        )
    ),
}
