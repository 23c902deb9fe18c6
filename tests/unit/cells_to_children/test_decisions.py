"""What is done for a Cell, from what is observed."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellmesh_operator.decisions.actions import Apply, Delete, Remove, ResizeClaim, Scale
from cellmesh_operator.decisions.conditions import reported
from cellmesh_operator.decisions.hashing import applied_hash
from cellmesh_operator.naming import (
    APPLIED_HASH,
    CHILDREN,
    POD_DISRUPTION_BUDGETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    STATEFUL_SETS,
    Resource,
)
from reconciled import (
    FIELDS,
    NOW,
    SETTINGS,
    Cluster,
    Object,
    a_claim,
    a_class,
    conditions,
    decided,
    message,
)

OTHER_OWNER = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x", "uid": "u", "controller": True}
FORMER_OWNER = {
    "apiVersion": "cellmesh.dev/v1alpha1",
    "kind": "Cell",
    "name": "alpha",
    "uid": "old",
    "controller": True,
}
NEW_IMAGE = dataclasses.replace(SETTINGS, cell_image="cellmesh-cell:2")


def running(spec: Object | None = None) -> Cluster:
    """Return a cluster in which a Cell has been reconciled."""
    cluster = Cluster(spec)
    cluster.reconcile()
    return cluster


def kinds(actions: Any) -> list[tuple[str, str]]:
    """Return the kind of each action and of its object."""
    return [(type(action).__name__, action.resource.kind) for action in actions]


def test_a_new_cell_gets_its_children_in_order() -> None:
    """The account before the pods that run under it; each only if nothing of its name is there."""
    actions = decided(Cluster({"replicas": 2}).observed).actions
    assert kinds(actions) == [
        ("Apply", "ServiceAccount"),
        ("Apply", "Service"),
        ("Apply", "PodDisruptionBudget"),
        ("Apply", "StatefulSet"),
    ]
    assert all(isinstance(action, Apply) and action.uid is None and not action.changed for action in actions)


def test_what_is_applied_bears_its_hash() -> None:
    """By which a later look knows that nothing need be written."""
    for action in decided(Cluster().observed).actions:
        assert isinstance(action, Apply)
        assert action.body["metadata"]["annotations"][APPLIED_HASH]


def test_an_unchanged_cell_is_not_written_to() -> None:
    """No action, no event, and the status that is there already."""
    cluster = running({"replicas": 2})
    decision = decided(cluster.observed)
    assert (decision.actions, decision.notices, decision.from_operator) == ((), (), False)
    assert reported(cluster.observed.cell, decision.status)


def test_a_change_by_the_author_is_applied_to_what_it_concerns_only() -> None:
    """A new port reaches Service and StatefulSet, each as the very object that was seen."""
    cluster = running()
    cluster.edit({"port": 9000})
    decision = decided(cluster.observed, may_roll_out=False)
    assert kinds(decision.actions) == [("Apply", "Service"), ("Apply", "StatefulSet")]
    assert [action.uid for action in decision.actions if isinstance(action, Apply)] == ["service-2", "stateful_set-3"]
    assert not decision.from_operator


def test_editing_what_only_peers_see_writes_no_child() -> None:
    """Only the observed generation moves on."""
    cluster = running()
    cluster.edit({"type": "pure"})
    decision = decided(cluster.observed)
    assert decision.actions == ()
    assert decision.status["observedGeneration"] == 2


def test_a_change_that_reaches_no_pod_leaves_a_ready_cell_ready() -> None:
    """The StatefulSet only notes which spec it was built from."""
    cluster = running()
    cluster.edit({"serviceAccount": {"annotations": {"cloud/role": "r"}}})
    decision = decided(cluster.observed)
    assert kinds(decision.actions) == [("Apply", "ServiceAccount"), ("Apply", "StatefulSet")]
    assert conditions(decision.status)["Ready"] == ("True", "InstancesReady")


def test_a_field_that_the_author_takes_back_rolls_out_too() -> None:
    """Nothing of ours differs in the live object then, and yet its pods are about to change."""
    cluster = running({"template": {"nodeSelector": {"disk": "ssd"}}})
    cluster.edit({})
    assert conditions(decided(cluster.observed).status)["Ready"] == ("False", "RollingOut")


def test_a_cell_that_is_being_deleted_is_left_to_the_garbage_collector() -> None:
    """Nothing is done and nothing new is said."""
    cluster = running()
    cluster.observed.cell["metadata"]["deletionTimestamp"] = NOW
    cluster.act(Delete(SERVICES, "mesh", "alpha", "service-2"))
    decision = decided(cluster.observed)
    assert (decision.actions, decision.status) == ((), cluster.observed.cell["status"])


@pytest.mark.parametrize("resource", CHILDREN, ids=lambda resource: resource.kind)
def test_a_foreign_object_is_not_touched_and_reported(resource: Resource) -> None:
    """Whoever controls it, or nobody: it stays, the Cell says so and is stalled, an Event tells."""
    for owners in ([], [OTHER_OWNER], [{**FORMER_OWNER, "name": "beta"}]):
        cluster = Cluster({"replicas": 2})
        foreign = {
            "metadata": {"name": "alpha", "namespace": "mesh", "uid": "f", "ownerReferences": owners},
            "spec": {},
        }
        observed = dataclasses.replace(cluster.observed, **{FIELDS[resource]: foreign})
        decision = decided(observed)
        assert resource.kind not in [kind for _, kind in kinds(decision.actions)]
        found = conditions(decision.status)
        assert found["Ready"] == ("False", "NameConflict")
        assert found["Stalled"] == ("True", "NameConflict")
        assert "Reconciling" not in found
        assert [(notice.type, notice.reason) for notice in decision.notices] == [("Warning", "NameConflict")]
        assert resource.kind in decision.notices[0].message


def test_no_pods_are_made_under_somebody_elses_account() -> None:
    """They would act in its name."""
    cluster = Cluster()
    foreign = {"metadata": {"name": "alpha", "namespace": "mesh", "uid": "f"}}
    decision = decided(dataclasses.replace(cluster.observed, service_account=foreign))
    assert kinds(decision.actions) == [("Apply", "Service")]


def test_a_foreign_budget_that_is_not_wanted_is_nobodys_business() -> None:
    """With one instance there is no budget, so whoever has one of this name may keep it."""
    foreign = {"metadata": {"name": "alpha", "namespace": "mesh", "uid": "f"}}
    cluster = running()
    decision = decided(dataclasses.replace(cluster.observed, pod_disruption_budget=foreign))
    assert decision.actions == ()
    assert conditions(decision.status)["Ready"] == ("True", "InstancesReady")


@pytest.mark.parametrize("resource", [SERVICE_ACCOUNTS, SERVICES, STATEFUL_SETS], ids=lambda resource: resource.kind)
def test_an_object_that_is_being_deleted_is_waited_for(resource: Resource) -> None:
    """Nothing is applied to what goes; the Cell says what it waits for, and is not stalled."""
    cluster = running()
    live = copy.deepcopy(getattr(cluster.observed, FIELDS[resource]))
    live["metadata"]["deletionTimestamp"] = NOW
    decision = decided(dataclasses.replace(cluster.observed, **{FIELDS[resource]: live}))
    assert decision.actions == ()
    found = conditions(decision.status)
    assert found["Ready"] == ("False", "WaitingForDeletion")
    assert found["Reconciling"] == ("True", "WaitingForDeletion")
    assert resource.kind in message(decision.status)


def test_children_of_a_former_cell_of_the_name_are_waited_for() -> None:
    """The garbage collector is about to take them."""
    cluster = running()
    cluster.change(STATEFUL_SETS, metadata={"ownerReferences": [FORMER_OWNER]})
    decision = decided(cluster.observed)
    assert decision.actions == ()
    assert conditions(decision.status)["Ready"] == ("False", "WaitingForDeletion")


def test_a_child_that_is_gone_is_made_again() -> None:
    """Whoever deleted it."""
    cluster = running({"replicas": 2})
    for resource in CHILDREN:
        cluster.act(Delete(resource, "mesh", "alpha", "any"))
        assert kinds(cluster.reconcile()) == [("Apply", resource.kind)]


def test_a_budget_is_deleted_when_it_is_not_wanted() -> None:
    """And made again when it is; always the very object that was seen."""
    cluster = running({"replicas": 2})
    cluster.edit({"replicas": 1})
    assert Delete(POD_DISRUPTION_BUDGETS, "mesh", "alpha", "pod_disruption_budget-3") in cluster.reconcile()
    cluster.edit({"replicas": 3})
    assert ("Apply", "PodDisruptionBudget") in kinds(cluster.reconcile())


def test_a_field_that_others_changed_is_set_back_and_said() -> None:
    """The action tells that this very body was applied before, so that a fight is noticed."""
    cluster = running()
    cluster.change(STATEFUL_SETS, spec={"replicas": 4})
    decision = decided(cluster.observed, may_roll_out=False)
    assert kinds(decision.actions) == [("Apply", "StatefulSet")]
    assert decision.changed == ("StatefulSet spec.replicas",)
    assert [(notice.type, notice.reason) for notice in decision.notices] == [("Warning", "FieldsChangedByOthers")]
    assert conditions(decision.status)["UpToDate"] == ("False", "FieldsChangedByOthers")
    assert not decision.from_operator
    cluster.reconcile()
    assert conditions(decided(cluster.observed).status)["UpToDate"] == ("True", "Applied")


def test_a_webhook_that_changes_fields_each_time_can_be_told_from_a_change_of_ours() -> None:
    """After the apply the same body is wanted and the same field differs: again ``changed`` names it."""
    cluster = running()
    for _ in range(3):
        cluster.change(SERVICES, spec={"selector": {"cellmesh.dev/cell": "beta"}})
        (action,) = decided(cluster.observed).actions
        assert isinstance(action, Apply)
        assert action.changed == ("Service spec.selector[cellmesh.dev/cell]",)
        cluster.act(action)


def test_an_object_without_its_hash_counts_as_changed_by_others() -> None:
    """We never apply one without: a webhook that strips annotations must not look like our own change."""
    cluster = running()
    cluster.change(SERVICES, metadata={"annotations": {APPLIED_HASH: None}})
    assert decided(cluster.observed).changed == (f"Service metadata.annotations[{APPLIED_HASH}]",)


def test_what_others_added_to_the_pods_is_taken_away() -> None:
    """By a patch of that very object, since an apply would leave it; nothing else is written."""
    cluster = running()
    cluster.change(STATEFUL_SETS, spec={"template": {"spec": {"hostNetwork": True}}})
    (action,) = decided(cluster.observed).actions
    assert isinstance(action, Remove)
    assert action.patch == {"metadata": {"uid": action.uid}, "spec": {"template": {"spec": {"hostNetwork": None}}}}
    assert action.changed == ("StatefulSet spec.template.spec.hostNetwork",)
    cluster.reconcile()
    assert "hostNetwork" not in (cluster.observed.stateful_set or {})["spec"]["template"]["spec"]


def test_what_was_added_goes_before_what_was_changed_is_applied() -> None:
    """A volume turned into a host path has no source of ours left and one too many: an apply alone is refused."""
    cluster = running()
    host = [{"name": "tmp", "hostPath": {"path": "/"}}]
    cluster.change(STATEFUL_SETS, spec={"template": {"spec": {"volumes": host}}})
    assert kinds(decided(cluster.observed).actions) == [("Remove", "StatefulSet"), ("Apply", "StatefulSet")]
    cluster.reconcile()
    assert (cluster.observed.stateful_set or {})["spec"]["template"]["spec"]["volumes"] == [
        {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}
    ]


def test_a_restart_by_kubectl_is_left_to_happen() -> None:
    """``kubectl rollout restart`` annotates the template."""
    cluster = running()
    cluster.change(
        STATEFUL_SETS, spec={"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": NOW}}}}
    )
    assert decided(cluster.observed).actions == ()


def test_a_change_of_the_operator_waits_for_a_slot() -> None:
    """Without one nothing is written; the Cell stays Ready and says that it is not up to date."""
    cluster = running()
    decision = decided(cluster.observed, settings=NEW_IMAGE, may_roll_out=False)
    assert (decision.actions, decision.from_operator) == ((), True)
    found = conditions(decision.status)
    assert found["Ready"] == ("True", "InstancesReady")
    assert found["UpToDate"] == ("False", "WaitingForRollout")
    assert "Reconciling" not in found


def test_a_change_of_the_operator_is_made_with_a_slot() -> None:
    """And is said to be the operator's, so that the slot is kept until the Cell is ready again."""
    cluster = running()
    decision = decided(cluster.observed, settings=NEW_IMAGE)
    assert kinds(decision.actions) == [("Apply", "StatefulSet")]
    assert decision.from_operator
    assert conditions(decision.status)["UpToDate"] == ("True", "Applied")
    assert conditions(decision.status)["Ready"] == ("False", "RollingOut")


