"""What is kept of Kubernetes' own schemas in the Cell's, with bounds and rules.

Kept is what the Pod Security Standard `restricted` lets through and what the oldest supported Kubernetes (1.30)
knows without feature gates: a field that the API server would refuse or drop later is refused here at once.
Bounds are those that Kubernetes' own validation has, or generous ones where it has none: the API server takes no
rule in CEL that could cost too much, and without bounds any could.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Rule = Mapping[str, str]

#: The version whose OpenAPI document the parts were last cut from; others differ in descriptions.
KUBERNETES: Final = "1.34"


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How one definition is cut.

    Args:
        fields: those kept, in this order.
        source: the definition's name, where it differs from the key in ``CUTS``.
        required: fields that must be there besides those Kubernetes asks for.
        uses: for a field, the key in ``CUTS`` for what it holds, where that differs from the definition's name.
        rules: CEL rules of the object.
        description: instead of Kubernetes' own.

    """

    fields: Sequence[str]
    source: str = ""
    required: Sequence[str] = ()
    uses: Mapping[str, str] = field(default_factory=dict)
    rules: Sequence[Rule] = ()
    description: str = ""


def _one_of(names: Sequence[str], message: str) -> Rule:
    """Return the rule that exactly one of some fields is there."""
    present = ", ".join(f"has(self.{name})" for name in names)
    return {"rule": f"[{present}].exists_one(x, x)", "message": message}


DNS_LABEL: Final = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
QUALIFIED_NAME: Final = (
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
    r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
)
LABEL_VALUE: Final = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
_VARIABLE: Final = {"maxLength": 32768, "pattern": r"^[^\x00]*$"}
_OBJECT_NAME: Final = {
    "minLength": 1,
    "maxLength": 253,
    "pattern": DNS_SUBDOMAIN,
    "description": "Name of the object, which is in the Cell's namespace.",
}
_LABEL: Final = {"minLength": 1, "maxLength": 63, "pattern": DNS_LABEL}
_KEY: Final = {"minLength": 1, "maxLength": 317, "pattern": QUALIFIED_NAME}
_VALUE: Final = {"maxLength": 63, "pattern": LABEL_VALUE}
_DATA_KEY: Final = {"minLength": 1, "maxLength": 253, "pattern": "^[-._a-zA-Z0-9]+$"}
_MODE: Final = {"minimum": 0, "maximum": 511}
_SECONDS: Final = {"minimum": 1, "maximum": 86400}
_RELATIVE_PATH: Final = {"minLength": 1, "maxLength": 1024, "pattern": r"^[^/\x00]([^\x00]*)$"}

#: Bounds of what has none of its own, by type or format.
LISTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "array": {"maxItems": 32},
    "object": {"maxProperties": 32},
    "string": {"maxLength": 253},
    "int32": {"minimum": 0, "maximum": 2**31 - 1},
    # Not all of int64: API servers compare bounds as floating-point numbers.
    "int64": {"minimum": 0, "maximum": 2**53 - 1},
}

