"""What a mesh on this machine consists of: which processes, with which environment, on which ports."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cellmesh.manifests import CellManifest, instance_environ

#: Registrations that discovery allows at least; more where there are more instances.
LEAST_REGISTRATIONS = 1000
_WILDCARDS = {"0.0.0.0", "::"}  # noqa: S104 - recognised, not listened on


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process to run: its name for people, and how it is started."""

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str]
    #: Where it answers; empty: on a port that only discovery will know.
    url: str
    #: What its /health says it is; empty: not asked.
    instance: str = ""
    #: Base URL of its mesh in discovery.
    mesh: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The processes of a mesh, and the ports they must have."""

    discovery: Process
    cells: tuple[Process, ...]
    host: str
    #: Port to who wants it, and how to give it another one.
    ports: tuple[tuple[int, str, str], ...]
    #: Cells with fields that have no effect on this machine, and these fields.
    unused: tuple[tuple[str, tuple[str, ...]], ...] = ()
    #: Cells whose handlers run beside them in a pod and here are the user's to run, and their URLs.
    handlers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a mesh runs on this machine."""

    host: str = "127.0.0.1"
    discovery_port: int = 8001
    data_dir: Path = Path(".data")
    namespace: str = "default"


def make_plan(cells: Sequence[CellManifest], place: Place, environ: Mapping[str, str]) -> Plan:
    """Return the processes that make these cells a mesh.

    Args:
        cells: the cells; a port of 0 is any free one.
        place: where they run.
        environ: the environment to pass on.

    """
    discovery_url = url_of(place.host, place.discovery_port)
    count = sum(cell.replicas for cell in cells)
    meshes = {cell.namespace for cell in cells}
    base = {
        # Everything goes down together, so there is no one to wait for while others learn of the end.
        "CELLMESH_DRAIN_ACCEPT": "0",
        **environ,
        "PYTHONUNBUFFERED": "1",
    }
    discovery = Process(
        name="discovery",
        command=(
            *_python("cellmesh_operator.discovery"),
            *("--host", place.host, "--port", str(place.discovery_port), "--default-mesh", place.namespace),
            *("--max-registrations", str(max(LEAST_REGISTRATIONS, 2 * count)), "--exit-with-parent"),
        ),
        environ=base,
        url=discovery_url,
    )
    processes = []
    ports = [(place.discovery_port, "discovery", "choose another with --discovery-port")]
    for cell in cells:
        if cell.replicas and cell.port:
            remedy = "change its spec.port"
            ports.append((cell.port, f"Cell {cell.name}", remedy))
        for ordinal, instance in enumerate(cell.instances):
            port = cell.port if ordinal == 0 else 0
            settings = instance_environ(
                cell, ordinal, host=place.host, port=port, data_dir=place.data_dir, discovery_url=discovery_url
            )
            processes.append(
                Process(
                    name=instance if len(meshes) == 1 else f"{cell.namespace}/{instance}",
                    command=(*_python("cellmesh"), "cell", "--exit-with-parent"),
                    environ={**base, **settings},
                    url=url_of(place.host, port) if port else "",
                    instance=instance,
                    mesh=settings["CELLMESH_DISCOVERY_URL"],
                )
            )
    named = [(cell.name if len(meshes) == 1 else f"{cell.namespace}/{cell.name}", cell) for cell in cells]
    return Plan(
        discovery=discovery,
        cells=tuple(processes),
        host=place.host,
        ports=tuple(ports),
        unused=tuple((name, cell.unused) for name, cell in named if cell.unused),
        handlers=tuple(
            (name, cell.handler.url) for name, cell in named if cell.handler and cell.handler.port and cell.replicas
        ),
    )


def on_any_ports(cells: Sequence[CellManifest], place: Place) -> tuple[list[CellManifest], Place]:
    """Return the same cells and place with every port a free one."""
    with socket.socket(_family(place.host)) as listener:
        listener.bind((place.host, 0))
        port = listener.getsockname()[1]
    return [replace(cell, port=0) for cell in cells], replace(place, discovery_port=port)


def port_faults(plan: Plan) -> list[str]:
    """Return a line for each port that cannot be had: who wants it, why not, and what to do."""
    faults = []
    taken: dict[int, str] = {}
    for port, owner, remedy in plan.ports:
        first = taken.setdefault(port, owner)
        reason = f"is wanted by {first} too" if first != owner else _why_not(plan.host, port)
        if reason:
            faults.append(f"port {port} of {owner} {reason}: {remedy}, or take any free ports with --any-ports")
    return faults


def url_of(host: str, port: int) -> str:
    """Return the URL at which programs on this machine reach a server that listens there."""
    if host in _WILDCARDS:
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104 - as above
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_local(host: str) -> bool:
    """Tell whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _why_not(host: str, port: int) -> str:
    try:
        with socket.socket(_family(host)) as listener:
            # As servers do it, so that connections of the last run that still linger are no obstacle.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"on {host} is in use by another program"
        if error.errno == errno.EACCES:
            return "needs privileges (ports below 1024 do)"
        if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
            return f"cannot be listened on, because {host} is no address of this machine (see --host)"
        return f"on {host} cannot be listened on ({error.strerror})"
    return ""


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _python(module: str) -> tuple[str, ...]:
    # -P: a json.py in the user's current directory must not become the one that our processes import.
    return (sys.executable, "-P", "-m", module)
