"""What is made from the Cell's definition and the charts is up to date, and the values are documented and typed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.chart_values import undocumented, values

ROOT = Path(__file__).parents[2]
CHARTS = ("cellmesh", "cellmesh-crds")


@pytest.mark.usefixtures("helm")
@pytest.mark.parametrize("helm", ["helm4"], indirect=True)
def test_generated_files_are_up_to_date() -> None:
    """`make manifests` would change nothing: install.yaml, the chart's CRD, tables of values, snapshots."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.manifests", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}run `make manifests` and look at the difference"


@pytest.mark.parametrize("chart", CHARTS)
def test_every_value_bears_a_comment(chart: str) -> None:
    """The table of values leaves none out: each has a comment, or belongs to one that has."""
    source = (ROOT / "charts" / chart / "values.yaml").read_text()
    assert undocumented(source) == []
    assert values(source)


@pytest.mark.parametrize("chart", CHARTS)
def test_the_schema_knows_exactly_the_values_there_are(chart: str) -> None:
    """Every value has a type in values.schema.json, and the schema allows nothing that the chart does not have."""
    folder = ROOT / "charts" / chart
    schema = json.loads((folder / "values.schema.json").read_text())
    defaults = yaml.safe_load((folder / "values.yaml").read_text())
    assert _paths_of_schema(schema, schema) - {"global"} == _paths_of_values(defaults, schema, schema)


@pytest.mark.parametrize("chart", CHARTS)
def test_objects_with_fixed_keys_refuse_others(chart: str) -> None:
    """No object of the schema that lists its properties takes others besides."""
    schema = json.loads((ROOT / "charts" / chart / "values.schema.json").read_text())
    open_ones = [
        path
        for path, node in _nodes(schema)
        if "properties" in node and node.get("additionalProperties") is not False and path
    ]
    assert open_ones == []
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("chart", CHARTS)
def test_charts_have_the_projects_version(chart: str) -> None:
    """Chart and image are released together, under the version of pyproject.toml."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    about = yaml.safe_load((ROOT / "charts" / chart / "Chart.yaml").read_text())
    assert (about["version"], about["appVersion"]) == (version, version)


@pytest.mark.parametrize("chart", CHARTS)
def test_charts_say_the_lowest_kubernetes(chart: str) -> None:
    """Kubernetes before 1.30 is refused, pre-releases of 1.30 and vendors' suffixes are not."""
    about = yaml.safe_load((ROOT / "charts" / chart / "Chart.yaml").read_text())
    assert about["kubeVersion"] == ">=1.30.0-0"


def test_the_example_of_the_chart_is_the_one_of_the_project() -> None:
    """The demo Cells of the chart are those of examples/alpha-pure.yaml."""
    example = list(yaml.safe_load_all((ROOT / "examples/alpha-pure.yaml").read_text()))
    snapshot = (ROOT / "tests/charts/snapshots/cellmesh-everything.yaml").read_text()
    demo = [
        found
        for found in yaml.safe_load_all(snapshot)
        if found and found["kind"] == "Cell" and "helm.sh/hook" not in found["metadata"].get("annotations", {})
    ]
    specs = {each["metadata"]["name"]: {**each["spec"], "storage": {"ephemeral": {}}} for each in example}
    assert {each["metadata"]["name"]: each["spec"] for each in demo} == specs


def test_no_template_names_a_version_in_a_selector() -> None:
    """Selectors never change, so no helper that selects mentions a version or the chart."""
    helpers = (ROOT / "charts/cellmesh/templates/_helpers.tpl").read_text()
    selector = re.search(r'define "cellmesh.selectorLabels" -}}(.*?){{- end -}}', helpers, re.DOTALL)
    assert selector is not None
    assert "ersion" not in selector[1]


def _resolved(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    reference = node.get("$ref")
    return schema["$defs"][reference.rpartition("/")[2]] if reference else node


def _paths_of_schema(node: dict[str, Any], schema: dict[str, Any], above: str = "") -> set[str]:
    """Return the paths of the values that a schema describes; objects with free keys are one value."""
    paths: set[str] = set()
    for key, below in node.get("properties", {}).items():
        resolved = _resolved(below, schema)
        path = f"{above}{key}"
        fixed = "properties" in resolved and below.get("$ref") != "#/$defs/resources"
        paths |= _paths_of_schema(resolved, schema, f"{path}.") if fixed else {path}
    return paths


def _paths_of_values(tree: dict[str, Any], node: dict[str, Any], schema: dict[str, Any], above: str = "") -> set[str]:
    """Return the paths of the values that there are, as deep as the schema goes."""
    paths: set[str] = set()
    for key, value in tree.items():
        path = f"{above}{key}"
        below = node.get("properties", {}).get(key, {})
        resolved = _resolved(below, schema)
        deeper = isinstance(value, dict) and "properties" in resolved and below.get("$ref") != "#/$defs/resources"
        paths |= _paths_of_values(value, resolved, schema, f"{path}.") if deeper else {path}
    return paths


def _nodes(node: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    found = [(path, node)] if isinstance(node, dict) else []
    for key, below in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        # Names of properties are no schemas themselves.
        found += _nodes(below, f"{path}/{key}")
    return [(where, each) for where, each in found if not where.endswith("/properties")]
