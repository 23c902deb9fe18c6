"""Which inboxes have gone in a run on a cluster: only those may lack a message that were seen to go."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from chaos.ledger import Left
from e2e.chaos.run import lives
from e2e.watching import PodSeen

NOTHING = '{"remaining":0,"unsent":0}'


def seen(at: float, uid: str, name: str = "light-0", **more: Any) -> PodSeen:
    """Return the sight of a pod."""
    given: dict[str, Any] = {"ready": True, "leaving": False, "gone": False} | more
    return PodSeen(at, name, uid, **given)


def gone(*sights: PodSeen, namespace: str = "here") -> list[Left]:
    """Return what is said of these sights."""
    cells: Any = SimpleNamespace(other=SimpleNamespace(name="there"))
    watch: Any = SimpleNamespace(namespace=namespace, seen=list(sights))
    return list(lives(watch, cells))


def test_an_ephemeral_pod_that_is_there_has_not_gone() -> None:
    """Also if it is about to, or was seen anew after the watch had ended."""
    assert gone(seen(1, "a"), seen(2, "a", leaving=True), seen(3, "a")) == []


def test_an_ephemeral_pod_has_gone_when_it_was_deleted_or_another_has_its_name() -> None:
    """Each life once."""
    assert gone(seen(1, "a"), seen(2, "a", gone=True), seen(3, "b"), seen(4, "c")) == [
        Left(at=2, instance="light-0"),
        Left(at=4, instance="light-0"),
    ]


@pytest.mark.parametrize(
    ("words", "over"),
    [(NOTHING, True), ('{"remaining":1,"unsent":0}', False), ('{"remaining":0,"unsent":2}', False), ("Killed", False)],
)
def test_only_one_that_says_so_has_handed_over_all(words: str, over: bool) -> None:
    """By its last words, wherever among the sights of it they are."""
    sights = [seen(1, "a"), seen(2, "a", last_words=words), seen(3, "a", gone=True)]

    assert gone(*sights) == [Left(at=3, instance="light-0", handed_over=over)]
    assert gone(*sights, seen(4, "b"), seen(5, "b", gone=True))[1] == Left(at=5, instance="light-0")


def test_an_instance_with_a_volume_rests_when_it_is_scaled_away_and_never_goes() -> None:
    """Of those that are always there, a new pod has the old one's volume."""
    assert gone(seen(1, "a", "pure-2"), seen(2, "a", "pure-2", gone=True)) == [Left(at=2, instance="pure-2", kept=True)]
    assert gone(seen(1, "a", "pure-0"), seen(2, "a", "pure-0", gone=True)) == []


def test_the_bystander_is_the_pod_of_that_name_in_the_other_namespace() -> None:
    """In the ledger it has a name of its own."""
    sights = [seen(1, "a", "pure-0"), seen(2, "a", "pure-0", gone=True)]

    assert gone(*sights, namespace="there") == [Left(at=2, instance="bystander-0")]