#: Bounds by field name, or in its place by definition and field name.
BOUNDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "Quantity": {
        "maxLength": 32,
        "minimum": 0,
        "pattern": r"^([0-9]{1,18}(\.[0-9]{0,9})?|\.[0-9]{1,9})([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})?$",
    },
    # A port by number or by name; the API server checks the name.
    "IntOrString": {"maxLength": 15, "minimum": 1, "maximum": 65535, "pattern": "^[0-9a-z]([-0-9a-z]*[0-9a-z])?$"},
    # scheduling
    "weight": {"minimum": 1, "maximum": 100},
    "topologyKey": _KEY,
    "key": _KEY,
    "Toleration.key": {"maxLength": 317, "pattern": f"^$|{QUALIFIED_NAME}"},
    "Toleration.value": _VALUE,
    "Toleration.tolerationSeconds": {"minimum": -(2**31), "maximum": 2**31 - 1},
    "values": {"items": {"maxLength": 253}, "maxItems": 64},
    "LabelSelectorRequirement.values": {"items": _VALUE, "maxItems": 64},
    "LabelSelectorRequirement.operator": {"enum": ["DoesNotExist", "Exists", "In", "NotIn"]},
    "matchLabels": {"additionalProperties": _VALUE},
    "matchLabelKeys": {"items": _KEY},
    "namespaces": {"items": _LABEL, "maxItems": 64},
    "nodeSelectorTerms": {"minItems": 1},
    "maxSkew": {"minimum": 1},
    "minDomains": {"minimum": 1},
    # DNS
    "nameservers": {"maxItems": 3, "items": {"minLength": 1, "maxLength": 45}},
    "searches": {"items": {"minLength": 1, "maxLength": 255}},
    # environment
    "EnvVar.name": {"minLength": 1, "maxLength": 128, "pattern": r"^[-._a-zA-Z][-._a-zA-Z0-9]*$"},
    "CellEnvVar.name": {
        "minLength": 1,
        "maxLength": 128,
        "pattern": "^[A-Za-z_][A-Za-z0-9_]*$",
        "description": "Name of the variable.",
    },
    "value": _VARIABLE,
    "CellEnvVar.value": {**_VARIABLE, "description": "Its value, as it is; nothing is expanded. Default: empty."},
    "EnvVar.value": {
        **_VARIABLE,
        "description": "Its value; $(NAME) in it stands for the value of a variable before it.",
    },
    "valueFrom": {"description": "Where the value comes from instead."},
    "prefix": {"maxLength": 64, "pattern": "^([A-Za-z_][A-Za-z0-9_]*)?$"},
    "ConfigMapKeySelector.key": _DATA_KEY,
    "SecretKeySelector.key": _DATA_KEY,
    "KeyToPath.key": _DATA_KEY,
    "ConfigMapKeySelector.name": _OBJECT_NAME,
    "SecretKeySelector.name": _OBJECT_NAME,
    "ConfigMapEnvSource.name": _OBJECT_NAME,
    "SecretEnvSource.name": _OBJECT_NAME,
    "LocalObjectReference.name": _OBJECT_NAME,
    "EnvFieldSelector.fieldPath": {
        "maxLength": 340,
        "pattern": r"^(metadata\.(name|namespace|uid)|metadata\.(labels|annotations)\['[^']+'\]|"
        r"spec\.(nodeName|serviceAccountName)|status\.(hostIP|hostIPs|podIP|podIPs))$",
    },
    "FileFieldSelector.fieldPath": {
        "maxLength": 340,
        "pattern": r"^metadata\.(name|namespace|uid|labels|annotations|(labels|annotations)\['[^']+'\])$",
    },
    "ResourceFieldSelector.resource": {
        "pattern": r"^(limits|requests)\.(cpu|memory|ephemeral-storage|hugepages-[0-9A-Za-z]+)$",
    },
    "ResourceFieldSelector.containerName": _LABEL,
    # resources
    "limits": {"maxProperties": 16},
    "requests": {"maxProperties": 16},
    # containers
    "Container.name": _LABEL,
    "InitContainer.name": _LABEL,
    "image": {"minLength": 1, "maxLength": 512, "pattern": r"^\S+$"},
    "command": {"items": {"maxLength": 32768}, "maxItems": 64},
    "args": {"items": {"maxLength": 32768}, "maxItems": 64},
    "workingDir": {"maxLength": 1024},
    "terminationMessagePath": {"maxLength": 1024},
    "ports": {"maxItems": 16},
    "ContainerPort.containerPort": {"minimum": 1, "maximum": 65535},
    "ContainerPort.name": {"minLength": 1, "maxLength": 15, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
    "env": {"maxItems": 128},
    "envFrom": {"maxItems": 32},
    "volumeMounts": {"maxItems": 32},
    "VolumeMount.name": _LABEL,
    "CellVolumeMount.name": _LABEL,
    "mountPath": {"minLength": 2, "maxLength": 512, "pattern": r"^/[^:\x00]+$"},
    "subPath": _RELATIVE_PATH,
    "subPathExpr": _RELATIVE_PATH,
    "InitContainer.restartPolicy": {"enum": ["Always"]},
    # security
    "allowPrivilegeEscalation": {"enum": [False], "default": False},
    "privileged": {"enum": [False]},
    "runAsNonRoot": {"enum": [True]},
    "runAsUser": {"minimum": 1, "maximum": 2**31 - 1},
    "runAsGroup": {"maximum": 2**31 - 1},
    "securityContext": {"default": {}},
    "capabilities": {"default": {"drop": ["ALL"]}},
    "add": {"items": {"enum": ["NET_BIND_SERVICE"]}, "maxItems": 1},
    "drop": {"items": {"minLength": 1, "maxLength": 64}, "default": ["ALL"]},
    "SeccompProfile.type": {"enum": ["Localhost", "RuntimeDefault"]},
    "AppArmorProfile.type": {"enum": ["Localhost", "RuntimeDefault"]},
    "localhostProfile": _RELATIVE_PATH,
    # probes
    "timeoutSeconds": _SECONDS,
    "periodSeconds": _SECONDS,
    "successThreshold": {"minimum": 1, "maximum": 1000},
    "failureThreshold": {"minimum": 1, "maximum": 10000},
    "initialDelaySeconds": {"maximum": 86400},
    "terminationGracePeriodSeconds": _SECONDS,
    "GRPCAction.port": {"minimum": 1, "maximum": 65535},
    "HTTPGetAction.path": {"maxLength": 1024},
    "HTTPHeader.name": {"minLength": 1, "pattern": "^[-!#$%&'*+.^_`|~A-Za-z0-9]+$"},
    "HTTPHeader.value": {"maxLength": 4096},
    "SleepAction.seconds": {"minimum": 1, "maximum": 86400},
    # volumes
    "Volume.name": _LABEL,
    "defaultMode": _MODE,
    "mode": _MODE,
    "path": _RELATIVE_PATH,
    "secretName": _OBJECT_NAME,
    "claimName": _OBJECT_NAME,
    "ConfigMapVolumeSource.name": _OBJECT_NAME,
    "ConfigMapProjection.name": _OBJECT_NAME,
    "SecretProjection.name": _OBJECT_NAME,
    "medium": {"enum": ["", "Memory"]},
    "driver": {"minLength": 1, "maxLength": 63},
    "volumeAttributes": {"additionalProperties": {"maxLength": 4096}},
    "expirationSeconds": {"minimum": 600, "maximum": 4294967296},
    "storageClassName": {"maxLength": 253},
    "accessModes": {"minItems": 1, "maxItems": 4},
}

