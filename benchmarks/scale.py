"""1,000 Cells at once on a real API server without kubelets: ``python -m benchmarks.scale [--cells N] [--write]``.

In one run and on one control plane (audit log on): a raw client makes the writes that a Cell needs, eight at a
time; then Cells are applied at once with the reconciler and discovery running; then a stand-in for kubelets makes
their pods Ready; then all is left alone; then the reconciler is started anew. Times are reported; what is
asserted are counts: writes per Cell, none after a restart.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from apiserver.control_plane import ControlPlane, Request  # noqa: E402
from apiserver.stand_ins import make_storage_class  # noqa: E402
from benchmarks.document import DOCUMENT, MANY_CELLS, write_part  # noqa: E402
from benchmarks.machine import describe  # noqa: E402
from cellmesh_operator.decisions.actions import BuildSettings, Observed  # noqa: E402
from cellmesh_operator.decisions.deciding import Apply, decide  # noqa: E402
from cellmesh_operator.kube.client import Client  # noqa: E402
from cellmesh_operator.naming import CELLS, CLAIMS, PODS, Resource  # noqa: E402
from support import eventually, free_port  # noqa: E402

#: Requests at a time of the raw client.
CONCURRENCY = 8
#: API writes by the reconciler for a new Cell at most, all in all.
WRITES = 9
#: Seconds for each phase; it ends the run.
PATIENCE = 1200.0
IDLE = 60.0
CONTROLLERS = ("statefulset-controller", "garbage-collector-controller", "replicaset-controller")
_SETTING = (
    "{:,} Cells at once on etcd, kube-apiserver (audit log on) and kube-controller-manager, without kubelets: pods are "
    "made Ready by the program. All on one machine, which they share with the raw client."
)


@dataclass
class Figures:
    """What was measured; seconds, megabytes, writes."""

    cells: int
    raw: float = 0.0
    """Cells a second of the raw client."""
    reconciled: float = 0.0
    """Cells a second of the reconciler."""
    applying: float = 0.0
    ready: float = 0.0
    writes: Counter[int] = field(default_factory=Counter)
    """Number of Cells by number of writes."""
    kinds: Counter[str] = field(default_factory=Counter)
    reconciler_peak: float = 0.0
    reconciler_rss: float = 0.0
    discovery_rss: float = 0.0
    discovery_peak: float = 0.0
    reconciler_idle: float = 0.0
    discovery_idle: float = 0.0
    restart: float = 0.0
    restart_writes: int = 0


class Programs:
    """The reconciler and discovery as processes, under ServiceAccounts with the chart's rights."""

    def __init__(self, plane: ControlPlane, directory: Path) -> None:
        self._plane = plane
        self._directory = directory
        self.port = free_port()
        self.discovery_port = free_port()

    def start_reconciler(self) -> psutil.Process:
        """Start the reconciler and wait until it is ready."""
        env = self._env("cellmesh-reconciler")
        env |= {
            "CELLMESH_RECONCILER_DISCOVERY_URL": f"http://127.0.0.1:{self.discovery_port}",
            "CELLMESH_RECONCILER_NAMESPACES": "mesh",
            "CELLMESH_RECONCILER_HOST": "127.0.0.1",
            "CELLMESH_RECONCILER_PORT": str(self.port),
            "CELLMESH_RECONCILER_LOG_LEVEL": "warning",
        }
        return self._start(
            "reconciler", ["-m", "cellmesh_operator.reconciler"], env, f"http://127.0.0.1:{self.port}/readyz"
        )

    def start_discovery(self) -> psutil.Process:
        """Start discovery and wait until it is ready."""
        env = self._env("cellmesh-discovery")
        env |= {
            "CELLMESH_DISCOVERY_KUBERNETES": "true",
            "CELLMESH_DISCOVERY_NAMESPACES": "mesh",
            "CELLMESH_DISCOVERY_NAMESPACE": "cellmesh-system",
            "CELLMESH_DISCOVERY_PORT": str(self.discovery_port),
        }
        url = f"http://127.0.0.1:{self.discovery_port}/readyz"
        return self._start("discovery", ["-m", "cellmesh_operator.discovery"], env, url)

    def metric(self, name: str) -> float:
        """Return the sum of a metric of the reconciler over its labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.partition(" ")[0].partition("{")[0] == name)

    def _env(self, account: str) -> dict[str, str]:
        token = self._plane.service_account("cellmesh-system", account, granted(account))
        return {**os.environ, "KUBECONFIG": str(self._plane.kubeconfig(token, namespace="cellmesh-system"))}

    def _start(self, name: str, arguments: list[str], env: dict[str, str], ready: str) -> psutil.Process:
        with (self._directory / f"{name}.log").open("ab") as log:
            process = psutil.Popen([sys.executable, *arguments], env=env, stdout=log, stderr=subprocess.STDOUT)
        eventually(lambda: _status(ready) == 200, within=PATIENCE, message=f"{name} to be ready")
        return process


def granted(account: str) -> list[dict[str, Any]]:
    """Return the rules that install.yaml grants to a ServiceAccount, wherever it grants them."""
    documents = [one for one in yaml.safe_load_all((ROOT / "deploy/install.yaml").read_text()) if one]
    roles = {(one["kind"], one["metadata"]["name"]): one["rules"] for one in documents if one["kind"].endswith("Role")}
    rules: list[dict[str, Any]] = []
    for one in documents:
        if one["kind"].endswith("RoleBinding") and any(who["name"] == account for who in one["subjects"]):
            rules += roles[one["roleRef"]["kind"], one["roleRef"]["name"]]
    return rules


def run(cells: int) -> Figures:
    """Measure."""
    figures = Figures(cells)
    flags = ["--max-requests-inflight=800", "--max-mutating-requests-inflight=400"]
    with tempfile.TemporaryDirectory(prefix="cellmesh-scale-") as folder:
        directory = Path(folder) / "plane"
        directory.mkdir()
        with ControlPlane(directory, flags=flags) as plane:
            plane.install_crd()
            make_storage_class(plane.api, "standard", expandable=True, default=True)
            for name in ("raw", "mesh", "cellmesh-system"):
                plane.api.create("namespaces", None, _object("v1", "Namespace", name))
            os.environ["KUBECONFIG"] = str(plane.kubeconfig())
            syncs = ["--concurrent-statefulset-syncs=20"]
            with plane.running_controllers(*CONTROLLERS, qps=500, burst=1000, flags=syncs):
                _measure(plane, Programs(plane, Path(folder)), figures)
            for name in ("reconciler", "discovery"):
                sys.stderr.write((Path(folder) / f"{name}.log").read_text())
    return figures


def _measure(plane: ControlPlane, programs: Programs, figures: Figures) -> None:
    cells = figures.cells
    say = Progress()
    figures.raw = cells / asyncio.run(_raw(cells))
    say(f"a raw client, {CONCURRENCY} at a time: {figures.raw:.1f} Cells/s")
    reconciler, discovery = programs.start_reconciler(), programs.start_discovery()
    try:
        mark = plane.audit_mark()
        began = time.monotonic()
        figures.applying = asyncio.run(_apply_cells(cells))
        say(f"{cells} Cells applied in {figures.applying:.1f} s")
        asyncio.run(_until(_reconciled, cells))
        figures.reconciled = cells / (time.monotonic() - began)
        say(f"reconciled: {figures.reconciled:.1f} Cells/s, {figures.reconciled / figures.raw:.2f} of the raw rate")
        began = time.monotonic()
        asyncio.run(_run_pods(cells))
        figures.ready = time.monotonic() - began
        say(f"all Ready after {figures.ready:.1f} s more")
        eventually(lambda: programs.metric("cellmesh_reconciler_queue_depth") == 0, within=60)
        plane.api.close()  # kept open too long, so the server may have hung up
        _count_writes(plane.requests_since(mark, user=_user("cellmesh-reconciler")), figures)
        say(f"writes per Cell: {dict(sorted(figures.writes.items()))}; {dict(figures.kinds)}")
        _idle(reconciler, discovery, figures)
        say(f"idle: reconciler {figures.reconciler_idle:.2f} %, discovery {figures.discovery_idle:.2f} %")
        figures.reconciler_peak, figures.discovery_peak = _peak(reconciler), _peak(discovery)
        reconciler.terminate()
        reconciler.wait(30)
        plane.api.close()
        mark = plane.audit_mark()
        began = time.monotonic()
        reconciler = programs.start_reconciler()
        seen = "cellmesh_reconciler_reconcile_seconds_count"
        eventually(lambda: programs.metric(seen) >= cells, within=PATIENCE, message="all Cells to be looked at")
        figures.restart = time.monotonic() - began
        # Two comparisons with complete lists, and whatever else may come late.
        time.sleep(IDLE + 10)
        plane.api.close()
        figures.restart_writes = len(plane.requests_since(mark, user=_user("cellmesh-reconciler")))
        say(f"restart: all seen after {figures.restart:.1f} s, {figures.restart_writes} writes")
    finally:
        for process in (reconciler, discovery):
            process.kill()


class Progress:
    """Says on standard error how far the run is, with the time."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - self._began:6.1f} s] {text}\n")
        sys.stderr.flush()


