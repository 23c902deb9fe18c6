"""Messages flow while pods, nodes and the operator are harmed; a ledger outside the system says what became of each.

The short form does one of each fault that is named here. `make chaos-kind` runs the long one: what is to be done comes
from CELLMESH_CHAOS_FAULTS, CELLMESH_CHAOS_SEED and CELLMESH_CHAOS_MINUTES, and its report goes into
docs/reliability.md.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chaos.report import failures, render, write
from e2e.chaos.cells import Cells
from e2e.chaos.run import Options, Run
from e2e.client_pod import ClientPod
from e2e.spaces import Space

#: The faults of the short form.
SHORT = (
    "SIGKILL of a receiver",
    "SIGKILL of a consumer",
    "network cut between two cells",
    "connection reset before the answer",
    "pod deleted",
    "scaled up and down",
    "pod IP reused by another cell",
)
#: How many faults of the long form have to count; empty: the short form.
LONG = os.environ.get("CELLMESH_CHAOS_FAULTS", "")


#: Seconds that the long form may take, with its cluster.
PATIENCE = 2 * 3600


def options(environ: Mapping[str, str]) -> Options:
    """Return what is to be done; another plan each time, but not where changes are judged."""
    chosen = environ.get("CELLMESH_CHAOS_SEED") or (1 if environ.get("CI") else time.time_ns() % 1_000_000)
    if not LONG:
        return Options(seed=int(chosen), faults=len(SHORT), rate=100, gap=0.5, limit=600, kinds=SHORT)
    minutes = float(environ.get("CELLMESH_CHAOS_MINUTES") or 40)
    return Options(seed=int(chosen), faults=int(LONG), rate=60, gap=4, limit=60 * minutes)


@pytest.mark.timeout(PATIENCE)
@pytest.mark.usefixtures("needs_workers")
def test_no_promise_is_broken(make_space: Callable[[], Space], client: ClientPod, tmp_path: Path) -> None:
    """Everything acknowledged is where it should be, once; every fault was recovered from."""
    wanted = options(os.environ)
    print(f"\nseed {wanted.seed}; ledger: {tmp_path}", flush=True)
    began = time.monotonic()
    cells = Cells(make_space(), make_space())
    cells.start()
    run = Run(wanted, client, cells, tmp_path)
    try:
        account = run.run()
    except BaseException:
        print(run.flow.output())
        raise
    # Of the short form one may by chance have found no request in flight at the very moment.
    failed = failures(account, messages=10_000 if LONG else 1000, faults=wanted.faults - (not LONG))
    failed += [f"{count} messages at {name} were not consumed" for name, count in run.left_over.items()]
    facts = {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "how": f"`make chaos-kind SEED={wanted.seed}`",
        "how long": f"{(time.monotonic() - began) / 60:.1f} minutes",
        "messages, faults that count": f"{account.counts['messages']:,}, {len(account.counted)}",
        "on": f"kind, three nodes; {platform.system()} {platform.release()}",
    }
    text = render(account, failed, facts)
    print(f"\n{text}", flush=True)
    if LONG:
        write("A kind cluster", text)
    assert failed == []