_SOURCES: Final = (
    "configMap",
    "secret",
    "emptyDir",
    "projected",
    "downwardAPI",
    "persistentVolumeClaim",
    "csi",
    "ephemeral",
)
_HANDLERS: Final = ("exec", "httpGet", "tcpSocket", "grpc")
_CONTAINER: Final = (
    "name",
    "image",
    "imagePullPolicy",
    "command",
    "args",
    "workingDir",
    "ports",
    "env",
    "envFrom",
    "resources",
    "volumeMounts",
    "startupProbe",
    "readinessProbe",
    "livenessProbe",
    "lifecycle",
    "securityContext",
    "terminationMessagePath",
    "terminationMessagePolicy",
)
_OWN_CONTAINER: Final = {
    "rule": "self.name != 'cell'",
    "message": "cell is the name of the cell's own container; choose another",
    "fieldPath": ".name",
}
_OWN_PORT: Final = {
    "rule": "!has(self.ports) || !self.ports.exists(p, has(p.name) && p.name == 'cell')",
    "message": "cell is the name of the cell's own port; choose another",
    "fieldPath": ".ports",
}
_VALUE_OR_SOURCE: Final = {
    "rule": "!has(self.valueFrom) || !has(self.value)",
    "message": "give either value or valueFrom",
    "fieldPath": ".valueFrom",
}
# Three resources, and only of the cell's own container: to Kubernetes 1.30 the length of a quantity's text has no
# bound, so that a rule for all resources of all containers would cost too much for it to take.
_REQUESTS_FIT: Final = {
    "rule": "!has(self.limits) || !has(self.requests) || ['cpu', 'memory', 'ephemeral-storage'].all(r, "
    "!(r in self.requests) || !(r in self.limits) || "
    "quantity(string(self.requests[r])).compareTo(quantity(string(self.limits[r]))) <= 0)",
    "message": "a request must not be greater than the limit of the same resource",
    "fieldPath": ".requests",
}
_ONE_SUB_PATH: Final = {
    "rule": "!has(self.subPath) || !has(self.subPathExpr)",
    "message": "give either subPath or subPathExpr",
    "fieldPath": ".subPathExpr",
}

