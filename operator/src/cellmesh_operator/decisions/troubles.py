"""Why instances are not ready, in the words of Kubernetes: from their pods and from FailedCreate Events.

What alternates on the way (``ErrImagePull`` and ``ImagePullBackOff``, a crashed container that is started
once more) is given one reason and, as far as it goes, one message: the Cell's status changes when
something has changed, not at every step of a back-off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from cellmesh_operator.decisions import reasons
from cellmesh_operator.decisions.actions import Object
from cellmesh_operator.decisions.cells import Cell
from cellmesh_operator.decisions.instances import Instance, Instances, pod_condition
from cellmesh_operator.decisions.storage import StorageState

_IMAGE_REASONS: Final = frozenset(
    {
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImageInspectError",
        "ImagePullBackOff",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
_CREATION_REASONS: Final = frozenset(
    {"CreateContainerError", "CreatePodSandboxError", "PostStartHookError", "PreCreateHookError", "RunContainerError"}
)
#: What a back-off's message carries of the error behind it (kubelet 1.32 and later).
_ERROR_BEHIND: Final = "ErrImagePull: "
#: How the API server refuses a pod for a ResourceQuota: too much, what the quota counts is not said, none matches.
_QUOTA: Final = ("exceeded quota", "failed quota", "insufficient quota")
#: Restarts from which on a container that is not ready counts as crashing while it runs.
_CRASHING_RESTARTS: Final = 2


@dataclass(frozen=True)
class Trouble:
    """Why the cell is not what it should be."""

    reason: str
    message: str


def find_trouble(
    cell: Cell, found: Instances, stateful_set: Object | None, failures: tuple[Object, ...], storage: StorageState
) -> Trouble | None:
    """Return the first cause of instances not being ready; None if there is none to be seen."""
    said = cell.condition(reasons.READY) or {}
    troubles = [trouble for item in found.struggling() for trouble in _pod_troubles(item, str(said.get("message", "")))]
    if found.missing and stateful_set is not None:
        troubles += _creation_troubles(stateful_set, failures, said, found)
    if storage.reason in reasons.TROUBLES:
        troubles.append(Trouble(storage.reason, storage.message))
    # Of equals the first, that is of the lowest ordinal.
    return min(troubles, key=lambda trouble: reasons.TROUBLES.index(trouble.reason), default=None)


def _pod_troubles(instance: Instance, said: str) -> Iterator[Trouble]:
    status = instance.pod.get("status") or {}
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    found = [trouble for item in containers for trouble in _container_troubles(instance, item, said)]
    yield from found
    scheduled = pod_condition(instance.pod, "PodScheduled")
    if scheduled.get("status") == "False":
        yield _trouble(reasons.UNSCHEDULABLE, instance, f"cannot be scheduled: {scheduled.get('message', '')}")
    elif status.get("phase") == "Failed":
        words = ": ".join(str(status[name]) for name in ("reason", "message") if status.get(name))
        yield _trouble(reasons.POD_FAILED, instance, f"has failed: {words or 'the pod says no reason'}")
    elif not found and _was_ready(instance, containers):
        yield _trouble(
            reasons.PROBE_FAILING, instance, "was ready and is no more: its readiness probe fails, or its node is gone"
        )


def _container_troubles(instance: Instance, container: Object, said: str) -> Iterator[Trouble]:
    state = container.get("state") or {}
    waiting = state.get("waiting") or {}
    reason = waiting.get("reason")
    name, message = container["name"], str(waiting.get("message") or "")
    if reason == "InvalidImageName":
        yield _trouble(reasons.INVALID_IMAGE_NAME, instance, f"container {name}: {message}")
    elif reason in _IMAGE_REASONS:
        yield _image_trouble(instance, container, message, said)
    elif reason == "CreateContainerConfigError":
        yield _trouble(reasons.CONTAINER_CONFIG, instance, f"container {name} lacks what it refers to: {message}")
    elif reason in _CREATION_REASONS:
        yield _trouble(reasons.CONTAINER_CREATION, instance, f"container {name} cannot be started: {message}")
    elif reason == "CrashLoopBackOff" or _keeps_crashing(instance, container):
        yield _crash(instance, container)


def _image_trouble(instance: Instance, container: Object, message: str, said: str) -> Trouble:
    text = f"image {container.get('image') or '(none)'} cannot be pulled"
    start = f"{instance.name}: {text}"
    _, behind, error = message.partition(_ERROR_BEHIND)
    if behind:
        message = error
    elif message.startswith("Back-off"):
        # It does not say why; what was said before does.
        before = said.find(start)
        if before >= 0:
            return Trouble(reasons.IMAGE_PULL, said[before:])
        message = ""
    return _trouble(reasons.IMAGE_PULL, instance, f"{text}: {message}" if message else text)


def _keeps_crashing(instance: Instance, container: Object) -> bool:
    if container.get("restartCount", 0) < _CRASHING_RESTARTS or container.get("ready"):
        return False
    if not (container.get("lastState") or {}).get("terminated"):
        return False
    return not _ready_since(instance, container)


def _crash(instance: Instance, container: Object) -> Trouble:
    ended = ((container.get("lastState") or {}).get("terminated")) or (
        (container.get("state") or {}).get("terminated") or {}
    )
    name = container["name"]
    if ended.get("reason") == "OOMKilled":
        text = f"container {name} was killed for want of memory; raise spec.resources.limits.memory"
        return _trouble(reasons.OOM_KILLED, instance, text)
    how = f"exit code {ended['exitCode']}" if "exitCode" in ended else "unknown exit code"
    text = f"container {name} ends again and again ({how}); see kubectl logs {instance.name} -c {name} --previous"
    return _trouble(reasons.CRASHING, instance, text)


def _was_ready(instance: Instance, containers: list[Any]) -> bool:
    running = [item for item in containers if (item.get("state") or {}).get("running")]
    return bool(running) and all(_ready_since(instance, item) for item in running)


def _ready_since(instance: Instance, container: Object) -> bool:
    """Tell whether the pod has been ready since this container was started; both times are the kubelet's."""
    started = ((container.get("state") or {}).get("running") or {}).get("startedAt")
    changed = pod_condition(instance.pod, "Ready").get("lastTransitionTime")
    return bool(started and changed and changed > started)