def test_the_authors_change_takes_the_operators_along() -> None:
    """It does not wait: the Cell is rolled out anyway."""
    cluster = running()
    cluster.edit({"port": 9000})
    decision = decided(cluster.observed, settings=NEW_IMAGE, may_roll_out=False)
    assert ("Apply", "StatefulSet") in kinds(decision.actions)
    assert not decision.from_operator


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 2), (1, 2), (2, 1), (2, 0)])
def test_another_number_of_instances_takes_nothing_else_along(before: int, after: int) -> None:
    """Scaling restarts no pod, so the operator's change goes on waiting, until it is its turn."""
    cluster = running({"replicas": before})
    cluster.edit({"replicas": after})
    first = decided(cluster.observed, settings=NEW_IMAGE, may_roll_out=False)
    assert [type(action) for action in first.actions if action.resource == STATEFUL_SETS] == [Scale]
    assert first.from_operator
    for action in first.actions:
        cluster.act(action)
    live = cluster.observed.stateful_set or {}
    (container,) = live["spec"]["template"]["spec"]["containers"]
    assert (live["spec"]["replicas"], container["image"]) == (after, SETTINGS.cell_image)
    cluster.run_controllers()
    second = decided(cluster.observed, settings=NEW_IMAGE, may_roll_out=False)
    assert (second.actions, second.from_operator) == ((), True)
    assert conditions(second.status)["UpToDate"] == ("False", "WaitingForRollout")
    third = decided(cluster.observed, settings=NEW_IMAGE)
    assert kinds(third.actions) == [("Apply", "StatefulSet")]
    cluster.settings = NEW_IMAGE
    cluster.reconcile()