CUTS: Final[Mapping[str, Cut]] = {
    # scheduling
    "Affinity": Cut(
        fields=("nodeAffinity", "podAffinity", "podAntiAffinity"),
        description="Nodes that the instances need or want, and other pods that they want near or far.",
    ),
    "NodeAffinity": Cut(
        fields=("requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution")
    ),
    "PodAffinity": Cut(
        fields=("requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution")
    ),
    "PodAntiAffinity": Cut(
        fields=("requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution")
    ),
    "NodeSelector": Cut(fields=("nodeSelectorTerms",)),
    "NodeSelectorTerm": Cut(fields=("matchExpressions", "matchFields")),
    "NodeSelectorRequirement": Cut(fields=("key", "operator", "values")),
    "PreferredSchedulingTerm": Cut(fields=("weight", "preference")),
    "WeightedPodAffinityTerm": Cut(fields=("weight", "podAffinityTerm")),
    "PodAffinityTerm": Cut(fields=("topologyKey", "labelSelector", "namespaceSelector", "namespaces")),
    "LabelSelector": Cut(fields=("matchLabels", "matchExpressions")),
    "LabelSelectorRequirement": Cut(fields=("key", "operator", "values")),
    "Toleration": Cut(
        fields=("key", "operator", "value", "effect", "tolerationSeconds"),
        rules=[
            {
                "rule": "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
                "message": "must be empty where operator is Exists",
                "fieldPath": ".value",
            },
            {
                "rule": "(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')",
                "message": "must be Exists where there is no key",
                "fieldPath": ".operator",
            },
        ],
    ),
    "TopologySpreadConstraint": Cut(
        fields=(
            "maxSkew",
            "topologyKey",
            "whenUnsatisfiable",
            "labelSelector",
            "minDomains",
            "nodeAffinityPolicy",
            "nodeTaintsPolicy",
            "matchLabelKeys",
        ),
    ),
    "PodDNSConfig": Cut(
        fields=("nameservers", "searches", "options"),
        description="How the pods resolve names, besides the cluster's DNS.",
    ),
    "PodDNSConfigOption": Cut(fields=("name", "value")),
    "LocalObjectReference": Cut(fields=("name",), required=("name",)),
    # environment
    "CellEnvVar": Cut(
        source="EnvVar",
        fields=("name", "value", "valueFrom"),
        description="One variable.",
        rules=[
            {
                "rule": "!self.name.startsWith('CELLMESH_')",
                "message": "variables that start with CELLMESH_ are settings of the cell; use the fields of spec",
                "fieldPath": ".name",
            },
            _VALUE_OR_SOURCE,
        ],
    ),
    "EnvVar": Cut(fields=("name", "value", "valueFrom"), rules=[_VALUE_OR_SOURCE]),
    "EnvVarSource": Cut(
        fields=("configMapKeyRef", "secretKeyRef", "fieldRef", "resourceFieldRef"),
        uses={"fieldRef": "EnvFieldSelector"},
        rules=[
            _one_of(
                ("configMapKeyRef", "secretKeyRef", "fieldRef", "resourceFieldRef"),
                "give exactly one of configMapKeyRef, secretKeyRef, fieldRef and resourceFieldRef",
            )
        ],
    ),
    "ConfigMapKeySelector": Cut(fields=("name", "key", "optional"), required=("name",)),
    "SecretKeySelector": Cut(fields=("name", "key", "optional"), required=("name",)),
    "EnvFieldSelector": Cut(source="ObjectFieldSelector", fields=("fieldPath",)),
    "FileFieldSelector": Cut(source="ObjectFieldSelector", fields=("fieldPath",)),
    "ResourceFieldSelector": Cut(fields=("containerName", "resource", "divisor")),
    "EnvFromSource": Cut(
        fields=("configMapRef", "secretRef", "prefix"),
        rules=[
            _one_of(("configMapRef", "secretRef"), "give either configMapRef or secretRef"),
            {
                "rule": "!has(self.prefix) || !self.prefix.startsWith('CELLMESH_')",
                "message": "variables that start with CELLMESH_ are settings of the cell; use another prefix",
                "fieldPath": ".prefix",
            },
        ],
    ),
    "ConfigMapEnvSource": Cut(fields=("name", "optional"), required=("name",)),
    "SecretEnvSource": Cut(fields=("name", "optional"), required=("name",)),
    # resources
    "ResourceRequirements": Cut(fields=("limits", "requests")),
    "CellResources": Cut(
        source="ResourceRequirements",
        fields=("limits", "requests"),
        description="CPU, memory and other resources of each instance. Default: small requests, no limits.",
        rules=[_REQUESTS_FIT],
    ),
    "VolumeResourceRequirements": Cut(fields=("requests",), required=("requests",)),
    # containers
    "VolumeMount": Cut(
        fields=("name", "mountPath", "subPath", "subPathExpr", "readOnly"),
        rules=[_ONE_SUB_PATH],
    ),
    "CellVolumeMount": Cut(
        source="VolumeMount",
        fields=("name", "mountPath", "subPath", "subPathExpr", "readOnly"),
        rules=[
            _ONE_SUB_PATH,
            {
                "rule": "self.mountPath != '/var/lib/cellmesh' && !self.mountPath.startsWith('/var/lib/cellmesh/')",
                "message": "/var/lib/cellmesh is where the inbox is; choose another place",
                "fieldPath": ".mountPath",
            },
        ],
    ),
    "Container": Cut(fields=_CONTAINER, required=("image",), rules=[_OWN_CONTAINER, _OWN_PORT]),
    "InitContainer": Cut(
        source="Container",
        fields=(*_CONTAINER[:-2], "restartPolicy", *_CONTAINER[-2:]),
        required=("image",),
        rules=[
            _OWN_CONTAINER,
            _OWN_PORT,
            {
                "rule": "has(self.restartPolicy) || !(has(self.startupProbe) || has(self.readinessProbe) || "
                "has(self.livenessProbe) || has(self.lifecycle))",
                "message": "probes and lifecycle need restartPolicy Always, which makes it a sidecar",
                "fieldPath": ".restartPolicy",
            },
        ],
    ),
    "ContainerPort": Cut(fields=("name", "containerPort", "protocol")),
    "Probe": Cut(
        fields=(
            *_HANDLERS,
            "initialDelaySeconds",
            "periodSeconds",
            "timeoutSeconds",
            "successThreshold",
            "failureThreshold",
            "terminationGracePeriodSeconds",
        ),
        rules=[_one_of(_HANDLERS, "give exactly one of exec, httpGet, tcpSocket and grpc")],
    ),
    "ExecAction": Cut(fields=("command",), required=("command",)),
    "HTTPGetAction": Cut(fields=("path", "port", "scheme", "httpHeaders")),
    "HTTPHeader": Cut(fields=("name", "value")),
    "TCPSocketAction": Cut(fields=("port",)),
    "GRPCAction": Cut(fields=("port", "service")),
    "Lifecycle": Cut(fields=("postStart", "preStop")),
    "LifecycleHandler": Cut(
        fields=("exec", "httpGet", "sleep"),
        rules=[_one_of(("exec", "httpGet", "sleep"), "give exactly one of exec, httpGet and sleep")],
    ),
    "SleepAction": Cut(fields=("seconds",)),
    # security
    "SecurityContext": Cut(
        fields=(
            "allowPrivilegeEscalation",
            "capabilities",
            "privileged",
            "readOnlyRootFilesystem",
            "runAsNonRoot",
            "runAsUser",
            "runAsGroup",
            "seccompProfile",
            "appArmorProfile",
        ),
    ),
    "Capabilities": Cut(
        fields=("add", "drop"),
        rules=[
            {
                "rule": "has(self.drop) && self.drop.exists(c, c == 'ALL')",
                "message": "must hold ALL, as Pod Security restricted wants it",
                "fieldPath": ".drop",
            }
        ],
    ),
    "SeccompProfile": Cut(
        fields=("type", "localhostProfile"),
        rules=[
            {
                "rule": "(self.type == 'Localhost') == has(self.localhostProfile)",
                "message": "is for type Localhost, and needed there",
                "fieldPath": ".localhostProfile",
            }
        ],
    ),
    "AppArmorProfile": Cut(
        fields=("type", "localhostProfile"),
        rules=[
            {
                "rule": "(self.type == 'Localhost') == has(self.localhostProfile)",
                "message": "is for type Localhost, and needed there",
                "fieldPath": ".localhostProfile",
            }
        ],
    ),
    # volumes
    "Volume": Cut(
        fields=("name", *_SOURCES),
        rules=[
            {
                "rule": "!(self.name in ['inbox', 'tmp'])",
                "message": "inbox and tmp are volumes of the cell itself; choose another name",
                "fieldPath": ".name",
            },
            _one_of(_SOURCES, f"give exactly one of {', '.join(_SOURCES)}"),
        ],
    ),
    "ConfigMapVolumeSource": Cut(fields=("name", "items", "defaultMode", "optional"), required=("name",)),
    "SecretVolumeSource": Cut(fields=("secretName", "items", "defaultMode", "optional"), required=("secretName",)),
    "KeyToPath": Cut(fields=("key", "path", "mode")),
    "EmptyDirVolumeSource": Cut(fields=("medium", "sizeLimit")),
    "ProjectedVolumeSource": Cut(fields=("sources", "defaultMode"), required=("sources",)),
    "VolumeProjection": Cut(
        fields=("configMap", "secret", "downwardAPI", "serviceAccountToken"),
        rules=[
            _one_of(
                ("configMap", "secret", "downwardAPI", "serviceAccountToken"),
                "give exactly one of configMap, secret, downwardAPI and serviceAccountToken",
            )
        ],
    ),
    "ConfigMapProjection": Cut(fields=("name", "items", "optional"), required=("name",)),
    "SecretProjection": Cut(fields=("name", "items", "optional"), required=("name",)),
    "DownwardAPIProjection": Cut(fields=("items",)),
    "ServiceAccountTokenProjection": Cut(fields=("audience", "expirationSeconds", "path")),
    "DownwardAPIVolumeSource": Cut(fields=("items", "defaultMode")),
    "DownwardAPIVolumeFile": Cut(
        fields=("path", "fieldRef", "resourceFieldRef", "mode"),
        uses={"fieldRef": "FileFieldSelector"},
        rules=[_one_of(("fieldRef", "resourceFieldRef"), "give either fieldRef or resourceFieldRef")],
    ),
    "PersistentVolumeClaimVolumeSource": Cut(fields=("claimName", "readOnly")),
    "CSIVolumeSource": Cut(fields=("driver", "fsType", "readOnly", "nodePublishSecretRef", "volumeAttributes")),
    "EphemeralVolumeSource": Cut(fields=("volumeClaimTemplate",), required=("volumeClaimTemplate",)),
    "PersistentVolumeClaimTemplate": Cut(fields=("metadata", "spec"), uses={"metadata": "TemplateMetadata"}),
    "TemplateMetadata": Cut(
        source="ObjectMeta", fields=("labels", "annotations"), description="Labels and annotations of the claim."
    ),
    "PersistentVolumeClaimSpec": Cut(
        fields=("accessModes", "resources", "storageClassName"), required=("accessModes", "resources")
    ),
}
