"""What a Cell's status says, and when it changes."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest

from cellmesh_operator.decisions.actions import Observed
from cellmesh_operator.decisions.conditions import reported
from cellmesh_operator.decisions.reasons import MESSAGE_LENGTH
from reconciled import (
    EARLIER,
    LATER,
    NOW,
    REVISION,
    Cluster,
    Object,
    a_claim,
    a_class,
    a_container,
    a_pod,
    conditions,
    decided,
    message,
)


def seen(
    spec: Object | None = None,
    *,
    pods: tuple[Object, ...] = (),
    claims: tuple[Object, ...] | None = None,
    failures: tuple[Object, ...] = (),
    classes: dict[str, Object] | None = None,
    status: Object | None = None,
) -> Observed:
    """Return a Cell whose children are as they should be, with these pods, claims and Events."""
    cluster = Cluster(spec)
    cluster.reconcile()
    stateful_set = copy.deepcopy(cluster.observed.stateful_set)
    assert stateful_set is not None
    stateful_set["metadata"]["uid"] = "set"
    stateful_set["status"] |= {"updateRevision": REVISION}
    cell = {name: value for name, value in cluster.observed.cell.items() if name != "status"}
    return dataclasses.replace(
        cluster.observed,
        cell={**cell, "status": status} if status is not None else cell,
        stateful_set=stateful_set,
        pods=pods,
        claims=cluster.observed.claims if claims is None else claims,
        failures=failures,
        storage_classes=classes if classes is not None else cluster.observed.storage_classes,
    )


def said(kind: str, status: str, reason: str, *, at: str = EARLIER, text: str = "", generation: int = 1) -> Object:
    """Return a status reported before, with one condition."""
    condition = {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": text,
        "lastTransitionTime": at,
        "observedGeneration": generation,
    }
    return {"observedGeneration": generation, "conditions": [condition]}


def waiting(reason: str, text: str = "", **more: Any) -> Object:
    """Return a pod whose container waits."""
    return a_pod(ready=False, containers=[a_container(state={"waiting": {"reason": reason, "message": text}}, **more)])


def failure(text: str, *, at: str = NOW, uid: str = "set") -> Object:
    """Return an Event about a pod that could not be made."""
    words = f"create Pod alpha-0 in StatefulSet alpha failed error: {text}"
    return {"reason": "FailedCreate", "message": words, "lastTimestamp": at, "involvedObject": {"uid": uid}}


def test_a_ready_cell_says_so_in_every_condition() -> None:
    """The whole status."""
    observed = seen(pods=(a_pod(),))
    assert decided(observed).status == {
        "observedGeneration": 1,
        "replicas": 1,
        "readyReplicas": 1,
        "selector": "cellmesh.dev/cell=alpha",
        "conditions": [
            {
                "type": kind,
                "status": "True",
                "observedGeneration": 1,
                "lastTransitionTime": NOW,
                "reason": reason,
                "message": text,
            }
            for kind, reason, text in (
                ("Ready", "InstancesReady", "1 of 1 instances ready"),
                ("Available", "InstanceReady", "at least one instance is ready"),
                ("StorageReady", "Bound", "every claim is bound"),
                ("UpToDate", "Applied", "the children are as this operator makes them"),
            )
        ],
    }


def test_every_condition_is_there_from_the_first_visit() -> None:
    """Before anything exists, with Reconciling, so that kstatus waits."""
    assert conditions(decided(Cluster().observed).status) == {
        "Ready": ("False", "Starting"),
        "Available": ("False", "NoInstanceReady"),
        "Reconciling": ("True", "Starting"),
        "StorageReady": ("False", "ClaimPending"),
        "UpToDate": ("True", "Applied"),
    }


def test_scaled_to_zero_is_ready() -> None:
    """All that is wanted is there, though nobody is available."""
    found = conditions(decided(seen({"replicas": 0})).status)
    assert found["Ready"] == ("True", "ScaledToZero")
    assert found["Available"] == ("False", "ScaledToZero")
    assert "Reconciling" not in found


def test_instances_that_stop_after_scaling_are_waited_for() -> None:
    """Ready already, and under way until they are gone."""
    pods = (a_pod(0), a_pod(1, deleted=True))
    found = conditions(decided(seen({"replicas": 1}, pods=pods)).status)
    assert found["Ready"] == ("True", "InstancesReady")
    assert found["Reconciling"] == ("True", "ScalingDown")


@pytest.mark.parametrize(
    ("pods", "ready", "available"),
    [
        ((a_pod(0), a_pod(1)), ("True", "InstancesReady"), "True"),
        ((a_pod(0), a_pod(1, ready=False, changed=EARLIER)), ("False", "Starting"), "True"),
        ((a_pod(0),), ("False", "Starting"), "True"),
        ((a_pod(0, deleted=True), a_pod(1, deleted=True)), ("False", "Starting"), "False"),
        ((a_pod(0), a_pod(1, revision="alpha-0")), ("False", "RollingOut"), "True"),
        ((a_pod(0), a_pod(2)), ("False", "Starting"), "True"),
        ((), ("False", "Starting"), "False"),
    ],
    ids=["both", "one not ready", "one missing", "both going", "one outdated", "another ordinal", "none"],
)
def test_ready_means_every_wanted_instance_of_this_generation(
    pods: tuple[Object, ...], ready: tuple[str, str], available: str
) -> None:
    """Ready, of the newest revision, not terminating, and one of those that are wanted."""
    found = conditions(decided(seen({"replicas": 2}, pods=pods)).status)
    assert found["Ready"] == ready
    assert found["Available"][0] == available


def test_instances_count_only_once_the_stateful_set_has_been_seen_by_its_controller() -> None:
    """Until then it is not known whether they are of this generation."""
    observed = seen(pods=(a_pod(),))
    assert observed.stateful_set is not None
    observed.stateful_set["metadata"]["generation"] += 1
    assert conditions(decided(observed).status)["Ready"] == ("False", "RollingOut")


def test_pods_of_others_with_our_label_do_not_count() -> None:
    """Of another controller, or by a name that is no instance's."""
    others = a_pod(0)
    others["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": "alpha", "uid": "x", "controller": True}]
    debug = a_pod(0)
    debug["metadata"] |= {"name": "alpha-debug", "ownerReferences": []}
    status = decided(seen(pods=(others, debug))).status
    assert (status["replicas"], status["readyReplicas"]) == (0, 0)


