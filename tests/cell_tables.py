"""Specs of Cells that are right, and such that are wrong with the field that must be named.

The API server and ``cellmesh up`` are both held to these tables: what one takes, the other takes.
"""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]


def cell(spec: Any = None, name: Any = "alpha", **metadata: Any) -> dict[str, Any]:
    """Return a Cell as data."""
    body = {"apiVersion": "cellmesh.dev/v1alpha1", "kind": "Cell", "metadata": {"name": name, **metadata}}
    return body if spec is None else {**body, "spec": spec}


def beside(**container: Any) -> Spec:
    """Return a spec with one container beside the cell."""
    return {"template": {"containers": [{"name": "log", "image": "fluent-bit:3", **container}]}}


def before(**container: Any) -> Spec:
    """Return a spec with one init container."""
    return {"template": {"initContainers": [{"name": "fetch", "image": "curl:8", **container}]}}


def volume(**source: Any) -> Spec:
    """Return a spec with one volume."""
    return {"template": {"volumes": [{"name": "data", **source}]}}


_PROBE = {"httpGet": {"path": "/", "port": 80}}
_TERM = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"cellmesh.dev/cell": "alpha"}}}

ACCEPTED: dict[str, Spec] = {
    "nothing": {},
    "scaled to zero": {"replicas": 0},
    "an image of its own": {"image": "registry.example/team/pure@sha256:" + "0" * 64, "imagePullPolicy": "Always"},
    "what peers see": {"type": "pure (β)", "branch": "main", "services": ["code-analysis", "a b/c:1"]},
    "a volume of a class": {
        "storage": {
            "size": "1.5Gi",
            "className": "fast.ssd",
            "accessModes": ["ReadWriteOncePod"],
            "retention": {"whenDeleted": "Delete"},
        }
    },
    "ephemeral": {"storage": {"ephemeral": {}}},
    "ephemeral with a limit": {"storage": {"ephemeral": {"sizeLimit": "2Gi"}}},
    "a small inbox on a small volume": {"storage": {"size": "100Mi"}, "mailbox": {"maxBytes": "32Mi"}},
    "a mailbox": {"mailbox": {"maxMessages": 5, "maxBytes": 1_000_000, "history": 0, "dedupeWindow": 604800}},
    "a mailbox of messages that are tried once": {"mailbox": {"maxDeliveries": 1}},
    "an app": {"app": "word_count:cell"},
    "an app inside of packages and objects": {"app": "a.b_2.C:_x.y"},
    "a handler beside the cell": {
        "handler": {"port": 9000, "path": "/on-message?a=b", "timeoutSeconds": 3600, "maxConcurrency": 256},
        **beside(ports=[{"containerPort": 9000}]),
    },
    "a handler elsewhere": {
        "handler": {"url": "http://pure-handler.lab.svc.cluster.local:65535/v1/$(x)", "types": ["query", "a b/β", "$x"]}
    },
    "a handler at an address": {"handler": {"url": "http://[fd00::1]:80", "timeoutSeconds": 1, "maxConcurrency": 1}},
    "a handler at a bare host": {"handler": {"url": "http://my_handler", "types": []}},
    "null is absent": {"image": None, "storage": None, "template": {"volumes": None, "nodeSelector": {"a": None}}},
    "resources": {
        "resources": {"limits": {"cpu": 1, "memory": "256Mi"}, "requests": {"cpu": "1000m", "memory": "1e6"}}
    },
    "a variable with a value": {"env": [{"name": "MODEL", "value": "$(HOME)"}, {"name": "_X"}]},
    "variables from elsewhere": {
        "env": [
            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": ".k-1", "optional": True}}},
            {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
            {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['example.com/x']"}}},
            {"name": "D", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        ],
        "envFrom": [{"secretRef": {"name": "s"}, "prefix": "S_"}, {"configMapRef": {"name": "c", "optional": True}}],
    },
    "a ServiceAccount for a cloud": {
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/x"}}
    },
    "volumes of every kind": {
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/pure", "readOnly": True},
            {"name": "scratch", "mountPath": "/tmp", "subPathExpr": "$(CELLMESH_INSTANCE)"},  # noqa: S108
        ],
        "template": {
            "volumes": [
                {"name": "config", "configMap": {"name": "pure", "items": [{"key": "a", "path": "b/a", "mode": 256}]}},
                {"name": "secret", "secret": {"secretName": "pure", "optional": True}},
                {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
                {"name": "all", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
                {
                    "name": "pod",
                    "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]},
                },
                {"name": "claim", "persistentVolumeClaim": {"claimName": "shared", "readOnly": True}},
                {"name": "csi", "csi": {"driver": "secrets-store.csi.k8s.io", "volumeAttributes": {"a": "b"}}},
                {
                    "name": "own",
                    "ephemeral": {
                        "volumeClaimTemplate": {
                            "metadata": {"labels": {"a": "b"}},
                            "spec": {
                                "accessModes": ["ReadWriteOnce"],
                                "resources": {"requests": {"storage": "1Gi"}},
                            },
                        }
                    },
                },
            ]
        },
    },
    "where pods go": {
        "template": {
            "nodeSelector": {"kubernetes.io/arch": "arm64", "example.com/pool": ""},
            "tolerations": [
                {"operator": "Exists"},
                {"key": "gpu", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 60},
            ],
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [
                            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
                        ]
                    }
                },
                "podAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": _TERM}]
                },
                "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [_TERM]},
            },
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
            ],
        }
    },
    "pods as a whole": {
        "template": {
            "metadata": {
                "labels": {"team": "core", "example.com/x": ""},
                "annotations": {"prometheus.io/scrape": "true"},
            },
            "imagePullSecrets": [{"name": "registry"}],
            "priorityClassName": "high",
            "runtimeClassName": "gvisor",
            "dnsConfig": {
                "nameservers": ["10.0.0.10"],
                "searches": ["example"],
                "options": [{"name": "ndots", "value": "2"}],
            },
            "terminationGracePeriodSeconds": 60,
        }
    },
    "a container beside": beside(
        command=["run"],
        args=["--fast"],
        ports=[{"name": "http", "containerPort": 9000}],
        env=[{"name": "CELLMESH_CELL_ID", "value": "other"}],
        resources={"requests": {"cpu": "10m"}},
        livenessProbe=_PROBE,
        readinessProbe={"exec": {"command": ["true"]}, "periodSeconds": 5},
        startupProbe={"grpc": {"port": 9000}},
        lifecycle={"preStop": {"sleep": {"seconds": 5}}},
        securityContext={
            "readOnlyRootFilesystem": True,
            "runAsUser": 1000,
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
            "seccompProfile": {"type": "Localhost", "localhostProfile": "log.json"},
        },
    ),
    "an init container": before(command=["fetch"]),
    "a sidecar": before(
        restartPolicy="Always", startupProbe={"tcpSocket": {"port": "http"}}, ports=[{"containerPort": 80}]
    ),
}

