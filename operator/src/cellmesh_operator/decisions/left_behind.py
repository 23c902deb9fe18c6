"""Messages that instances have left behind: told by their last words, and kept in the Cell's status.

An instance on a volume whose ordinal is beyond the Cell's replicas leaves what it could not hand over on its claim,
where it waits until the instance is back. One without a volume takes it along: that is lost, and stays told until
the Cell is edited. Pods are gone soon after they have spoken, so that the status is the only memory there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from cellmesh.protocol.last_words import LastWords, read_last_words
from cellmesh_operator.decisions import reasons
from cellmesh_operator.decisions.actions import Object, Observed
from cellmesh_operator.decisions.cells import Cell, Volume
from cellmesh_operator.decisions.instances import Instance, Instances, instances, ordinal_of
from cellmesh_operator.naming import CONTAINER, claim_name

#: Phases of a pod that has ended and is not there to go on.
_ENDED: Final = frozenset({"Failed", "Succeeded"})
#: Instances named in a message at most.
_NAMED: Final = 5


@dataclass(frozen=True, kw_only=True)
class Left:
    """What one instance has left behind."""

    instance: str
    ordinal: int
    remaining: int
    unsent: int
    lost: bool
    """It went with the instance's storage."""

    def as_status(self) -> dict[str, Any]:
        """Return the entry of the Cell's status."""
        return {
            "instance": self.instance,
            "remaining": self.remaining,
            "unsent": self.unsent,
            "lost": self.lost,
        }

    def __str__(self) -> str:
        return f"{self.instance} ({self.remaining} received, {self.unsent} unsent)"


def speaks(pod: Object) -> bool:
    """Tell whether a pod has ended and its cell has said what it leaves behind."""
    return _words(pod) is not None


def left_behind(cell: Cell, observed: Observed, found: Instances) -> tuple[Left, ...]:
    """Return what instances have left behind, by ordinal.

    Args:
        cell: the Cell with the status reported last.
        observed: its pods, those that have gone since then, and its claims.
        found: the instances among the pods.

    """
    left = {item.instance: item for item in _reported(cell)}
    departed = instances(cell, observed.departed, observed.stateful_set)
    for instance in (*departed.all, *found.all):
        words = _words(instance.pod)
        if words is None or not _leaves(cell, instance):
            continue
        left.pop(instance.name, None)
        if words.remaining or words.unsent:
            left[instance.name] = Left(
                instance=instance.name,
                ordinal=instance.ordinal,
                remaining=words.remaining,
                unsent=words.unsent,
                lost=not _keeps(cell),
            )
    back = {instance.ordinal for instance in found.all if instance.ready}
    claims = {claim["metadata"]["name"] for claim in observed.claims}
    still = [
        item
        for item in left.values()
        if item.lost or (item.ordinal not in back and claim_name(item.instance) in claims)
    ]
    return tuple(sorted(still, key=lambda item: item.ordinal))


def reason_and_message(left: tuple[Left, ...]) -> tuple[str, str]:
    """Return what a condition says of messages that were left behind."""
    lost = [item for item in left if item.lost]
    named = lost or [*left]
    names = ", ".join(map(str, named[:_NAMED])) + (f" and {len(named) - _NAMED} more" if len(named) > _NAMED else "")
    if lost:
        return reasons.MESSAGES_LOST, f"lost with instances that ended before others had taken them over: {names}"
    return (
        reasons.SCALED_DOWN_WITH_MESSAGES,
        f"on the claims of instances that are scaled away: {names}; scale up again to have them handled",
    )


def entries_are_news(cell: Cell, status: Object) -> bool:
    """Tell whether a new status says of something left behind that the Cell's last one does not."""
    before = cell.status.get("messagesLeft") or ()
    return any(entry not in before for entry in status.get("messagesLeft", ()))


def _leaves(cell: Cell, instance: Instance) -> bool:
    """Tell whether an instance that ends is not expected to find its messages again."""
    return instance.ordinal >= cell.spec.replicas or not isinstance(cell.spec.storage, Volume)


def _keeps(cell: Cell) -> bool:
    storage = cell.spec.storage
    return isinstance(storage, Volume) and storage.when_scaled == "Retain"


def _words(pod: Object) -> LastWords | None:
    """Return the last words of a pod that does not come back; a container that is started again has others."""
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp") is None and status.get("phase") not in _ENDED:
        return None
    for container in status.get("containerStatuses") or ():
        if container.get("name") == CONTAINER:
            ended = (container.get("state") or {}).get("terminated") or {}
            return read_last_words(str(ended.get("message") or ""))
    return None


def _reported(cell: Cell) -> Iterator[Left]:
    """Yield what was reported; not what was lost before the Cell was edited."""
    said = cell.condition(reasons.MESSAGES_LEFT) or {}
    edited = said.get("observedGeneration") != cell.generation
    for entry in cell.status.get("messagesLeft") or ():
        instance, lost = str(entry["instance"]), bool(entry.get("lost"))
        ordinal = ordinal_of(instance, cell)
        if ordinal is not None and not (lost and edited):
            yield Left(
                instance=instance,
                ordinal=ordinal,
                remaining=int(entry.get("remaining", 0)),
                unsent=int(entry.get("unsent", 0)),
                lost=lost,
            )