def test_another_number_of_instances_alone_waits_for_no_slot() -> None:
    """Where the operator has nothing to change the StatefulSet is applied as after any edit."""
    cluster = running({"replicas": 2})
    cluster.edit({"replicas": 3})
    decision = decided(cluster.observed, may_roll_out=False)
    assert kinds(decision.actions) == [("Apply", "StatefulSet")]
    assert not decision.from_operator


def test_another_number_of_instances_is_no_excuse_for_other_edits() -> None:
    """Who edits the pods as well has them restarted, and the operator's change goes along."""
    cluster = running({"replicas": 2})
    cluster.edit({"replicas": 3, "port": 9000})
    decision = decided(cluster.observed, settings=NEW_IMAGE, may_roll_out=False)
    assert ("Apply", "StatefulSet") in kinds(decision.actions)
    assert not decision.from_operator


def test_while_a_change_of_the_operator_waits_others_drift_is_mended() -> None:
    """In the children that the change does not concern, and what is gone is made again."""
    cluster = running()
    cluster.act(Delete(SERVICE_ACCOUNTS, "mesh", "alpha", "any"))
    cluster.change(SERVICES, spec={"clusterIP": "10.0.0.1"})
    decision = decided(cluster.observed, settings=NEW_IMAGE, may_roll_out=False)
    assert kinds(decision.actions) == [("Apply", "ServiceAccount"), ("Apply", "Service")]
    assert decision.from_operator


