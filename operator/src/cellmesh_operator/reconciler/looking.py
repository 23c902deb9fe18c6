"""One look at a Cell: load what is observed, decide what should be, do it, report. All of it each time."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from cellmesh_operator.decisions import conditions, reasons
from cellmesh_operator.decisions import deciding as decisions
from cellmesh_operator.decisions.actions import (
    Action,
    Apply,
    BuildSettings,
    Decision,
    Delete,
    Notice,
    Observed,
    Remove,
    Scale,
)
from cellmesh_operator.errors import ApiError
from cellmesh_operator.kube.client import Client
from cellmesh_operator.naming import API_VERSION, CELLS, CHILDREN, KIND, STATEFUL_SETS
from cellmesh_operator.reconciler.metrics import Metrics
from cellmesh_operator.reconciler.noticing import Notices
from cellmesh_operator.reconciler.observing import Observer, belongs
from cellmesh_operator.reconciler.rollout import Rollout
from cellmesh_operator.reconciler.store import Key, Object, Store
from cellmesh_operator.reconciler.working import Outcome

#: Seconds until a Cell is looked at again that something of somebody else's keeps from going on.
STALLED_AGAIN: Final = 20.0

_log = logging.getLogger("cellmesh_operator.reconciler.looking")


class Reconciler:
    """Brings Cells and their children together.

    Args:
        client: writes.
        store: what is known; answers to our own writes go into it at once.
        observer: loads what is observed.
        rollout: slots for changes that come from the operator.
        notices: sends Events.
        metrics: counts writes.
        build: settings that go into children.
        wake: lets a Cell be looked at.
        clock: monotonic seconds.
        now: the time, RFC 3339 in UTC.

    """

    def __init__(
        self,
        client: Client,
        store: Store,
        observer: Observer,
        rollout: Rollout,
        notices: Notices,
        metrics: Metrics,
        build: BuildSettings,
        *,
        wake: Callable[[Key], None],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], str] | None = None,
    ) -> None:
        self._client = client
        self._store = store
        self._observer = observer
        self._rollout = rollout
        self._notices = notices
        self._metrics = metrics
        self._build = build
        self._wake = wake
        self._clock = clock
        self._now = now or _utc
        self._conditions: dict[Key, tuple[tuple[str, str], ...]] = {}

    def prepare(self) -> None:
        """Take over from a former life, once everything has been read: who is Ready, who was being rolled out."""
        for key, cell in self._cells():
            states = _states(cell.get("status") or {})
            self._conditions[key] = tuple((kind, state["status"]) for kind, state in states.items())
            ready, up_to_date = (_is_true(states, kind) for kind in (reasons.READY, reasons.UP_TO_DATE))
            self._rollout.saw(key, self._clock(), ready=ready, up_to_date=up_to_date)
            if up_to_date and not ready and _is_rolling(self._store.get(STATEFUL_SETS, key)):
                self._rollout.adopt(key, self._clock())

    def counts(self) -> Mapping[tuple[str, str], int]:
        """Return the number of Cells by condition and its status."""
        return Counter(pair for pairs in self._conditions.values() for pair in pairs)

    async def reconcile(self, key: Key) -> Outcome:
        """Look at a Cell once.

        Raises:
            ApiError: the API server refused a request that tells nothing about the Cell.
            ConnectionLost: it was not reached.

        """
        cell = self._store.get(CELLS, key)
        if cell is None or cell["metadata"].get("deletionTimestamp"):
            self._forget(key)
            return Outcome()
        observed = await self._observer.observe(key, cell)
        decision = self._decide(key, observed)
        errors = await self._act(key, decision.actions)
        status: Mapping[str, Any] = decision.status
        notices: Sequence[Notice] = decision.notices
        if errors and not errors[0][1].conflict:
            status = decisions.failed(observed, decision, errors, self._now())
            notices = [*notices, decisions.failure_notice(errors)]
        if not errors or not errors[0][1].conflict:
            await self._report(key, cell, status, notices)
            self._store.forget_departed(key, observed.departed)
        return self._outcome(key, status, decision, errors)

    def _decide(self, key: Key, observed: Observed) -> Decision:
        decision = decisions.decide(observed, self._build, may_roll_out=self._rollout.holds(key), now=self._now())
        if decision.from_operator and not self._rollout.holds(key) and self._rollout.acquire(key, self._clock()):
            decision = decisions.decide(observed, self._build, may_roll_out=True, now=self._now())
        return decision

    async def _act(self, key: Key, actions: Sequence[Action]) -> list[tuple[Action, ApiError]]:
        """Do what was decided; return what the API server refused. After a refusal the rest is not tried."""
        done: list[str] = []
        errors: list[tuple[Action, ApiError]] = []
        for action in actions:
            failed = True
            try:
                await self._do(action)
                failed = False
                done.append(_words(action))
            except ApiError as error:
                errors.append((action, error))
                if error.conflict and action.resource in CHILDREN:
                    # Another object of this name, or a state that we have not seen yet: look, then decide anew.
                    await self._observer.refresh(action.resource, _target(action))
                break
            finally:
                self._metrics.wrote(action.resource.plural, failed=failed)
        if done:
            _log.info("%s/%s: %s", *key, ", ".join(done))
        return errors

    async def _do(self, action: Action) -> None:
        namespace, name = _target(action)
        if isinstance(action, Delete):
            await self._client.delete(action.resource, namespace, name, uid=action.uid, orphan=action.orphan)
            await self._observer.refresh(action.resource, (namespace, name))
            return
        if isinstance(action, Apply):
            # Not by force where nothing was: should an object have come meanwhile, its fields are its maker's.
            written = await self._client.apply(
                action.resource, action.body, uid=action.uid, force=action.uid is not None
            )
        else:
            written = await self._client.patch(action.resource, namespace, name, action.patch)
        if belongs(written):
            self._store.put(action.resource, written)

    async def _report(self, key: Key, cell: Object, status: Mapping[str, Any], notices: Sequence[Notice]) -> None:
        """Write the status and send the notices that go with it, unless all of it has been said."""
        states = _states(status)
        self._conditions[key] = tuple((kind, state["status"]) for kind, state in states.items())
        if not conditions.reported(cell, status):
            metadata = {name: cell["metadata"][name] for name in ("name", "namespace")}
            body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "status": status}
            failed = True
            try:
                self._store.put(CELLS, await self._client.apply_status(CELLS, body, uid=cell["metadata"]["uid"]))
                failed = False
            except ApiError as error:
                if not error.not_found:
                    raise
                return  # It was deleted while it was looked at; the watch says so in a moment.
            finally:
                self._metrics.wrote("cells/status", failed=failed)
            for notice in notices:
                self._notices.tell(cell, notice)
        freed = self._rollout.saw(
            key,
            self._clock(),
            ready=_is_true(states, reasons.READY),
            up_to_date=_is_true(states, reasons.UP_TO_DATE),
        )
        for other in freed:
            self._wake(other)

    def _outcome(
        self, key: Key, status: Mapping[str, Any], decision: Decision, errors: Sequence[tuple[Action, ApiError]]
    ) -> Outcome:
        if errors:
            error = errors[0][1]
            if not error.conflict:
                _log.warning("%s/%s: the API server refused: %s", *key, error)
            return Outcome(failed=True, again=True, at_least=error.retry_after or 0.0)
        waits = [self._observer.again_in(key), self._rollout.again_in(key, self._clock())]
        if reasons.STALLED in _states(status):
            waits.append(STALLED_AGAIN)
        again_in = min((wait for wait in waits if wait is not None), default=None)
        # What others change again and again is set right later each time.
        return Outcome(again=bool(decision.changed), again_in=again_in)

    def _forget(self, key: Key) -> None:
        self._conditions.pop(key, None)
        self._observer.forget(key)
        for other in self._rollout.forget(key, self._clock()):
            self._wake(other)

    def _cells(self) -> list[tuple[Key, Object]]:
        found = ((key, self._store.get(CELLS, key)) for key in self._store.keys(CELLS))
        return [(key, cell) for key, cell in found if cell is not None]


def _target(action: Action) -> Key:
    if isinstance(action, Apply):
        metadata = action.body["metadata"]
        return metadata["namespace"], metadata["name"]
    return action.namespace, action.name


def _words(action: Action) -> str:
    if isinstance(action, Apply):
        return f"{action.resource.kind} {'set right' if action.changed else 'applied'}"
    if isinstance(action, Remove):
        return f"{action.resource.kind} set right"
    if isinstance(action, Delete):
        return f"{action.resource.kind} deleted"
    if isinstance(action, Scale):
        return f"{action.resource.kind} scaled to {action.replicas}"
    return f"claim {action.name} asked for {action.size}"


def _states(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {item["type"]: item for item in status.get("conditions") or ()}


def _is_true(states: Mapping[str, Mapping[str, Any]], kind: str) -> bool:
    return bool(states.get(kind, {}).get("status") == "True")


def _is_rolling(stateful_set: Object | None) -> bool:
    """Tell whether pods are still being replaced by others of a newer template."""
    if stateful_set is None:
        return False
    status = stateful_set.get("status") or {}
    if status.get("observedGeneration") != stateful_set["metadata"].get("generation"):
        return True
    return bool(status.get("currentRevision") != status.get("updateRevision"))


def _utc() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