def _object(version: str, kind: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **fields}


def cell(namespace: str, number: int) -> dict[str, Any]:
    """Return one of the Cells."""
    metadata = {"name": f"cell-{number:04}", "namespace": namespace}
    spec = {"type": "bench", "branch": "main", "services": ["bench"]}
    return {"apiVersion": CELLS.api_version, "kind": CELLS.kind, "metadata": metadata, "spec": spec}


async def _raw(cells: int) -> float:
    """Make the writes of a Cell for each of as many Cells; return the seconds."""
    settings = BuildSettings(cell_image="cellmesh-cell:bench", discovery_url="http://127.0.0.1:1")
    async with Client.connect(manager="raw") as client:
        made = [await client.create(CELLS, cell("raw", number)) for number in range(cells)]
        plans = [decide(Observed(cell=one), settings, may_roll_out=True, now="2026-01-01T00:00:00Z") for one in made]

        async def write(number: int) -> None:
            for action in plans[number].actions:
                if isinstance(action, Apply):
                    await client.apply(action.resource, action.body)
            metadata = {name: made[number]["metadata"][name] for name in ("name", "namespace")}
            head = {"apiVersion": CELLS.api_version, "kind": CELLS.kind, "metadata": metadata}
            await client.apply_status(CELLS, {**head, "status": plans[number].status})

        began = time.monotonic()
        await _all(write, range(cells), CONCURRENCY)
        return time.monotonic() - began