def test_storage_grows_claim_by_claim_and_then_in_the_stateful_set() -> None:
    """Claims first; then the StatefulSet goes without its pods and comes back with the new size."""
    cluster = running({"replicas": 2, "storage": {"size": "1Gi"}})
    pods = cluster.observed.pods
    cluster.edit({"replicas": 2, "storage": {"size": "2Gi"}})
    first = decided(cluster.observed)
    assert [action for action in first.actions if isinstance(action, ResizeClaim)] == [
        ResizeClaim("inbox-alpha-0", "mesh", "2Gi"),
        ResizeClaim("inbox-alpha-1", "mesh", "2Gi"),
    ]
    assert not any(isinstance(action, Delete) for action in first.actions)
    assert conditions(first.status)["StorageReady"] == ("False", "Resizing")
    for action in first.actions:
        cluster.act(action)
    second = decided(cluster.observed, may_roll_out=False)
    assert second.actions == (Delete(STATEFUL_SETS, "mesh", "alpha", "stateful_set-4", orphan=True),)
    assert not second.from_operator
    cluster.act(second.actions[0])
    assert cluster.observed.pods == pods
    assert kinds(cluster.reconcile()) == [("Apply", "StatefulSet")]
    (template,) = (cluster.observed.stateful_set or {})["spec"]["volumeClaimTemplates"]
    assert template["spec"]["resources"]["requests"]["storage"] == "2Gi"
    assert conditions(decided(cluster.observed).status)["StorageReady"] == ("True", "Bound")


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ({"fast": a_class(expandable=False)}, "its StorageClass fast does not allow expansion"),
        ({}, "its StorageClass fast does not allow expansion"),
    ],
)
def test_storage_that_cannot_grow_stays_and_is_said(classes: dict[str, Object], words: str) -> None:
    """The old size stays in the StatefulSet, so that all other changes still get through."""
    cluster = running({"storage": {"size": "1Gi"}})
    cluster.edit({"storage": {"size": "2Gi"}, "port": 9000})
    cluster.observed = dataclasses.replace(cluster.observed, storage_classes=classes)
    decision = decided(cluster.observed)
    assert kinds(decision.actions) == [("Apply", "Service"), ("Apply", "StatefulSet")]
    assert conditions(decision.status)["StorageReady"] == ("False", "ExpansionNotSupported")
    said = message(decision.status, "StorageReady")
    assert words in said
    assert "set allowVolumeExpansion: true on that, if its driver can expand, or make another Cell" in said
    assert ("Warning", "ExpansionNotSupported") in [(notice.type, notice.reason) for notice in decision.notices]
    cluster.reconcile()
    after = decided(cluster.observed)
    assert conditions(after.status)["Ready"] == ("True", "InstancesReady")
    assert after.notices == ()