#: What is wrong, the field that must be named, and words of the reason that the API server and `cellmesh up` share.
REFUSED: dict[str, tuple[Spec, str, str]] = {
    "too many instances": ({"replicas": 1001}, "spec.replicas", "1001"),
    "fewer than none": ({"replicas": -1}, "spec.replicas", "-1"),
    "half an instance": ({"replicas": 1.5}, "spec.replicas", ""),
    "a port that is none": ({"port": 65536}, "spec.port", "65536"),
    "a port in quotes": ({"port": "8000"}, "spec.port", ""),
    "an image with a space": ({"image": "a b"}, "spec.image", "a b"),
    "an empty image": ({"image": ""}, "spec.image", ""),
    "a pull policy that is none": ({"imagePullPolicy": "Sometimes"}, "spec.imagePullPolicy", "Sometimes"),
    "a type of two lines": ({"type": "a\nb"}, "spec.type", ""),
    "a branch that is too long": ({"branch": "x" * 257}, "spec.branch", "256"),
    "a service twice": ({"services": ["a", "a"]}, "spec.services[1]", "a"),
    "a service with a comma": ({"services": ["a,b"]}, "spec.services[0]", "a,b"),
    "too many services": ({"services": [f"s{n}" for n in range(65)]}, "spec.services", "64"),
    "an unknown field": ({"prot": 1}, "spec.prot", ""),
    "an unknown field further down": ({"storage": {"size": "1Gi", "class": "x"}}, "spec.storage.class", ""),
    "a field that comes later": ({"access": {}}, "spec.access", ""),
    "messages that are never handed out": ({"mailbox": {"maxDeliveries": 0}}, "spec.mailbox.maxDeliveries", "0"),
    "messages that are tried for ever": ({"mailbox": {"maxDeliveries": 1001}}, "spec.mailbox.maxDeliveries", "1001"),
    "an inbox of no messages": ({"mailbox": {"maxMessages": 0}}, "spec.mailbox.maxMessages", "0"),
    "an inbox of a few bytes": ({"mailbox": {"maxBytes": 999_999}}, "spec.mailbox.maxBytes", "999999"),
    "a size with a wrong unit": ({"mailbox": {"maxBytes": "512mb"}}, "spec.mailbox.maxBytes", "512mb"),
    "a window of months": ({"mailbox": {"dedupeWindow": 604801}}, "spec.mailbox.dedupeWindow", "604800"),
    "an app without an object": ({"app": "word_count"}, "spec.app", "word_count"),
    "an app that is a file": ({"app": "word_count.py:cell()"}, "spec.app", "word_count"),
    "an app of a name that is none": ({"app": "1st:cell"}, "spec.app", "1st"),
    "an app and a handler": ({"app": "a:b", "handler": {"port": 9000}}, "spec.app", "not both"),
    "a handler of no place": ({"handler": {}}, "spec.handler.port", "or a url"),
    "a handler of two places": ({"handler": {"url": "http://a", "port": 9000}}, "spec.handler.port", "not both"),
    "a handler that is the cell itself": ({"handler": {"port": 8000}}, "spec.handler.port", "the cell itself"),
    "a handler's port that is none": ({"handler": {"port": 65536}}, "spec.handler.port", "65536"),
    "a path of a url": ({"handler": {"url": "http://a", "path": "/x"}}, "spec.handler.path", "goes with port"),
    "a path without a slash": ({"handler": {"port": 9000, "path": "x"}}, "spec.handler.path", "x"),
    "a path of two lines": ({"handler": {"port": 9000, "path": "/x\r\nHost: a"}}, "spec.handler.path", ""),
    "a handler behind TLS": ({"handler": {"url": "https://a"}}, "spec.handler.url", "http://HOST"),
    "a handler with a user": ({"handler": {"url": "http://u:p@a/"}}, "spec.handler.url", "user names"),
    "a handler at a port that is none": ({"handler": {"url": "http://a:65536"}}, "spec.handler.url", "http://HOST"),
    "a handler without a host": ({"handler": {"url": "http:///x"}}, "spec.handler.url", "http://HOST"),
    "a handler that is given no time": (
        {"handler": {"port": 9000, "timeoutSeconds": 0}},
        "spec.handler.timeoutSeconds",
        "0",
    ),
    "a handler that is given too long": (
        {"handler": {"port": 9000, "timeoutSeconds": 3601}},
        "spec.handler.timeoutSeconds",
        "3600",
    ),
    "a handler that is asked nothing": (
        {"handler": {"port": 9000, "maxConcurrency": 0}},
        "spec.handler.maxConcurrency",
        "0",
    ),
    "a handler that is asked too much": (
        {"handler": {"port": 9000, "maxConcurrency": 257}},
        "spec.handler.maxConcurrency",
        "256",
    ),
    "a message type with a comma": ({"handler": {"port": 9000, "types": ["a,b"]}}, "spec.handler.types[0]", "a,b"),
    "a message type with a blank": ({"handler": {"port": 9000, "types": ["a "]}}, "spec.handler.types[0]", "a "),
    "a message type twice": ({"handler": {"port": 9000, "types": ["a", "a"]}}, "spec.handler.types[1]", "a"),
    "too many message types": (
        {"handler": {"port": 9000, "types": [f"t{n}" for n in range(65)]}},
        "spec.handler.types",
        "64",
    ),
    "a volume smaller than its inbox": ({"storage": {"size": "512Mi"}}, "spec.storage.size", "mailbox.maxBytes"),
    "a limit smaller than the inbox": (
        {"storage": {"ephemeral": {"sizeLimit": "575Mi"}}},
        "spec.storage.ephemeral.sizeLimit",
        "mailbox.maxBytes",
    ),
    "a size that is none": ({"storage": {"size": "big"}}, "spec.storage.size", "big"),
    "a negative size": ({"storage": {"size": "-1Gi"}}, "spec.storage.size", "-1Gi"),
    "a volume without a size": ({"storage": {"className": "fast"}}, "spec.storage.size", "give a size"),
    "a volume that is ephemeral": ({"storage": {"size": "1Gi", "ephemeral": {}}}, "spec.storage.size", "not both"),
    "ephemeral of a class": (
        {"storage": {"ephemeral": {}, "className": "fast"}},
        "spec.storage.ephemeral",
        "has no className",
    ),
    "a class that is no name": (
        {"storage": {"size": "1Gi", "className": "Fast_SSD"}},
        "spec.storage.className",
        "Fast_SSD",
    ),
    "an access mode that cannot write": (
        {"storage": {"size": "1Gi", "accessModes": ["ReadOnlyMany"]}},
        "spec.storage.accessModes[0]",
        "ReadOnlyMany",
    ),
    "a retention that is none": (
        {"storage": {"size": "1Gi", "retention": {"whenDeleted": "Keep"}}},
        "spec.storage.retention.whenDeleted",
        "Keep",
    ),
    "a request above its limit": (
        {"resources": {"limits": {"cpu": "500m"}, "requests": {"cpu": 1}}},
        "spec.resources.requests",
        "greater than the limit",
    ),
    "a quantity that is none": ({"resources": {"limits": {"memory": "1 GB"}}}, "spec.resources.limits.memory", "1 GB"),
    "a negative quantity": ({"resources": {"limits": {"cpu": -1}}}, "spec.resources.limits.cpu", "-1"),
    "claims of devices": ({"resources": {"claims": [{"name": "gpu"}]}}, "spec.resources.claims", ""),
    "a setting as a variable": ({"env": [{"name": "CELLMESH_PORT"}]}, "spec.env[0].name", "CELLMESH_"),
    "a variable that is none": ({"env": [{"name": "A-B"}]}, "spec.env[0].name", "A-B"),
    "a variable without a name": ({"env": [{"value": "x"}]}, "spec.env[0].name", ""),
    "a variable twice": ({"env": [{"name": "A"}, {"name": "A"}]}, "spec.env[1]", "A"),
    "a number as a value": ({"env": [{"name": "A", "value": 1}]}, "spec.env[0].value", ""),
    "a value from two places": (
        {"env": [{"name": "A", "value": "", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]},
        "spec.env[0].valueFrom",
        "either",
    ),
    "a value from nowhere": ({"env": [{"name": "A", "valueFrom": {}}]}, "spec.env[0].valueFrom", "exactly one"),
    "a field that pods do not tell": (
        {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.hostname"}}}]},
        "spec.env[0].valueFrom.fieldRef.fieldPath",
        "spec.hostname",
    ),
    "variables from two places": (
        {"envFrom": [{"secretRef": {"name": "a"}, "configMapRef": {"name": "b"}}]},
        "spec.envFrom[0]",
        "either",
    ),
    "settings from a Secret": (
        {"envFrom": [{"secretRef": {"name": "a"}, "prefix": "CELLMESH_"}]},
        "spec.envFrom[0].prefix",
        "CELLMESH_",
    ),
    "a mount of no volume": (
        {"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        "spec.volumeMounts",
        "template.volumes",
    ),
    "a mount over the inbox": (
        {"volumeMounts": [{"name": "data", "mountPath": "/var/lib/cellmesh/inbox"}], **volume(emptyDir={})},
        "spec.volumeMounts[0].mountPath",
        "inbox",
    ),
    "a mount at a relative path": (
        {"volumeMounts": [{"name": "data", "mountPath": "data"}], **volume(emptyDir={})},
        "spec.volumeMounts[0].mountPath",
        "data",
    ),
    "two mounts at one path": (
        {"volumeMounts": [{"name": "data", "mountPath": "/data"}] * 2, **volume(emptyDir={})},
        "spec.volumeMounts[1]",
        "/data",
    ),
    "an annotation of the operator's": (
        {"serviceAccount": {"annotations": {"cellmesh.dev/x": "y"}}},
        "spec.serviceAccount.annotations",
        "cellmesh.dev/",
    ),
    "a label of the operator's": (
        {"template": {"metadata": {"labels": {"app.kubernetes.io/instance": "x"}}}},
        "spec.template.metadata.labels",
        "set by the operator",
    ),
    "a label with a wrong name": (
        {"template": {"metadata": {"labels": {"-a": "x"}}}},
        "spec.template.metadata.labels",
        "letters, digits",
    ),
    "a label with a wrong value": (
        {"template": {"metadata": {"labels": {"a": "x y"}}}},
        "spec.template.metadata.labels.a",
        "x y",
    ),
    "a node label with a wrong name": (
        {"template": {"nodeSelector": {"a b": "x"}}},
        "spec.template.nodeSelector",
        "letters",
    ),
    "a toleration of nothing": (
        {"template": {"tolerations": [{"value": "x"}]}},
        "spec.template.tolerations[0].operator",
        "must be Exists",
    ),
    "a toleration of a value that only exists": (
        {"template": {"tolerations": [{"key": "a", "operator": "Exists", "value": "x"}]}},
        "spec.template.tolerations[0].value",
        "must be empty",
    ),
    "an affinity without a topology": (
        {
            "template": {
                "affinity": {
                    "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"namespaces": ["a"]}]}
                }
            }
        },
        "spec.template.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey",
        "",
    ),
    "a weight of nothing": (
        {
            "template": {
                "affinity": {
                    "podAffinity": {
                        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 0, "podAffinityTerm": _TERM}]
                    }
                }
            }
        },
        "spec.template.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight",
        "0",
    ),
    "a spread that is none": (
        {
            "template": {
                "topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule"}]
            }
        },
        "spec.template.topologySpreadConstraints[0].maxSkew",
        "0",
    ),
    "no time to stop": (
        {"template": {"terminationGracePeriodSeconds": 0}},
        "spec.template.terminationGracePeriodSeconds",
        "0",
    ),
    "the host's network": ({"template": {"hostNetwork": True}}, "spec.template.hostNetwork", ""),
    "a directory of the node": (volume(hostPath={"path": "/"}), "spec.template.volumes[0].hostPath", ""),
    "a volume of no kind": (volume(), "spec.template.volumes[0]", "exactly one"),
    "a volume of two kinds": (
        volume(emptyDir={}, secret={"secretName": "a"}),
        "spec.template.volumes[0]",
        "exactly one",
    ),
    "a volume that is the cell's": (
        {"template": {"volumes": [{"name": "inbox", "emptyDir": {}}]}},
        "spec.template.volumes[0].name",
        "inbox",
    ),
    "a projection of two kinds": (
        volume(projected={"sources": [{"secret": {"name": "a"}, "configMap": {"name": "b"}}]}),
        "spec.template.volumes[0].projected.sources[0]",
        "exactly one",
    ),
    "a file of the pod that is no field": (
        volume(downwardAPI={"items": [{"path": "a"}]}),
        "spec.template.volumes[0].downwardAPI.items[0]",
        "either",
    ),
    "a container like the cell's": (beside(name="cell"), "spec.template.containers[0].name", "cell"),
    "a container without an image": (
        {"template": {"containers": [{"name": "log"}]}},
        "spec.template.containers[0].image",
        "",
    ),
    "a port like the cell's": (
        beside(ports=[{"name": "cell", "containerPort": 1}]),
        "spec.template.containers[0].ports",
        "cell",
    ),
    "the port of the cell": (beside(ports=[{"containerPort": 8000}]), "spec.port", "share"),
    "a port of the node": (
        beside(ports=[{"containerPort": 1, "hostPort": 1}]),
        "spec.template.containers[0].ports[0].hostPort",
        "",
    ),
    "a container that mounts what is not there": (
        beside(volumeMounts=[{"name": "inbox", "mountPath": "/inbox"}]),
        "spec.template.containers",
        "volumeMounts",
    ),
    "an init container that mounts what is not there": (
        before(volumeMounts=[{"name": "x", "mountPath": "/x"}]),
        "spec.template.initContainers",
        "volumeMounts",
    ),
    "a mount by two paths": (
        beside(volumeMounts=[{"name": "x", "mountPath": "/x", "subPath": "a", "subPathExpr": "b"}]),
        "spec.template.containers[0].volumeMounts[0].subPathExpr",
        "either",
    ),
    "a container with one name twice": (
        {
            "template": {
                "containers": [{"name": "a", "image": "i"}],
                "initContainers": [{"name": "a", "image": "i"}],
            }
        },
        "spec.template.containers",
        "init container",
    ),
    "a privileged container": (
        beside(securityContext={"privileged": True}),
        "spec.template.containers[0].securityContext.privileged",
        "true",
    ),
    "a container that may gain privileges": (
        beside(securityContext={"allowPrivilegeEscalation": True}),
        "spec.template.containers[0].securityContext.allowPrivilegeEscalation",
        "true",
    ),
    "a container as root": (
        beside(securityContext={"runAsUser": 0}),
        "spec.template.containers[0].securityContext.runAsUser",
        "0",
    ),
    "a container that may be root": (
        before(securityContext={"runAsNonRoot": False}),
        "spec.template.initContainers[0].securityContext.runAsNonRoot",
        "false",
    ),
    "a capability too many": (
        beside(securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}),
        "spec.template.containers[0].securityContext.capabilities.add[0]",
        "SYS_ADMIN",
    ),
    "capabilities that are kept": (
        beside(securityContext={"capabilities": {"drop": ["NET_RAW"]}}),
        "spec.template.containers[0].securityContext.capabilities.drop",
        "ALL",
    ),
    "no seccomp": (
        beside(securityContext={"seccompProfile": {"type": "Unconfined"}}),
        "spec.template.containers[0].securityContext.seccompProfile.type",
        "Unconfined",
    ),
    "a seccomp profile without a file": (
        beside(securityContext={"seccompProfile": {"type": "Localhost"}}),
        "spec.template.containers[0].securityContext.seccompProfile.localhostProfile",
        "Localhost",
    ),
    "a probe of nothing": (beside(livenessProbe={}), "spec.template.containers[0].livenessProbe", "exactly one"),
    "a probe of another host": (
        beside(livenessProbe={"httpGet": {"port": 1, "host": "example.com"}}),
        "spec.template.containers[0].livenessProbe.httpGet.host",
        "",
    ),
    "a hook that does nothing": (
        beside(lifecycle={"preStop": {}}),
        "spec.template.containers[0].lifecycle.preStop",
        "exactly one",
    ),
    "a probe of a container that ends": (
        before(readinessProbe=_PROBE),
        "spec.template.initContainers[0].restartPolicy",
        "Always",
    ),
    "a container that is never restarted": (
        before(restartPolicy="Never"),
        "spec.template.initContainers[0].restartPolicy",
        "Never",
    ),
    "a spec that is a list": ([], "spec", ""),  # type: ignore[dict-item]
}

#: Names that no Cell may have.
WRONG_NAMES = ["Alpha", "1alpha", "alpha-", "-alpha", "al_pha", "a.b", "a" * 53]
#: Names at the bounds of what a Cell may have.
RIGHT_NAMES = ["a", "a-1", "a" * 52]