def _creation_troubles(
    stateful_set: Object, failures: tuple[Object, ...], said: Object, found: Instances
) -> Iterator[Trouble]:
    """Yield what the newest Event says about pods that could not be made.

    Events outlive what they tell of by an hour: one from before the last pod was made, or from before the
    Cell was last seen ready, is old news.
    """
    since = max(
        [str(said.get("lastTransitionTime") or ""), *(_created(item.pod) for item in found.all)],
        default="",
    )
    uid = stateful_set["metadata"]["uid"]
    current = [
        event
        for event in failures
        if (event.get("involvedObject") or {}).get("uid") == uid and _event_time(event) >= since[:19]
    ]
    if not current:
        return
    message = str(max(current, key=_event_time).get("message") or "")
    _, _, said_by_server = message.partition("failed error: ")
    if "violates PodSecurity" in message:
        reason = reasons.POD_SECURITY
    elif any(words in message for words in _QUOTA):
        reason = reasons.QUOTA_EXCEEDED
    else:
        reason = reasons.FAILED_CREATE
    yield Trouble(reason, reasons.cut(said_by_server or message))


def _event_time(event: Object) -> str:
    """Return when an Event was last seen, to the second."""
    series = event.get("series") or {}
    times = (event.get("lastTimestamp"), series.get("lastObservedTime"), event.get("eventTime"))
    return max((str(time)[:19] for time in times if time), default="")


def _created(pod: Object) -> str:
    return str(pod["metadata"].get("creationTimestamp") or "")


def _trouble(reason: str, instance: Instance, text: str) -> Trouble:
    return Trouble(reason, reasons.cut(f"{instance.name}: {text}".rstrip(": ")))
