"""What `cellmesh up` would run, and the ports it needs."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from cellmesh.cli.mesh import Place, Plan, is_local, make_plan, on_any_ports, port_faults, url_of
from cellmesh.manifests import CellManifest, load
from support import free_port

CELL = "apiVersion: cellmesh.dev/v1alpha1\nkind: Cell\nmetadata: {{name: {name}}}\nspec: {spec}\n"


def cells(tmp_path: Path, **specs: str) -> list[CellManifest]:
    """Return Cells by their names and specs."""
    path = tmp_path / "cells.yaml"
    path.write_text("---\n".join(CELL.format(name=name, spec=spec) for name, spec in specs.items()))
    return load([str(path)])


def plan(tmp_path: Path, environ: dict[str, str] | None = None, place: Any = None, **specs: str) -> Plan:
    """Return the plan for Cells."""
    return make_plan(cells(tmp_path, **specs), place or Place(data_dir=Path("/d")), environ or {})


def test_each_instance_is_a_process_and_the_first_has_the_port(tmp_path: Path) -> None:
    """Further instances take any free port; their data is apart."""
    found = plan(tmp_path, alpha="{replicas: 2, port: 9000}", pure="{port: 9002}")

    assert [(process.name, process.url) for process in found.cells] == [
        ("alpha-0", "http://127.0.0.1:9000"),
        ("alpha-1", ""),
        ("pure-0", "http://127.0.0.1:9002"),
    ]
    assert [process.environ["CELLMESH_PORT"] for process in found.cells] == ["9000", "0", "9002"]
    assert [process.environ["CELLMESH_DATA_DIR"] for process in found.cells] == [
        "/d/default/alpha-0",
        "/d/default/alpha-1",
        "/d/default/pure-0",
    ]


def test_cells_are_told_their_mesh_in_discovery(tmp_path: Path) -> None:
    """The URL has the port of this discovery and the cell's namespace."""
    (process,) = plan(tmp_path, place=Place(discovery_port=9001), alpha="{}").cells

    assert process.environ["CELLMESH_DISCOVERY_URL"] == "http://127.0.0.1:9001/meshes/default"


def test_settings_of_the_manifest_win_over_the_terminals(tmp_path: Path) -> None:
    """What is exported in the terminal is passed on, except where the Cell speaks for itself."""
    environ = {"CELLMESH_PORT": "1", "CELLMESH_LOG_LEVEL": "debug", "HOME": "/h", "MODEL": "x"}

    (process,) = plan(tmp_path, environ, alpha="{env: [{name: MODEL, value: y}]}").cells

    told = {name: process.environ[name] for name in environ}
    assert told == {"CELLMESH_PORT": "8000", "CELLMESH_LOG_LEVEL": "debug", "HOME": "/h", "MODEL": "y"}


def test_discovery_takes_more_registrations_than_there_are_instances(tmp_path: Path) -> None:
    """Its own bound is for clusters, where cells do not register."""
    command = plan(tmp_path, alpha="{replicas: 900}").discovery.command

    assert command[command.index("--max-registrations") + 1] == "1800"


def test_listening_on_all_addresses_is_reached_by_the_local_one(tmp_path: Path) -> None:
    """Nobody connects to 0.0.0.0."""
    found = plan(tmp_path, place=Place(host="0.0.0.0"), alpha="{}")  # noqa: S104 - the case

    assert found.cells[0].environ["CELLMESH_HOST"] == "0.0.0.0"  # noqa: S104
    assert found.cells[0].url == "http://127.0.0.1:8000"
    assert (url_of("::", 1), url_of("::1", 1), url_of("h", 1)) == ("http://[::1]:1", "http://[::1]:1", "http://h:1")


