"""The store: the newest state wins, whatever comes first."""

from __future__ import annotations

from typing import Any

from cellmesh_operator.naming import CELL_LABEL, CELLS, PODS, STATEFUL_SETS
from cellmesh_operator.reconciler.store import Store

KEY = ("mesh", "alpha")


def item(version: int, *, name: str = "alpha", uid: str = "u", cell: str | None = "alpha", **more: Any) -> Any:
    """Return an object."""
    labels = {CELL_LABEL: cell} if cell else {}
    metadata = {"name": name, "namespace": "mesh", "uid": uid, "resourceVersion": str(version), "labels": labels}
    return {"metadata": {**metadata, **more}}


def test_news_name_the_cell_to_look_at_and_echoes_do_not() -> None:
    """Expect a state that is known to be no news."""
    store = Store()
    assert store.put(STATEFUL_SETS, item(5)) == KEY
    assert store.put(STATEFUL_SETS, item(5)) is None


def test_an_older_state_that_comes_late_is_ignored() -> None:
    """Expect versions to be compared as numbers."""
    store = Store()
    store.put(STATEFUL_SETS, item(10))
    assert store.put(STATEFUL_SETS, item(9)) is None
    found = store.get(STATEFUL_SETS, KEY)
    assert found is not None
    assert found["metadata"]["resourceVersion"] == "10"


def test_an_older_state_does_not_revive_what_was_deleted() -> None:
    """Expect a late answer to a write of ours not to bring an object back."""
    store = Store()
    store.put(STATEFUL_SETS, item(5))
    assert store.drop(STATEFUL_SETS, KEY, uid="u", version=7) == KEY
    assert store.put(STATEFUL_SETS, item(6)) is None
    assert store.get(STATEFUL_SETS, KEY) is None


def test_the_deletion_of_an_object_leaves_its_successor() -> None:
    """Expect a deletion to concern one uid."""
    store = Store()
    store.put(STATEFUL_SETS, item(9, uid="new"))
    assert store.drop(STATEFUL_SETS, KEY, uid="old", version=8) is None
    assert store.get(STATEFUL_SETS, KEY) is not None


def test_pods_are_found_by_their_cell() -> None:
    """Expect those of the Cell, by name, and none when they are gone."""
    store = Store()
    store.put(PODS, item(2, name="alpha-1", uid="1"))
    store.put(PODS, item(3, name="alpha-0", uid="0"))
    store.put(PODS, item(4, name="pure-0", uid="2", cell="pure"))
    assert [pod["metadata"]["name"] for pod in store.of_cell(PODS, KEY)] == ["alpha-0", "alpha-1"]
    store.drop(PODS, ("mesh", "alpha-0"), uid="0", version=9)
    store.drop(PODS, ("mesh", "alpha-1"), uid="1", version=9)
    assert (store.of_cell(PODS, KEY), store.count_of_cell(PODS, KEY)) == ((), 0)


def test_a_pod_that_changes_its_cell_leaves_the_former() -> None:
    """Expect it under the new Cell alone."""
    store = Store()
    store.put(PODS, item(2, name="p", uid="1"))
    assert store.put(PODS, item(3, name="p", uid="1", cell="pure")) == ("mesh", "pure")
    assert store.count_of_cell(PODS, KEY) == 0


def test_who_owns_which_field_is_not_kept() -> None:
    """Expect `managedFields`, half of an object, to be left out."""
    store = Store()
    store.put(CELLS, item(1, cell=None, managedFields=[{"manager": "kubectl"}], generation=3))
    found = store.get(CELLS, KEY)
    assert found is not None
    assert "managedFields" not in found["metadata"]
    entry = store.entry(CELLS, KEY)
    assert entry is not None
    assert entry.generation == 3


def test_after_a_rewind_any_state_is_news() -> None:
    """Expect an older state of what is there and of what was deleted to be taken, and newer ones to win again."""
    store = Store()
    store.put(STATEFUL_SETS, item(10))
    store.put(STATEFUL_SETS, item(10, name="beta", uid="v", cell="beta"))
    store.drop(STATEFUL_SETS, ("mesh", "beta"), uid="v", version=11)
    store.rewind(STATEFUL_SETS, "mesh")
    assert store.put(STATEFUL_SETS, item(5)) == KEY
    assert store.put(STATEFUL_SETS, item(4)) is None
    assert store.put(STATEFUL_SETS, item(5, name="beta", uid="v", cell="beta")) == ("mesh", "beta")


def test_a_rewind_of_one_namespace_leaves_the_others() -> None:
    """Expect older states there to be old."""
    store = Store()
    store.put(STATEFUL_SETS, item(10))
    store.rewind(STATEFUL_SETS, "other")
    assert store.put(STATEFUL_SETS, item(9)) is None
    assert (store.newest(STATEFUL_SETS, "mesh"), store.newest(STATEFUL_SETS, "other")) == (10, 0)


def ended(version: int, *, uid: str = "u", name: str = "alpha-1", **more: Any) -> Any:
    """Return a pod that has ended with last words."""
    pod = item(version, name=name, uid=uid, deletionTimestamp="2026-01-01T00:00:00Z", **more)
    message = '{"remaining":1,"unsent":0}'
    status = {"containerStatuses": [{"name": "cell", "state": {"terminated": {"message": message}}}]}
    return {**pod, "status": status}


def departed(store: Store) -> list[tuple[str, str]]:
    """Return version and uid of the pods that have gone."""
    return [(pod["metadata"]["resourceVersion"], pod["metadata"]["uid"]) for pod in store.departed(KEY)]


def test_the_last_words_of_a_pod_outlive_it_until_they_are_reported() -> None:
    """Expect its last state, and that of its successor's life beside it, each until it is forgotten."""
    store = Store()
    store.put(CELLS, item(1))
    store.put(PODS, ended(5))
    assert departed(store) == []
    store.drop(PODS, ("mesh", "alpha-1"), uid="u", version=6)
    first = store.departed(KEY)
    store.put(PODS, ended(7, uid="v"))
    store.drop(PODS, ("mesh", "alpha-1"), uid="v", version=8)
    assert departed(store) == [("5", "u"), ("7", "v")]
    store.forget_departed(KEY, first)
    assert departed(store) == [("7", "v")]


def test_a_pod_that_is_replaced_without_a_word_of_its_end_has_gone() -> None:
    """Expect another uid under its name to be an end too, as after a gap of the watch."""
    store = Store()
    store.put(CELLS, item(1))
    store.put(PODS, ended(5))
    store.put(PODS, item(9, name="alpha-1", uid="v"))
    assert departed(store) == [("5", "u")]


def test_of_other_pods_nothing_is_kept() -> None:
    """Expect neither those without last words nor those of a Cell that is gone."""
    store = Store()
    store.put(PODS, ended(5))
    store.drop(PODS, ("mesh", "alpha-1"), uid="u", version=6)
    store.put(CELLS, item(7, uid="c"))
    store.put(PODS, item(8, name="alpha-2", uid="w"))
    store.drop(PODS, ("mesh", "alpha-2"), uid="w", version=9)
    assert departed(store) == []
    store.put(PODS, ended(10, uid="x"))
    store.drop(PODS, ("mesh", "alpha-1"), uid="x", version=11)
    store.drop(CELLS, KEY, uid="c", version=12)
    assert (departed(store), store._departed) == ([], {})