@pytest.mark.parametrize(
    ("pod", "reason", "words"),
    [
        (
            waiting("ErrImagePull", "rpc error: not found"),
            "ImagePullBackOff",
            "alpha-0: image cellmesh-cell:1 cannot be pulled: rpc error: not found",
        ),
        (
            waiting("ImagePullBackOff", 'Back-off pulling image "x": ErrImagePull: rpc error: not found'),
            "ImagePullBackOff",
            "alpha-0: image cellmesh-cell:1 cannot be pulled: rpc error: not found",
        ),
        (waiting("ImagePullBackOff", 'Back-off pulling image "x"'), "ImagePullBackOff", "cannot be pulled"),
        (waiting("ErrImageNeverPull", "not present"), "ImagePullBackOff", "not present"),
        (waiting("InvalidImageName", "couldn't parse"), "InvalidImageName", "container cell: couldn't parse"),
        (
            waiting("CreateContainerConfigError", 'secret "s" not found'),
            "CreateContainerConfigError",
            'alpha-0: container cell lacks what it refers to: secret "s" not found',
        ),
        (waiting("RunContainerError", "exec: no such file"), "CreateContainerError", "exec: no such file"),
        (
            waiting("CrashLoopBackOff", "back-off", lastState={"terminated": {"exitCode": 2, "reason": "Error"}}),
            "CrashLoopBackOff",
            "alpha-0: container cell ends again and again (exit code 2); see kubectl logs alpha-0 -c cell --previous",
        ),
        (
            waiting("CrashLoopBackOff", "back-off", lastState={"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
            "OOMKilled",
            "raise spec.resources.limits.memory",
        ),
        (
            a_pod(
                ready=False,
                changed=EARLIER,
                containers=[a_container(restartCount=2, lastState={"terminated": {"exitCode": 1}})],
            ),
            "CrashLoopBackOff",
            "exit code 1",
        ),
        (
            a_pod(ready=False, changed=NOW, containers=[a_container()]),
            "ProbeFailing",
            "alpha-0: was ready and is no more",
        ),
        (
            a_pod(
                ready=False,
                changed=NOW,
                containers=[a_container(restartCount=9, lastState={"terminated": {"exitCode": 1}})],
            ),
            "ProbeFailing",
            "was ready",
        ),
        (a_pod(ready=False, changed=EARLIER, containers=[a_container()]), "Starting", "0 of 1 instances ready"),
        (
            a_pod(
                ready=False,
                changed=EARLIER,
                containers=[a_container(restartCount=1, lastState={"terminated": {"exitCode": 1}})],
            ),
            "Starting",
            "0 of 1",
        ),
        (
            a_pod(
                ready=False,
                status={
                    "phase": "Pending",
                    "containerStatuses": [],
                    "conditions": [
                        {
                            "type": "PodScheduled",
                            "status": "False",
                            "reason": "Unschedulable",
                            "message": "0/3 nodes are available: 3 Insufficient cpu.",
                        }
                    ],
                },
            ),
            "Unschedulable",
            "alpha-0: cannot be scheduled: 0/3 nodes are available: 3 Insufficient cpu.",
        ),
        (
            a_pod(
                ready=False,
                status={"phase": "Failed", "reason": "Evicted", "message": "low on memory", "containerStatuses": []},
            ),
            "PodFailed",
            "alpha-0: has failed: Evicted: low on memory",
        ),
        (
            a_pod(
                ready=False,
                containers=[a_container(state={"waiting": {"reason": "PodInitializing"}})],
                status={
                    "initContainerStatuses": [
                        a_container(name="first", state={"waiting": {"reason": "ErrImagePull", "message": "gone"}})
                    ]
                },
            ),
            "ImagePullBackOff",
            "gone",
        ),
    ],
)
def test_why_an_instance_is_not_ready(pod: Object, reason: str, words: str) -> None:
    """In Kubernetes' own words, with the instance, and what to do where that is known."""
    status = decided(seen(pods=(pod,))).status
    assert conditions(status)["Ready"] == ("False", reason)
    assert words in message(status)


@pytest.mark.parametrize(("reason", "stalled"), [("InvalidImageName", True), ("ErrImagePull", False)])
def test_only_what_waiting_does_not_mend_is_stalled(reason: str, *, stalled: bool) -> None:
    """A registry may come back; a name that is none stays one. Never both stalled and reconciling."""
    found = conditions(decided(seen(pods=(waiting(reason, "x"),))).status)
    assert ("Stalled" in found) == stalled
    assert ("Reconciling" in found) != stalled


def test_a_pull_that_backs_off_keeps_its_message() -> None:
    """Kubelets before 1.32 say why only every other time; the status must not change back and forth."""
    first = decided(seen(pods=(waiting("ErrImagePull", "rpc error: not found"),))).status
    observed = seen(pods=(waiting("ImagePullBackOff", 'Back-off pulling image "x"'),), status=dict(first))
    assert reported(observed.cell, decided(observed).status)


def test_a_crashing_container_is_told_of_in_the_same_words_at_every_step() -> None:
    """While it waits and while it runs once more."""
    ended = {"terminated": {"exitCode": 1, "reason": "Error"}}
    first = decided(seen(pods=(waiting("CrashLoopBackOff", "x", restartCount=2, lastState=ended),))).status
    again = a_pod(ready=False, changed=EARLIER, containers=[a_container(restartCount=3, lastState=ended)])
    observed = seen(pods=(again,), status=dict(first))
    assert reported(observed.cell, decided(observed).status)


def test_of_several_troubles_the_root_is_told() -> None:
    """A missing image of the second instance before the first one's want of a node."""
    unscheduled = a_pod(
        0,
        ready=False,
        status={"containerStatuses": [], "conditions": [{"type": "PodScheduled", "status": "False", "message": "m"}]},
    )
    pulling = a_pod(1, ready=False, containers=[a_container(state={"waiting": {"reason": "ErrImagePull"}})])
    status = decided(seen({"replicas": 2}, pods=(unscheduled, pulling))).status
    assert conditions(status)["Ready"] == ("False", "ImagePullBackOff")
    assert message(status) == "0 of 2 instances ready; alpha-1: image cellmesh-cell:1 cannot be pulled"


def test_while_a_cell_rolls_out_its_message_counts_both() -> None:
    """What is ready, and what is of the new revision."""
    pods = (a_pod(0, revision="old"), a_pod(1, ready=False, changed=EARLIER))
    assert message(decided(seen({"replicas": 2}, pods=pods)).status) == "1 of 2 instances ready, 1 updated"


@pytest.mark.parametrize(
    ("text", "reason", "stalled"),
    [
        ('pods "alpha-0" is forbidden: exceeded quota: q, requested: pods=1', "QuotaExceeded", False),
        ('pods "alpha-0" is forbidden: failed quota: q: must specify limits.cpu for: cell', "QuotaExceeded", False),
        ('pods "alpha-0" is forbidden: insufficient quota to match these scopes: []', "QuotaExceeded", False),
        ('pods "alpha-0" is forbidden: violates PodSecurity "restricted:latest": x', "PodSecurityViolation", True),
        ("Internal error occurred: webhook", "FailedCreate", False),
    ],
)
def test_why_a_pod_could_not_be_made(text: str, reason: str, *, stalled: bool) -> None:
    """Quota and admission refusals appear in Events only."""
    status = decided(seen(failures=(failure(text),))).status
    assert conditions(status)["Ready"] == ("False", reason)
    assert message(status) == f"0 of 1 instances ready; {text}"
    assert ("Stalled" in conditions(status)) == stalled


@pytest.mark.parametrize(
    ("event", "pods", "status"),
    [
        (failure("x", uid="another"), (), None),
        (failure("x", at=EARLIER), (), said("Ready", "True", "InstancesReady", at=NOW)),
        (failure("x", at=EARLIER), (a_pod(1, created=NOW),), None),
        (failure("x", at=NOW), (a_pod(0), a_pod(1)), None),
    ],
    ids=["of another StatefulSet", "from before it was ready", "from before the last pod", "nothing missing"],
)
def test_old_failures_are_no_news(event: Object, pods: tuple[Object, ...], status: Object | None) -> None:
    """Events last for an hour, whatever has become of what they tell."""
    observed = seen({"replicas": 2}, pods=pods, failures=(event,), status=status)
    assert "x" not in message(decided(observed).status).split("; ")


def test_of_several_failures_the_newest_is_told() -> None:
    """By when each was last seen, wherever the Event says so."""
    series = {**failure("second"), "lastTimestamp": None, "series": {"lastObservedTime": f"{LATER[:-1]}.000001Z"}}
    status = decided(seen(failures=(failure("first", at=NOW), series, failure("zeroth", at=EARLIER)))).status
    assert message(status).endswith("; second")


@pytest.mark.parametrize(
    ("claims", "classes", "reason", "words"),
    [
        ((), {}, "ClaimPending", "not every claim is bound yet"),
        ((a_claim(phase="Pending"),), {"fast": a_class()}, "ClaimPending", "not every claim is bound yet"),
        ((a_claim(phase="Pending"),), {}, "StorageClassNotFound", "there is no StorageClass fast"),
        ((a_claim(phase="Pending", class_name=None),), {"fast": a_class()}, "NoStorageClass", "no default one"),
        (
            (a_claim(phase="Pending", class_name=None),),
            {"fast": a_class(default=True)},
            "ClaimPending",
            "not every claim is bound yet",
        ),
        ((a_claim(phase="Lost"),), {}, "ClaimLost", "claim inbox-alpha-0 is gone"),
    ],
)
def test_why_storage_is_not_ready(
    claims: tuple[Object, ...], classes: dict[str, Object], reason: str, words: str
) -> None:
    """By claim, with what to do."""
    status = decided(seen(claims=claims, classes=classes)).status
    assert conditions(status)["StorageReady"] == ("False", reason)
    assert words in message(status, "StorageReady")


def test_without_a_storage_class_ready_says_why() -> None:
    """The scheduler's words for it come second."""
    claim = a_claim(phase="Pending", class_name=None)
    pod = a_pod(
        ready=False,
        status={"containerStatuses": [], "conditions": [{"type": "PodScheduled", "status": "False", "message": "m"}]},
    )
    status = decided(seen(pods=(pod,), claims=(claim,), classes={})).status
    assert conditions(status)["Ready"] == ("False", "NoStorageClass")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"capacity": {"storage": "512Mi"}}, "Resizing"),
        ({"conditions": [{"type": "ControllerResizeError", "status": "True", "message": "no space"}]}, "ResizeFailed"),
        ({"allocatedResourceStatuses": {"storage": "NodeResizeInfeasible"}}, "ResizeFailed"),
        ({"allocatedResourceStatuses": {"storage": "ControllerResizeInProgress"}}, "Bound"),
    ],
)
def test_a_claim_that_grows_or_fails_to_is_told_of(change: Object, reason: str) -> None:
    """From what the volume's driver reports on the claim."""
    claim = a_claim()
    claim["status"] |= change
    found = conditions(decided(seen(pods=(a_pod(),), claims=(claim,))).status)
    assert found["StorageReady"][1] == reason
    assert found["Ready"] == ("True", "InstancesReady")


