"""Watches of a test's own: pods as the API server tells them, peers as a replica of discovery does.

Both take the time when they hear of something, in this process: the times in a pod's conditions have whole seconds.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from apiserver.api import Refused
from e2e.releases import Release, is_ready
from e2e.spaces import Space


@dataclass(frozen=True)
class PodSeen:
    """A pod at a moment; ``last_words`` is what its cell said when it ended, if it has ended."""

    at: float
    name: str
    uid: str
    ready: bool
    leaving: bool
    gone: bool
    last_words: str = ""


@dataclass(frozen=True)
class PeersSeen:
    """The peers of a mesh at a moment: uids by instance."""

    at: float
    peers: dict[str, str]


class Watch:
    """A thread that looks until it is told to stop."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException, Refused):
                self.look()
                continue
            self._stopping.wait(0.1)  # the other side is away: that may be what is tested

    def look(self) -> None:
        """Look once, for as long as it lasts."""
        raise NotImplementedError


class PodWatch(Watch):
    """Watches the pods of a namespace that belong to Cells."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self._space = space
        self.namespace = space.name
        self.seen: list[PodSeen] = []

    def look(self) -> None:
        """Watch from now on."""
        api, namespace = self._space.cluster.api, self._space.name
        with api.watch("pods", namespace, timeout=60, labelSelector="cellmesh.dev/cell") as events:
            for event in events:
                at, pod = time.time(), event["object"]
                if event["type"] not in {"ADDED", "MODIFIED", "DELETED"}:
                    return
                metadata = pod["metadata"]
                gone = event["type"] == "DELETED"
                leaving = "deletionTimestamp" in metadata
                ready = is_ready(pod) and not gone
                said = _last_words(pod)
                self.seen.append(PodSeen(at, metadata["name"], metadata["uid"], ready, leaving, gone, said))
                if self._stopping.is_set():
                    return

    @staticmethod
    def now() -> float:
        """Return the time as this watch takes it: seconds since the epoch."""
        return time.time()

    def first(self, wanted: Callable[[PodSeen], bool]) -> PodSeen | None:
        """Return the first sight of a pod that is as wanted."""
        return next((seen for seen in list(self.seen) if wanted(seen)), None)

    def unready(self, prefix: str, until: float) -> Iterator[tuple[float, float]]:
        """Return the spans of time, begin and end, in which no pod of a cell was ready."""
        ready: set[str] = set()
        since: float | None = None
        for seen in list(self.seen):
            if seen.name.rpartition("-")[0] != prefix:
                continue
            before = bool(ready)
            (ready.add if seen.ready else ready.discard)(seen.uid)
            if before and not ready:
                since = seen.at
            elif ready and since is not None:
                yield since, seen.at
                since = None
        if since is not None:
            yield since, until


def _last_words(pod: dict[str, Any]) -> str:
    ended = [one.get("state", {}).get("terminated") or {} for one in pod["status"].get("containerStatuses", [])]
    return "".join(str(one.get("message") or "") for one in ended)


class PeersWatch(Watch):
    """Follows the peers of a mesh at one replica of discovery."""

    def __init__(self, release: Release, mesh: str, pod: str) -> None:
        super().__init__()
        self._release = release
        self._mesh = mesh
        self._version = ""
        self.pod = pod
        self.seen: list[PeersSeen] = []

    def look(self) -> None:
        """Wait for something newer."""
        path = f"/peers?version={self._version}&wait=5s" if self._version else "/peers"
        answer = self._release.ask_discovery(self._mesh, path, pod=self.pod)
        at = time.time()
        if answer.status != 200:
            raise OSError(f"discovery answers {answer.status}")
        if answer.json["version"] != self._version:
            self._version = answer.json["version"]
            self.seen.append(PeersSeen(at, {peer["instance"]: peer["uid"] for peer in answer.json["peers"]}))

    def appeared(self, uid: str) -> float | None:
        """Return when an instance was first seen among the peers."""
        return next((seen.at for seen in list(self.seen) if uid in seen.peers.values()), None)

    def vanished(self, uid: str) -> float | None:
        """Return when an instance that had been seen was not any more."""
        there = False
        for seen in list(self.seen):
            if uid in seen.peers.values():
                there = True
            elif there:
                return seen.at
        return None


@contextlib.contextmanager
def watched(space: Space) -> Iterator[tuple[PodWatch, list[PeersWatch]]]:
    """Watch a namespace's pods, and its peers at every replica of discovery."""
    with contextlib.ExitStack() as stack:
        pods = stack.enter_context(PodWatch(space))
        peers = [
            stack.enter_context(PeersWatch(space.release, space.name, pod["metadata"]["name"]))
            for pod in space.release.pods("discovery")
        ]
        yield pods, peers


def stay(seconds: float) -> None:
    """Let time pass: for an outage of a certain length, which is what is tested, and never to wait for something."""
    threading.Event().wait(seconds)


def percentiles(values: list[float]) -> str:
    """Return p50, p99 and the largest of some times in seconds, as text."""
    if not values:
        return "none"
    ordered = sorted(values)
    p50, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * q))] for q in (0.5, 0.99))
    return f"p50={p50:.3f} s p99={p99:.3f} s max={ordered[-1]:.3f} s of {len(ordered)}"
