"""What goes into the report of a test that has failed: what the cluster knows of it."""

from __future__ import annotations

from collections.abc import Iterator

from e2e.clusters import Cluster
from e2e.programs import Failed

#: Lines of a pod's log.
TAIL = 200


def collect(cluster: Cluster, namespaces: list[str], operator: list[str]) -> Iterator[tuple[str, str]]:
    """Return titles and texts: Cells, pods, events and logs of a test's namespaces, pods and logs of the operator."""
    for namespace in namespaces:
        yield f"Cells of {namespace}", _ask(cluster, "-n", namespace, "get", "cells", "-o", "yaml")
        children = "pods,statefulsets,services,persistentvolumeclaims,poddisruptionbudgets"
        yield f"objects of {namespace}", _ask(cluster, "-n", namespace, "get", children, "-o", "wide")
        yield f"events of {namespace}", _ask(cluster, "-n", namespace, "get", "events", "--sort-by=.lastTimestamp")
    for namespace in [*namespaces, *operator]:
        yield from _logs(cluster, namespace)
    yield "nodes", _ask(cluster, "get", "nodes", "-o", "wide")


def _logs(cluster: Cluster, namespace: str) -> Iterator[tuple[str, str]]:
    yield f"pods of {namespace}", _ask(cluster, "-n", namespace, "get", "pods", "-o", "wide")
    for pod in _ask(cluster, "-n", namespace, "get", "pods", "-o", "name").split():
        if not pod.startswith("pod/"):
            return
        of = ("-n", namespace, "logs", pod, "--all-containers", "--prefix", f"--tail={TAIL}", "--timestamps")
        yield f"log of {namespace} {pod}", _ask(cluster, *of)
        if "previous" not in (before := _ask(cluster, *of, "--previous")):
            yield f"log of {namespace} {pod} before its container was started anew", before


def _ask(cluster: Cluster, *arguments: str) -> str:
    try:
        return cluster.kubectl(*arguments, timeout=20)
    except Failed as failed:
        return str(failed)