def test_ephemeral_storage_is_ready() -> None:
    """There is nothing to wait for."""
    found = conditions(decided(seen({"storage": {"ephemeral": {}}}, pods=(a_pod(),))).status)
    assert found["StorageReady"] == ("True", "Ephemeral")


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    """A new reason or message is no transition."""
    observed = seen(pods=(waiting("ErrImagePull"),), status=said("Ready", "False", "Starting", at=EARLIER))
    (ready,) = [item for item in decided(observed).status["conditions"] if item["type"] == "Ready"]
    assert (ready["lastTransitionTime"], ready["reason"]) == (EARLIER, "ImagePullBackOff")


def test_a_condition_whose_status_changes_gets_the_time() -> None:
    """And only that one."""
    observed = seen(pods=(a_pod(),), status=said("Ready", "False", "Starting", at=EARLIER))
    assert {item["lastTransitionTime"] for item in decided(observed).status["conditions"]} == {NOW}


def test_messages_have_a_bound_and_one_line() -> None:
    """Schedulers and registries write what they like."""
    status = decided(seen(pods=(waiting("ErrImagePull", "a\n" * 5000),))).status
    assert "\n" not in message(status)
    assert max(len(item["message"]) for item in status["conditions"]) <= MESSAGE_LENGTH


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda status: None, True),
        (lambda status: status["conditions"].reverse(), True),
        (lambda status: status["conditions"].append({"type": "Theirs", "status": "True"}), True),
        (lambda status: status.update(theirs=1), True),
        (lambda status: status.update(replicas=7), False),
        (lambda status: status["conditions"].pop(), False),
        (lambda status: status["conditions"][0].update(message="x"), False),
        (lambda status: status["conditions"].append({"type": "Stalled", "status": "True"}), False),
    ],
)
def test_what_is_reported_already_need_not_be_written(change: Any, *, same: bool) -> None:
    """Order, and what others have added, do not matter; a condition of ours too many does."""
    status = decided(seen(pods=(a_pod(),))).status
    there = copy.deepcopy(dict(status))
    change(there)
    assert reported({"status": there}, status) == same


def test_a_cell_without_a_status_has_reported_nothing() -> None:
    """So the first one is written."""
    assert not reported({}, decided(seen()).status)


@pytest.mark.parametrize(
    ("before", "pods", "notices"),
    [
        (None, (waiting("ErrImagePull"),), [("Warning", "ImagePullBackOff")]),
        (said("Ready", "False", "ImagePullBackOff"), (waiting("ErrImagePull"),), []),
        (said("Ready", "False", "ImagePullBackOff"), (a_pod(),), [("Normal", "Recovered")]),
        (said("Ready", "False", "Starting"), (a_pod(),), []),
        (said("Ready", "True", "InstancesReady"), (), []),
    ],
    ids=["new trouble", "same trouble", "trouble over", "started", "stopped"],
)
def test_an_event_tells_when_a_trouble_comes_and_goes(
    before: Object | None, pods: tuple[Object, ...], notices: list[tuple[str, str]]
) -> None:
    """Once each: what stays is in the conditions."""
    found = decided(seen(pods=pods, status=before)).notices
    assert [(notice.type, notice.reason) for notice in found] == notices