def test_where_storage_classes_cannot_be_read_the_api_server_is_asked_once() -> None:
    """A reconciler with Roles only tries; what was refused for a generation is not tried again for it."""
    cluster = running({"storage": {"size": "1Gi"}})
    cluster.observed = dataclasses.replace(cluster.observed, storage_classes=None)
    cluster.edit({"storage": {"size": "2Gi"}})
    decision = decided(cluster.observed)
    assert decision.actions[-1] == ResizeClaim("inbox-alpha-0", "mesh", "2Gi")
    refused = copy.deepcopy(dict(decision.status))
    for condition in refused["conditions"]:
        if condition["type"] == "StorageReady":
            condition |= {"status": "False", "reason": "ExpansionRefused", "message": "only dynamically provisioned"}
    cluster.report(refused)
    again = decided(cluster.observed)
    assert not any(isinstance(action, ResizeClaim) for action in again.actions)
    assert message(again.status, "StorageReady") == "only dynamically provisioned"
    cluster.edit({"storage": {"size": "3Gi"}})
    assert ResizeClaim("inbox-alpha-0", "mesh", "3Gi") in decided(cluster.observed).actions


def test_claims_of_instances_that_are_scaled_away_grow_too() -> None:
    """They come back with them."""
    cluster = running({"replicas": 2, "storage": {"size": "1Gi"}})
    cluster.edit({"replicas": 0, "storage": {"size": "2Gi"}})
    assert ResizeClaim("inbox-alpha-1", "mesh", "2Gi") in decided(cluster.observed).actions


def test_a_claim_that_is_not_bound_is_not_grown_yet() -> None:
    """The API server would refuse it."""
    cluster = running({"storage": {"size": "1Gi"}})
    cluster.edit({"storage": {"size": "2Gi"}})
    cluster.observed = dataclasses.replace(cluster.observed, claims=(a_claim(phase="Pending"),))
    assert not any(isinstance(action, ResizeClaim) for action in decided(cluster.observed).actions)


def test_claims_that_are_larger_than_wanted_are_left_alone() -> None:
    """A new Cell that takes over old volumes may ask for less than they have."""
    cluster = Cluster({"storage": {"size": "1Gi"}})
    cluster.observed = dataclasses.replace(cluster.observed, claims=(a_claim(size="5Gi"),))
    assert not any(isinstance(action, (ResizeClaim, Delete)) for action in cluster.reconcile())


def test_claims_of_other_cells_are_not_looked_at() -> None:
    """Of a Cell named alpha-0, whose claims begin alike."""
    cluster = running({"storage": {"size": "2Gi"}})
    other = a_claim(size="1Gi")
    other["metadata"]["name"] = "inbox-alpha-0-0"
    cluster.observed = dataclasses.replace(cluster.observed, claims=(*cluster.observed.claims, other))
    assert decided(cluster.observed).actions == ()


