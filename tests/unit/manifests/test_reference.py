"""docs/cells.md follows from the definition of Cells."""

from __future__ import annotations

import re
from pathlib import Path

from cellmesh.manifests.schema import cell_schema
from tools.cell_reference import REFERENCE, reference


def test_the_reference_is_up_to_date() -> None:
    """A field that changes changes its documentation (`make manifests`)."""
    assert REFERENCE.read_text("utf-8") == reference()


def test_every_field_of_the_spec_is_in_the_reference() -> None:
    """Also those of the objects that the spec holds."""
    text = REFERENCE.read_text("utf-8")
    spec = cell_schema()["properties"]["spec"]["properties"]
    inner = [name for part in ("storage", "mailbox", "handler", "template") for name in spec[part]["properties"]]

    assert [name for name in [*spec, *inner] if f"\n| `{name}`" not in text] == []


def test_links_of_the_reference_lead_to_its_sections() -> None:
    """Anchors are made as GitHub makes them."""
    text = Path(REFERENCE).read_text("utf-8")
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line[3:].lower()).replace(" ", "-") for line in re.findall("^## .*", text, re.M)
    }

    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= headings
