"""The copy of what the API server has: lists, changes, and what comes late."""

from typing import Any

import pytest

from cellmesh_operator.discovery.mirror import Mirror, Snapshot, snapshot_of


class Fixture:
    """A mirror of objects whose only fact is a text, and what it told."""

    def __init__(self) -> None:
        self.told: list[tuple[str | None, str | None]] = []
        self.mirror: Mirror[str] = Mirror(lambda item: item["fact"], lambda old, new: self.told.append((old, new)))

    def list(self, version: int, *items: dict[str, Any]) -> Snapshot[str]:
        """Return a complete list."""
        return snapshot_of(str(version), map(self.mirror.entry, items))


def item(name: str, version: int, fact: str | None = "x") -> dict[str, Any]:
    """Return an object."""
    return {"metadata": {"name": name, "namespace": "m", "resourceVersion": str(version)}, "fact": fact}


@pytest.fixture
def fixture() -> Fixture:
    """Return an empty mirror."""
    return Fixture()


def test_a_list_replaces_what_was_there(fixture: Fixture) -> None:
    """Expect the old one gone, the changed one changed, the new one there, and the number of differences."""
    fixture.mirror.replace(fixture.list(10, item("a", 1), item("b", 2, "b"), item("same", 3)))
    fixture.told.clear()
    assert fixture.mirror.replace(fixture.list(20, item("b", 12, "B"), item("same", 3), item("c", 15, "c"))) == 3
    assert sorted(fixture.told, key=str) == [("b", "B"), ("x", None), (None, "c")]


def test_a_change_that_comes_late_or_twice_is_ignored(fixture: Fixture) -> None:
    """Expect the newest to stay."""
    fixture.mirror.put(item("a", 5, "new"))
    fixture.told.clear()
    fixture.mirror.put(item("a", 4, "old"))
    fixture.mirror.put(item("a", 5, "again"))
    fixture.mirror.drop(item("a", 4))
    assert (fixture.mirror.get(("m", "a")), fixture.told) == ("new", [])


def test_an_object_that_was_deleted_does_not_come_back_by_an_older_answer(fixture: Fixture) -> None:
    """Expect the answer to a write, read after the deletion was seen, to be ignored; a new object not."""
    fixture.mirror.put(item("a", 5))
    fixture.mirror.drop(item("a", 7))
    fixture.mirror.put(item("a", 6))
    assert fixture.mirror.get(("m", "a")) is None
    fixture.mirror.put(item("a", 8, "anew"))
    assert fixture.mirror.get(("m", "a")) == "anew"


def test_an_object_that_is_said_to_be_gone_is_not_brought_back_by_a_late_change(fixture: Fixture) -> None:
    """Expect the change that made the version which was deleted to be ignored, and a new object not."""
    fixture.mirror.put(item("a", 5))
    fixture.mirror.lose(("m", "a"))
    fixture.mirror.put(item("a", 5))
    assert (fixture.mirror.get(("m", "a")), fixture.told) == (None, [(None, "x"), ("x", None)])
    fixture.mirror.put(item("a", 7, "anew"))
    assert fixture.mirror.get(("m", "a")) == "anew"


def test_a_watch_that_is_ahead_of_a_list_differs_in_nothing(fixture: Fixture) -> None:
    """Expect what was created, changed or deleted after the list not to be taken for an error."""
    fixture.mirror.replace(fixture.list(10, item("changed", 1), item("deleted", 2)))
    late = fixture.list(20, item("changed", 1), item("deleted", 2))
    fixture.mirror.put(item("created", 21))
    fixture.mirror.put(item("changed", 22))
    fixture.mirror.drop(item("deleted", 23))
    assert fixture.mirror.differing(late) == []


def test_what_a_watch_missed_differs(fixture: Fixture) -> None:
    """Expect the created, the changed and the deleted object by name."""
    fixture.mirror.replace(fixture.list(10, item("changed", 1), item("deleted", 2), item("same", 3)))
    differing = fixture.mirror.differing(fixture.list(20, item("created", 11), item("changed", 12), item("same", 3)))
    assert sorted(name for _, name in differing) == ["changed", "created", "deleted"]


def test_an_object_of_which_nothing_is_needed_is_still_compared(fixture: Fixture) -> None:
    """Expect it to be no difference, and nothing to be told of it."""
    fixture.mirror.put(item("a", 5, None))
    assert fixture.mirror.differing(fixture.list(10, item("a", 5, None))) == []
    fixture.mirror.drop(item("a", 6))
    assert fixture.told == [(None, None)]


def test_a_counter_that_begins_anew_makes_everything_news(fixture: Fixture) -> None:
    """Expect a list of a restored API server to win, although its versions are smaller."""
    fixture.mirror.replace(fixture.list(1000, item("a", 900, "lost"), item("b", 901)))
    fixture.mirror.forget_versions()
    fixture.mirror.replace(fixture.list(50, item("a", 40, "restored")))
    assert (fixture.mirror.get(("m", "a")), fixture.mirror.get(("m", "b"))) == ("restored", None)
