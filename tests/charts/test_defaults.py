"""What the charts make when nothing is said: objects, names, labels, security."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from charts.conftest import CHART, CRDS, ROOT, Helm, Render

SNAPSHOTS = Path(__file__).parent / "snapshots"
SCENARIOS = sorted((CHART / "ci").glob("*-values.yaml"))
LABELS = {"name", "instance", "component", "part-of", "version", "managed-by"}


def test_both_helms_make_the_snapshot(render: Render) -> None:
    """The defaults are those of the snapshot, object by object, with either Helm."""
    wanted = [found for found in yaml.safe_load_all((SNAPSHOTS / "cellmesh-defaults.yaml").read_text()) if found]
    assert _by_name(render().objects) == _by_name(wanted)


def test_both_helms_make_the_snapshot_of_everything(render: Render) -> None:
    """So are all options together."""
    wanted = [found for found in yaml.safe_load_all((SNAPSHOTS / "cellmesh-everything.yaml").read_text()) if found]
    made = render("--values", str(CHART / "ci/everything-values.yaml"))
    assert _by_name(made.objects) == _by_name(wanted)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.name)
def test_every_scenario_passes_the_strict_linter(helm: Helm, scenario: Path) -> None:
    """`helm lint --strict` has nothing to say of any file in ci/."""
    done = helm("lint", str(CHART), "--strict", "--values", str(scenario))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_chart_of_the_definition_passes_the_strict_linter(helm: Helm) -> None:
    """`helm lint --strict` has nothing to say of cellmesh-crds."""
    done = helm("lint", str(CRDS), "--strict")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_definition_is_kept_on_uninstall(render: Render) -> None:
    """Uninstalling never deletes Cells: the CRD has Helm's keep, and is else the project's own."""
    (made,) = render(chart=CRDS, release="cellmesh-crds").all("CustomResourceDefinition")
    assert made["metadata"]["annotations"].pop("helm.sh/resource-policy") == "keep"
    if not made["metadata"]["annotations"]:
        del made["metadata"]["annotations"]
    assert made == yaml.safe_load((ROOT / "cell/src/cellmesh/protocol/cells.cellmesh.dev.yaml").read_text())


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.name)
def test_every_object_has_the_recommended_labels(render: Render, scenario: Path) -> None:
    """Every object, and every pod it makes, says what it is part of."""
    for made in render("--values", str(scenario)).objects:
        sets = [made["metadata"]["labels"]]
        if made["kind"] == "Deployment":
            sets.append(made["spec"]["template"]["metadata"]["labels"])
        for labels in sets:
            assert {f"app.kubernetes.io/{label}" for label in LABELS} | {"helm.sh/chart"} <= set(labels), made


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.name)
def test_every_pod_passes_the_restricted_standard(render: Render, scenario: Path) -> None:
    """No pod needs more than the Pod Security Standard `restricted` gives, and none writes into its image."""
    pods = dict(render("--values", str(scenario)).pods())
    assert len(pods) == 3
    for name, spec in pods.items():
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] == 65532, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert {next(iter(set(volume) - {"name"})) for volume in spec.get("volumes", [])} <= {"emptyDir"}, name
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert context["readOnlyRootFilesystem"] is True, name


def test_the_reconciler_never_runs_twice(render: Render) -> None:
    """One replica, replaced only after it has ended."""
    spec = render().one("Deployment", "cellmesh-reconciler")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_cells_are_told_where_discovery_is(render: Render) -> None:
    """The reconciler gives cells the address of discovery's Service in the release's namespace."""
    assert _environment(render().one("Deployment", "cellmesh-reconciler"))["CELLMESH_RECONCILER_DISCOVERY_URL"] == (
        "http://cellmesh-discovery.cellmesh-system.svc:8001"
    )


def test_discovery_answers_to_its_service_names(render: Render) -> None:
    """Discovery refuses foreign host names, so it is told every name of its Service."""
    hosts = _environment(render().one("Deployment", "cellmesh-discovery"))["CELLMESH_DISCOVERY_ALLOWED_HOSTS"]
    service = "cellmesh-discovery.cellmesh-system"
    assert hosts.split(",") == [service, f"{service}.svc", f"{service}.svc.cluster.local"]


def test_every_variable_is_a_setting_of_its_program(render: Render) -> None:
    """No variable of the Deployments is misspelt: each is a setting of the program that reads it."""
    from cellmesh_operator.discovery import settings as discovery
    from cellmesh_operator.reconciler import settings as reconciler

    made = render()
    for module, name in ((reconciler, "cellmesh-reconciler"), (discovery, "cellmesh-discovery")):
        assert module.unknown(_environment(made.one("Deployment", name))) == []


def test_the_settings_of_the_chart_are_accepted(render: Render) -> None:
    """Both programs take the values that the chart gives them."""
    from cellmesh_operator.discovery.settings import Settings as Discovery
    from cellmesh_operator.reconciler.settings import Settings as Reconciler

    for options in ((), ("--values", str(CHART / "ci/everything-values.yaml"))):
        made = render(*options)
        assert Reconciler.from_environ(_environment(made.one("Deployment", "cellmesh-reconciler"))).discovery_url
        assert Discovery.from_environ(_environment(made.one("Deployment", "cellmesh-discovery"))).default_mesh


def test_images_are_those_of_make_images(render: Render) -> None:
    """Without values, the images are those of this version as `make images` names them."""
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    made = render()
    reconciler = made.one("Deployment", "cellmesh-reconciler")
    assert reconciler["spec"]["template"]["spec"]["containers"][0]["image"] == f"cellmesh-operator:{version}"
    assert _environment(reconciler)["CELLMESH_RECONCILER_CELL_IMAGE"] == f"cellmesh-cell:{version}"


def test_selectors_select_their_own_pods_only(render: Render) -> None:
    """Every Service, budget and Deployment selects pods of exactly one component, and never by version."""
    made = render()
    templates = {
        each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"] for each in made.all("Deployment")
    }
    for kind in ("Service", "PodDisruptionBudget", "Deployment"):
        for each in made.all(kind):
            selector = each["spec"]["selector"]
            selector = selector.get("matchLabels", selector)
            selected = [name for name, labels in templates.items() if selector.items() <= labels.items()]
            assert selected == [each["metadata"]["name"]], each
            assert "app.kubernetes.io/version" not in selector


def _by_name(objects: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        f"{each['kind']} {each['metadata'].get('namespace', '')}/{each['metadata']['name']}": each for each in objects
    }


def _environment(deployment: dict[str, Any]) -> dict[str, str]:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each.get("value", "from-the-pod") for each in container["env"]}