def test_a_stateful_set_that_cannot_be_updated_is_made_anew_without_its_pods() -> None:
    """Fields that an API server does not let change; the operator's own change waits for a slot as any other."""
    cluster = running()
    live = cluster.observed.stateful_set
    assert live is not None
    cluster.change(
        STATEFUL_SETS, spec={"serviceName": "other"}, metadata={"annotations": {APPLIED_HASH: "of an older version"}}
    )
    assert decided(cluster.observed, may_roll_out=False).actions == ()
    assert decided(cluster.observed).actions == (
        Delete(STATEFUL_SETS, "mesh", "alpha", live["metadata"]["uid"], orphan=True),
    )


SPECS = st.fixed_dictionaries(
    {},
    optional={
        "replicas": st.integers(0, 4),
        "port": st.integers(1, 65535),
        "image": st.sampled_from(["", "a:1", "b:2"]),
        "storage": st.sampled_from(
            [{"size": "1Gi"}, {"size": "1024Mi"}, {"size": "2Gi", "retention": {"whenScaled": "Delete"}}]
        ),
        "resources": st.sampled_from([{"limits": {"cpu": "1000m"}}, {"requests": {"memory": "0.5Gi"}}]),
        "env": st.lists(
            st.fixed_dictionaries({"name": st.sampled_from("AB"), "value": st.text("$(a", max_size=3)}), max_size=1
        ),
        "serviceAccount": st.just({"annotations": {"a": "b"}}),
        "type": st.sampled_from(["", "pure"]),
        "template": st.sampled_from(
            [
                {"nodeSelector": {"a": "b"}},
                {"containers": [{"name": "side", "image": "s"}], "volumes": [{"name": "v", "emptyDir": {}}]},
                {"terminationGracePeriodSeconds": 10, "topologySpreadConstraints": []},
            ]
        ),
    },
)
DRIFTS = st.sampled_from(
    [
        (STATEFUL_SETS, {"spec": {"replicas": 7}}),
        (STATEFUL_SETS, {"spec": {"template": {"spec": {"hostPID": True}}}}),
        (STATEFUL_SETS, {"spec": {"template": {"spec": {"containers": [{"name": "cell", "image": "evil"}]}}}}),
        (STATEFUL_SETS, {"spec": {"template": {"metadata": {"labels": {"cellmesh.dev/cell": "x"}}}}}),
        (STATEFUL_SETS, {"metadata": {"annotations": None}}),
        (SERVICES, {"spec": {"publishNotReadyAddresses": True}}),
        (SERVICE_ACCOUNTS, {"automountServiceAccountToken": True}),
        (SERVICE_ACCOUNTS, {"metadata": {"labels": None}}),
    ]
)


@given(specs=st.lists(SPECS, min_size=1, max_size=3), drift=DRIFTS)
@settings(max_examples=60, deadline=None)
def test_acting_on_a_decision_leaves_nothing_to_decide(specs: list[Object], drift: tuple[Resource, Object]) -> None:
    """From any spec to any other and after any drift: a few passes, then no action and no new status."""
    cluster = Cluster(specs[0])
    cluster.reconcile()
    for spec in specs[1:]:
        cluster.edit(spec)
        cluster.reconcile()
    cluster.change(drift[0], **drift[1])
    cluster.reconcile()
    after = decided(cluster.observed)
    assert after.actions == ()
    assert reported(cluster.observed.cell, after.status)
    assert conditions(after.status)["Ready"][0] == "True"
    wanted = decided(Cluster(specs[-1]).observed).actions
    assert {action.resource: applied_hash(action.body) for action in wanted if isinstance(action, Apply)}.items() >= {
        resource: applied_hash(live)
        for resource in CHILDREN
        if resource != STATEFUL_SETS and (live := getattr(cluster.observed, FIELDS[resource])) is not None
    }.items()


@given(spec=SPECS, drift=DRIFTS)
@settings(max_examples=20, deadline=None)
def test_deciding_changes_nothing_it_looks_at(spec: Object, drift: tuple[Resource, Object]) -> None:
    """What is observed stays as it is, and the same look gives the same decision."""
    cluster = Cluster(spec)
    cluster.reconcile()
    cluster.change(drift[0], **drift[1])
    before = copy.deepcopy(cluster.observed)
    assert decided(cluster.observed) == decided(cluster.observed)
    assert cluster.observed == before
