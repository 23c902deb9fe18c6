"""A real cell held against its own OpenAPI document, by requests made from it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig

from cellmesh.api.app import build
from cellmesh.api.exchange import Guard
from cellmesh.service.cell import Cell as Service
from cellmesh.service.cell import open_inbox
from cellmesh.settings import Settings
from processes import Cell, mesh

pytestmark = pytest.mark.mesh


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    """Run one cell, with discovery, so that names nobody has are known to be nobody's."""
    with mesh(tmp_path_factory.mktemp("cell"), "pure") as running:
        yield running["pure"]


async def document() -> dict[str, Any]:
    """Return the OpenAPI document of a cell."""
    with tempfile.TemporaryDirectory() as directory:
        chosen = Settings(cell_id="pure", data_dir=Path(directory))
        one = Service(chosen, open_inbox(chosen))
        try:
            return dict(build(one, Guard(one.settings)).openapi())
        finally:
            await one.close()


CONFIG = SchemathesisConfig.from_dict(
    {
        "seed": 1,
        "checks": {
            # A message may be valid and for another cell, which no schema can say.
            "positive_data_acceptance": {"expected-statuses": ["2xx", 404, 409, 421]},
            "negative_data_rejection": {"expected-statuses": [400, 404, 405, 413, 415, 421, 422]},
        },
        "operations": [
            # What no schema can say either: which fields of a message exclude each other.
            {
                "include-name": "POST /message",
                "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", 409, 421, 422]}},
            },
            # Nor which cells there are: none of several is 502.
            {
                "include-name": "POST /send",
                "checks": {
                    "positive_data_acceptance": {"expected-statuses": ["2xx", 404, 409, 422, 502]},
                    "not_a_server_error": {"expected-statuses": ["2xx", "4xx", 502]},
                },
            },
            # Each item of a batch has an answer of its own, inside a 200.
            {"include-name": "POST /message/batch", "checks": {"negative_data_rejection": {"enabled": False}}},
            {"include-name": "POST /send/batch", "checks": {"negative_data_rejection": {"enabled": False}}},
        ],
    }
)


def is_positive(case: Any) -> bool:
    """Tell whether a request was made to be valid."""
    return case.meta is None or case.meta.generation.mode is GenerationMode.POSITIVE


schema = schemathesis.openapi.from_dict(asyncio.run(document()), config=CONFIG)


@schema.parametrize()
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_a_cell_does_what_its_document_says(cell: Cell, case: Any) -> None:
    """Expect documented statuses, headers and bodies, valid input taken and invalid refused."""
    if isinstance(case.body, dict) and "not_before" in case.body and is_positive(case):
        # It must be below the ttl, which no schema can say.
        case.body["ttl"] = 0
    if isinstance(case.body, dict) and "wait_seconds" in case.body and is_positive(case):
        case.body["wait_seconds"] = 0  # nothing comes that would be worth waiting for
    case.call_and_validate(base_url=f"http://127.0.0.1:{cell.port}")


def test_the_cell_is_well_afterwards(cell: Cell) -> None:
    """Expect it ready, with a message taken as ever."""
    assert cell.get("/readyz").status == 200
    answer = cell.post("/message", {"from_cell": "a", "message_id": "afterwards", "payload": {}})
    assert answer.json["acknowledged"] is True


def test_a_cell_publishes_its_document(cell: Cell) -> None:
    """Expect the document that the requests were made from, and a page that shows it."""
    assert cell.get("/openapi.json").json == asyncio.run(document())
    assert cell.get("/docs").status == 200