def test_only_loopback_is_local() -> None:
    """Everything else deserves the warning."""
    assert [is_local(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1", "box")] == [  # noqa: S104
        *(True, True, True),
        *(False, False, False),
    ]


def test_names_of_two_meshes_are_told_apart(tmp_path: Path) -> None:
    """Where there are several namespaces, processes are named with theirs."""
    path = tmp_path / "two.yaml"
    other = CELL.format(name="alpha, namespace: lab", spec="{port: 9000}")
    path.write_text(f"{CELL.format(name='alpha', spec='{}')}---\n{other}")

    assert [process.name for process in make_plan(load([str(path)]), Place(), {}).cells] == [
        "default/alpha-0",
        "lab/alpha-0",
    ]


def test_a_port_in_use_names_the_cell_and_the_remedy(tmp_path: Path) -> None:
    """All ports are looked at before anything starts."""
    with socket.socket() as first, socket.socket() as second:
        for listener in (first, second):
            listener.bind(("127.0.0.1", 0))
            listener.listen()
        cell_port, discovery_port = first.getsockname()[1], second.getsockname()[1]
        found = plan(tmp_path, place=Place(discovery_port=discovery_port), alpha=f"{{port: {cell_port}}}")

        in_use, or_any = "on 127.0.0.1 is in use by another program", "or take any free ports with --any-ports"
        assert port_faults(found) == [
            f"port {discovery_port} of discovery {in_use}: choose another with --discovery-port, {or_any}",
            f"port {cell_port} of Cell alpha {in_use}: change its spec.port, {or_any}",
        ]


def test_a_cell_on_discoverys_port_is_told(tmp_path: Path) -> None:
    """The collision is named and not left to whoever starts second."""
    port = free_port()

    (line,) = port_faults(plan(tmp_path, place=Place(discovery_port=port), alpha=f"{{port: {port}}}"))

    assert line.startswith(f"port {port} of Cell alpha is wanted by discovery too: change its spec.port")


def test_an_address_of_another_machine_is_told(tmp_path: Path) -> None:
    """The fault is the host, and the line says so."""
    place = Place(host="192.0.2.1", discovery_port=free_port())

    assert "because 192.0.2.1 is no address of this machine" in port_faults(plan(tmp_path, place=place, a="{}"))[0]


def test_cells_without_instances_need_no_free_port(tmp_path: Path) -> None:
    """Only what runs needs a port."""
    assert [owner for _, owner, _ in plan(tmp_path, alpha="{replicas: 0}").ports] == ["discovery"]


def test_any_ports_leaves_the_choice_to_the_system(tmp_path: Path) -> None:
    """Two Cells with one port can run, and so can a second mesh."""
    found, place = on_any_ports(cells(tmp_path, alpha="{port: 9000}"), Place())

    assert make_plan(found, place, {}).cells[0].url == ""
    assert place.discovery_port not in {0, 8001}


@pytest.mark.parametrize("module", ["cellmesh", "cellmesh_operator.discovery"])
def test_processes_do_not_import_from_the_current_directory(tmp_path: Path, module: str) -> None:
    """A user's own json.py stays the user's own."""
    found = plan(tmp_path, alpha="{}")
    commands = [found.discovery.command, *(process.command for process in found.cells)]

    assert any(command[1:4] == ("-P", "-m", module) for command in commands)


def test_fields_without_effect_here_are_told_by_cell(tmp_path: Path) -> None:
    """With the mesh where there are several; Cells without such fields are not mentioned."""
    found = plan(tmp_path, alpha="{image: x, storage: {size: 2Gi}}", pure="{port: 9002}")

    assert found.unused == (("alpha", ("spec.image", "spec.storage")),)


def test_handlers_that_a_pod_would_run_are_the_users_here(tmp_path: Path) -> None:
    """Those of Cells with instances; a handler at a URL runs wherever it runs."""
    found = plan(
        tmp_path,
        alpha="{port: 9001, handler: {port: 9000, path: /x}}",
        beta="{port: 9002, handler: {url: 'http://handler/'}}",
        gamma="{replicas: 0, handler: {port: 9000}}",
    )

    assert found.handlers == (("alpha", "http://127.0.0.1:9000/x"),)
    assert [process.environ["CELLMESH_HANDLER_URL"] for process in found.cells] == [
        "http://127.0.0.1:9000/x",
        "http://handler/",
    ]