async def _apply_cells(cells: int) -> float:
    async with Client.connect(manager="user") as client:

        async def make(number: int) -> None:
            await client.apply(CELLS, cell("mesh", number))

        began = time.monotonic()
        await _all(make, range(cells), 16)
        return time.monotonic() - began


async def _all(work: Callable[[int], Awaitable[None]], numbers: Sequence[int], at_a_time: int) -> None:
    waiting = iter(numbers)

    async def worker() -> None:
        for number in waiting:
            await work(number)

    await asyncio.gather(*(worker() for _ in range(at_a_time)))


async def _until(check: Callable[[Client], Awaitable[int]], wanted: int) -> None:
    deadline = time.monotonic() + PATIENCE
    async with Client.connect() as client:
        while (found := await check(client)) < wanted:
            if time.monotonic() > deadline:
                raise AssertionError(f"only {found} of {wanted}")
            await asyncio.sleep(0.5)


async def _reconciled(client: Client) -> int:
    return sum(await _each(client, CELLS, lambda one: (one.get("status") or {}).get("observedGeneration") == 1))


async def _are_ready(client: Client) -> int:
    return sum(await _each(client, CELLS, _is_ready))


async def _each(client: Client, kind: Resource, keep: Callable[[dict[str, Any]], Any]) -> list[Any]:
    return (await client.collect(keep, kind, "mesh"))[0]


def _is_ready(one: dict[str, Any]) -> bool:
    conditions = (one.get("status") or {}).get("conditions") or ()
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


async def _run_pods(cells: int) -> None:
    """Bind claims and make pods Ready until every Cell is."""
    treated: set[str] = set()
    deadline = time.monotonic() + PATIENCE
    async with Client.connect(manager="kubelet") as client:
        number = 0

        async def treat(place: int) -> None:
            await _run_pod(client, fresh[place], addresses[place])

        while await _are_ready(client) < cells:
            if time.monotonic() > deadline:
                raise AssertionError("not all Cells became Ready")
            fresh = [one for one in await _each(client, PODS, _name) if one not in treated]
            treated |= set(fresh)
            addresses = [
                f"10.{100 + n // 62500}.{n // 250 % 250}.{n % 250 + 1}" for n in range(number, number + len(fresh))
            ]
            number += len(fresh)
            await _all(treat, range(len(fresh)), 8)
            await asyncio.sleep(0.5)


def _name(one: dict[str, Any]) -> str:
    return str(one["metadata"]["name"])


