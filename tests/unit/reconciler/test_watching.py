"""kopf as it is set up here: it only watches, and its requests are reported."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import kopf
import pytest
from yarl import URL

from cellmesh_operator.naming import CELL_LABEL, CELLS, PODS, SERVICES, STATEFUL_SETS, Resource
from cellmesh_operator.reconciler.handlers import build_registry, build_settings
from cellmesh_operator.reconciler.store import KINDS
from cellmesh_operator.reconciler.streams import Stream, Streams

BASE = "https://10.0.0.1:443"


def as_kopf_knows(kind: Resource) -> Any:
    """Return kopf's own description of a kind."""
    from kopf._cogs.structs.references import Resource as KopfResource

    return KopfResource(kind.group, kind.version, kind.plural, kind=kind.kind, preferred=True, namespaced=True)


async def log_in(**_: Any) -> Any:
    """Log in nowhere."""


def test_every_kind_but_cells_is_watched_by_our_label() -> None:
    """Expect the API server to send nothing of the rest of the cluster."""
    selectors = build_settings().watching.label_selectors
    found = {kind.plural: set(selectors.collect(as_kopf_knows(kind))) for kind in KINDS}
    assert found == {kind.plural: set() if kind == CELLS else {CELL_LABEL} for kind in KINDS}


def test_nothing_but_events_is_handled() -> None:
    """Expect no handler for which kopf would write finalizers or annotations, and one for events of each kind."""
    registry = build_registry(lambda *_: None, log_in, asyncio.Event())
    assert registry._spawning.get_all_handlers() == []
    assert registry._changing.get_all_handlers() == []
    assert registry._webhooks.get_all_handlers() == []
    assert [handler.id for handler in registry._watching.get_all_handlers()] == [kind.plural for kind in KINDS]


@pytest.mark.anyio
async def test_each_handler_passes_on_kind_type_and_object() -> None:
    """Expect the raw object, untouched."""
    seen: list[Any] = []
    registry = build_registry(lambda *given: seen.append(given), log_in, asyncio.Event())
    for handler in registry._watching.get_all_handlers():
        await handler.fn(event={"type": None, "object": {"n": handler.id}})  # type: ignore[call-arg, misc]
    assert seen == [(kind, None, {"n": kind.plural}) for kind in KINDS]


def test_kopf_writes_no_events_and_scans_nothing() -> None:
    """Expect neither Events from log lines nor a need to list CRDs and namespaces."""
    settings = build_settings()
    assert not settings.posting.enabled
    assert settings.scanning.disabled
    assert settings.peering.standalone


def test_a_request_is_tried_until_it_works_at_short_intervals() -> None:
    """Expect a server that comes back to be noticed within seconds, and kopf not to give up for hours."""
    backoffs = build_settings().networking.error_backoffs
    assert max(backoffs) <= 3.0  # type: ignore[arg-type, type-var]
    assert sum(backoffs) > 3600  # type: ignore[arg-type]


def test_a_watch_ends_before_its_silence_counts_as_death() -> None:
    """Expect an idle watch to be ended by the server in good order first."""
    watching = build_settings().watching
    assert watching.server_timeout is not None
    assert watching.inactivity_timeout is not None
    assert watching.server_timeout < watching.inactivity_timeout


def test_copies_of_objects_are_not_made_to_find_differences() -> None:
    """Expect kopf's comparison of old and new, which copies every object, to be out of the way."""
    persistence = build_settings().persistence
    body = kopf.Body({"metadata": {"name": "a"}, "spec": {"x": 1}})  # type: ignore[typeddict-item, typeddict-unknown-key]
    assert persistence.diffbase_storage.build(body=body) == {}
    assert persistence.diffbase_storage.fetch(body=body) is None


def streams(*scopes: str | None) -> tuple[Streams, list[Stream]]:
    """Return streams and those that were listed."""
    listed: list[Stream] = []
    return Streams(scopes or (None,), listed.append), listed


def url(path: str) -> URL:
    """Return the address of a request."""
    return URL(BASE + path)


def test_a_list_of_kopf_is_noticed_and_its_further_pages_are_not() -> None:
    """Expect one notice for a list of two pages, by kind and namespace."""
    found, listed = streams("mesh")
    found.answered(url("/apis/apps/v1/namespaces/mesh/statefulsets?limit=500"), 200)
    found.answered(url("/apis/apps/v1/namespaces/mesh/statefulsets?limit=500&continue=x"), 200)
    assert listed == [(STATEFUL_SETS, "mesh")]


def test_a_watch_is_no_list() -> None:
    """Expect no notice, and the watch to count as connected."""
    found, listed = streams()
    for kind in KINDS:
        assert not found.all_watched
        prefix = f"/apis/{kind.group}" if kind.group else "/api"
        found.answered(url(f"{prefix}/{kind.version}/{kind.plural}?watch=true"), 200)
    assert found.all_watched
    assert listed == []


def test_a_lost_watch_is_reported_once_and_so_is_its_return(caplog: pytest.LogCaptureFixture) -> None:
    """Expect two lines for any number of attempts."""
    found, _ = streams()
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            found.failed(url("/api/v1/pods?watch=true"), OSError("connection refused"))
        assert list(found.faults) == [(PODS, None)]
        found.answered(url("/api/v1/pods?watch=true"), 200)
    assert found.faults == {}
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


@pytest.mark.parametrize("status", [401, 410])
def test_what_is_simply_followed_by_another_request_is_no_fault(status: int) -> None:
    """Expect a new login and a new list after a gap to be nothing to report."""
    found, _ = streams()
    found.answered(url("/api/v1/pods?watch=true"), status)
    assert found.faults == {}


def test_lacking_rights_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """Expect the kind and the namespace in the log."""
    found, _ = streams("mesh")
    found.answered(url("/api/v1/namespaces/mesh/pods?watch=true"), 403)
    assert "may not list and watch pods in mesh" in caplog.text


def test_other_requests_are_none_of_ours() -> None:
    """Expect kopf's look at what the server serves to be ignored."""
    found, listed = streams()
    found.answered(url("/apis/apps/v1"), 200)
    found.failed(url("/apis"), OSError())
    assert (listed, found.faults) == ([], {})


def test_a_watch_that_kopf_never_began_is_silent() -> None:
    """Expect neither the listed nor the refused to count, and a new beginning to count from zero."""
    found, _ = streams()
    found.answered(url("/api/v1/pods?limit=500"), 200)  # a long list may take its time until it is watched
    found.failed(url("/api/v1/services?watch=true"), OSError())
    assert {kind for kind, _ in found.silent} == set(KINDS) - {PODS, SERVICES}
    found.begin()
    assert (PODS, None) in found.silent


def test_a_watch_that_failed_before_and_is_not_begun_again_is_silent() -> None:
    """Expect the fault of a former beginning not to hide that nothing is heard since."""
    found, _ = streams()
    found.failed(url("/api/v1/services?watch=true"), OSError())
    found.begin()
    assert (SERVICES, None) in found.silent
    assert found.faults == {}
