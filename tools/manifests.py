"""Make the manifests that follow from the Cell's definition and the charts: ``make manifests``.

    python -m tools.manifests           write them
    python -m tools.manifests --check   say which would change

What is made: docs/cells.md and the chart's copy out of the Cell's definition, the table of values in each chart's
README, ``deploy/install.yaml`` for those who do without Helm, and the snapshot of the charts' defaults that tests
compare.
Needs Helm, as ``make tools`` builds it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tools.cell_reference import REFERENCE, reference
from tools.chart_values import table

ROOT = Path(__file__).parents[1]
CRD = ROOT / "cell/src/cellmesh/protocol/cells.cellmesh.dev.yaml"
CHARTS = ("cellmesh-crds", "cellmesh")
#: Namespace of the operator in deploy/install.yaml and in every command of the documentation.
NAMESPACE = "cellmesh-system"

_INSTALL_HEAD = f"""\
# CellMesh without Helm: the Cell resource, reconciler and discovery, in namespace {NAMESPACE}.
#     kubectl apply -f deploy/install.yaml
# Made from the charts by `make manifests`; the images are those of `make images`, to be loaded into the cluster's
# nodes, or pushed to a registry and named here. Deleting by this file deletes all Cells too: it holds their definition.
"""
_NAMESPACE = f"""\
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    app.kubernetes.io/part-of: cellmesh
    pod-security.kubernetes.io/enforce: restricted
"""
#: Kinds in the charts that are in no namespace.
_CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
#: What Helm says of its own objects, and would not be true of these.
_HELMS_LABELS = ("helm.sh/chart", "app.kubernetes.io/managed-by")


def main() -> int:
    """Write the files, or with ``--check`` say which are not up to date; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.manifests", description="Make the manifests.")
    parser.add_argument("--check", action="store_true", help="write nothing; say which files would change")
    check = parser.parse_args().check
    # In this order: install.yaml and the snapshot are rendered from the charts as they are on disk by then.
    stale = [
        path
        for make in (cell_reference, crd_of_chart, readmes, install, snapshots)
        for path in _write(make(), check=check)
    ]
    for path in stale:
        print(f"{'out of date' if check else 'written'}: {path.relative_to(ROOT)}")
    return 1 if check and stale else 0


def _write(files: dict[Path, str], *, check: bool) -> list[Path]:
    """Write what differs, unless it is only to be checked; return which."""
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    for path in stale if not check else []:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path])
    return stale


def cell_reference() -> dict[Path, str]:
    """Return the reference of a Cell's fields."""
    return {REFERENCE: reference()}


def crd_of_chart() -> dict[Path, str]:
    """Return the Cell's definition as a template: kept on uninstall, else word for word."""
    text = CRD.read_text()
    definition = yaml.safe_load(text)
    keep = "helm.sh/resource-policy: keep"
    if definition["metadata"].get("annotations"):
        marked = text.replace("\n  annotations:\n", f"\n  annotations:\n    {keep}\n", 1)
    else:
        name = f"\n  name: {definition['metadata']['name']}\n"
        marked = text.replace(name, f"{name}  annotations:\n    {keep}\n", 1)
    wanted = dict(definition, metadata={**definition["metadata"]})
    wanted["metadata"]["annotations"] = {
        **(definition["metadata"].get("annotations") or {}),
        "helm.sh/resource-policy": "keep",
    }
    if yaml.safe_load(marked) != wanted:
        sys.exit(f"{CRD.relative_to(ROOT)}: the annotation did not find its place; metadata.name comes first there")
    escaped = marked.replace("{{", '{{ "{{" }}')
    head = "# Made by `make manifests` from cell/src/cellmesh/protocol/cells.cellmesh.dev.yaml.\n"
    return {ROOT / "charts/cellmesh-crds/templates/cells.cellmesh.dev.yaml": head + escaped}


def readmes() -> dict[Path, str]:
    """Return each chart's README with the table of its values."""
    files = {}
    for chart in CHARTS:
        path = ROOT / "charts" / chart / "README.md"
        before, begin, rest = path.read_text().partition("<!-- values -->\n")
        _, end, after = rest.partition("<!-- /values -->")
        files[path] = f"{before}{begin}{table((path.parent / 'values.yaml').read_text())}{end}{after}"
    return files


def install() -> dict[Path, str]:
    """Return install.yaml: what the charts make with their defaults, without what is Helm's own."""
    documents = [document for chart in CHARTS for document in yaml.safe_load_all(render(chart, "--no-hooks"))]
    parts = [f"{_INSTALL_HEAD}---\n{_NAMESPACE}", *(_plain(document) for document in documents if document)]
    return {ROOT / "deploy/install.yaml": "---\n".join(parts)}


def _plain(document: dict[str, Any]) -> str:
    """Return an object of a chart as kubectl takes it."""
    if document["kind"] == "CustomResourceDefinition":
        return CRD.read_text()
    metadata = document["metadata"]
    if document["kind"] not in _CLUSTER_WIDE:
        metadata = {"name": metadata.pop("name"), "namespace": NAMESPACE, **metadata}
        document["metadata"] = metadata
    template = document["spec"]["template"] if document["kind"] == "Deployment" else {}
    for labels in (metadata["labels"], template.get("metadata", {}).get("labels", {})):
        for label in _HELMS_LABELS:
            labels.pop(label, None)
    return yaml.safe_dump(document, sort_keys=False, width=120)


def snapshots() -> dict[Path, str]:
    """Return what the chart makes with its defaults, and all it can make, each as a file."""
    values = ROOT / "charts/cellmesh/ci/everything-values.yaml"
    here = ROOT / "tests/charts/snapshots"
    return {
        here / "cellmesh-defaults.yaml": render("cellmesh"),
        here / "cellmesh-everything.yaml": render("cellmesh", "--values", str(values)),
    }


def render(chart: str, *options: str) -> str:
    """Return what a chart makes, as the release ``cellmesh`` or ``cellmesh-crds``."""
    command = [helm(), "template", chart, str(ROOT / "charts" / chart), "--namespace", NAMESPACE, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def helm() -> str:
    """Return Helm's path, that of ``make tools``."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(os.environ.get("CELLMESH_CACHE") or Path(cache) / "cellmesh") / "bin/helm4"
    if not path.exists():
        sys.exit("Helm 4 is needed; run `make tools`")
    return str(path)


if __name__ == "__main__":
    sys.exit(main())