async def _run_pod(client: Client, name: str, ip: str) -> None:
    claim = f"inbox-{name}"
    await client.patch(CLAIMS, "mesh", claim, {"spec": {"volumeName": f"volume-{name}"}})
    bound = {"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}
    await client.patch(CLAIMS, "mesh", claim, {"status": bound}, subresource="status")
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    ]
    status = {"phase": "Running", "conditions": conditions, "podIP": ip, "podIPs": [{"ip": ip}]}
    await client.patch(PODS, "mesh", name, {"status": status}, subresource="status")


def _user(account: str) -> str:
    return f"system:serviceaccount:cellmesh-system:{account}"


def _count_writes(requests: Sequence[Request], figures: Figures) -> None:
    by_cell = Counter(one.name.partition(".")[0] for one in requests)
    figures.writes = Counter(by_cell.values())
    figures.kinds = Counter(
        f"{one.resource}/{one.subresource}" if one.subresource else one.resource for one in requests
    )


def _idle(reconciler: psutil.Process, discovery: psutil.Process, figures: Figures) -> None:
    time.sleep(10)
    before = [sum(one.cpu_times()[:2]) for one in (reconciler, discovery)]
    began = time.monotonic()
    time.sleep(IDLE)
    took = time.monotonic() - began
    after = [sum(one.cpu_times()[:2]) for one in (reconciler, discovery)]
    figures.reconciler_idle, figures.discovery_idle = (
        100 * (now - then) / took for now, then in zip(after, before, strict=True)
    )
    figures.reconciler_rss, figures.discovery_rss = (one.memory_info().rss / 1e6 for one in (reconciler, discovery))


def _peak(process: psutil.Process) -> float:
    """Return the most memory a process has had, in MB."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - ours
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return int(error.code)


def report(figures: Figures, directory: Path) -> str:
    """Return the figures as Markdown."""
    rows = [
        ("raw client, 8 at a time: Cells/s", f"{figures.raw:.1f}", ""),
        ("reconciler, from the first `apply`: Cells/s", f"{figures.reconciled:.1f}", ""),
        ("the same, raw client = 1", f"{figures.reconciled / figures.raw:.2f}", "at least 0.4"),
        ("applying the Cells: s", f"{figures.applying:.1f}", ""),
        ("from reconciled to all Ready: s", f"{figures.ready:.1f}", ""),
        ("API writes by the reconciler per new Cell, at most", str(max(figures.writes)), f"at most {WRITES}"),
        ("the same, mean", f"{sum(figures.kinds.values()) / figures.cells:.2f}", ""),
        ("reconciler, resident: MB (peak)", _pair(figures.reconciler_rss, figures.reconciler_peak), "below 300"),
        ("discovery, resident: MB (peak)", _pair(figures.discovery_rss, figures.discovery_peak), "below 150"),
        ("reconciler, idle: % of one CPU", f"{figures.reconciler_idle:.2f}", "below 2"),
        ("discovery, idle: % of one CPU", f"{figures.discovery_idle:.2f}", "below 2"),
        ("restart of the reconciler, until every Cell has been looked at: s", f"{figures.restart:.1f}", ""),
        ("API writes after a restart", str(figures.restart_writes), "0"),
    ]
    machine = "; ".join(f"{name}: {value}" for name, value in describe(directory).items())
    writes = ", ".join(f"{kind} {count / figures.cells:.2f}" for kind, count in sorted(figures.kinds.items()))
    lines = [
        MANY_CELLS,
        "",
        "Written by `python -m benchmarks.scale --write`; not edited by hand.",
        "",
        _SETTING.format(figures.cells),
        "",
        "| what | measured | target |",
        "| --- | --- | --- |",
        *(f"| {what} | {value} | {target} |" for what, value, target in rows),
        "",
        f"Writes per Cell by kind: {writes}.",
        "",
        f"Machine: {machine}.",
        "",
    ]
    return "\n".join(lines)


def _pair(now: float, peak: float) -> str:
    return f"{now:.0f} ({peak:.0f})"


def main() -> int:
    """Run, print, and with ``--write`` keep the report; 1 if a count is beyond what is promised."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--write", action="store_true", help=f"keep the report in {DOCUMENT.relative_to(ROOT)}")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON as well")
    options = parser.parse_args()
    figures = run(options.cells)
    text = report(figures, ROOT)
    print(text)
    if options.json:
        print(json.dumps(figures.__dict__))
    if options.write:
        write_part(MANY_CELLS, text)
    beyond = max(figures.writes) > WRITES or figures.restart_writes
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
