"""The writers of a run's ledger, in the client pod, and what they have written so far, here."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from chaos.ledger import Attempt, Begun, Gone, Handed, Return, parse
from chaos.streams import Stream
from e2e.chaos.cells import ROLES, Cells, Role
from e2e.client_pod import ClientPod

STREAMS = (
    Stream(3, "pure"),
    Stream(1, "pure", "pure-0"),
    Stream(1, "pure", "pure-1"),
    Stream(3, "solo"),
    Stream(3, "light"),
    Stream(2, "pure", queued=True),
    Stream(1, "pure", queued=True, conversations=3),
    Stream(1, "pure", "pure-0", queued=True),
    Stream(2, "solo", queued=True),
    Stream(2, "light", queued=True),
    # A cell that there is not: waited for, and in the end given up.
    Stream(1, "nobody", queued=True, ttl=10.0),
)
#: Consumers, and whose inbox each consumes.
CONSUMERS = {"eater-0": "pure-0", "eater-1": "pure-1", "eater-2": "solo-0", "eater-3": "solo-0", "eater-4": "light-0"}
#: Instances with one consumer, to whom messages are sent that kill it; in turn.
DEADLY = ("pure-0", "pure-1")
#: Seconds that a writer may take to end: what is unanswered is sent again, what is queued is looked up.
FINISHING = 300.0
#: Characters of one file that are so many that there may be more.
MUCH = 1_000_000


class Flow:
    """Messages that flow through the mesh of a run.

    Args:
        client: the client pod.
        cells: the mesh.
        run: name of the run.
        directory: where the ledger is brought to.

    """

    def __init__(self, client: ClientPod, cells: Cells, run: str, directory: Path) -> None:
        self.directory = directory
        self._client = client
        self._cells = cells
        self._run = run
        self._offsets: dict[str, int] = {}
        self._running: list[str] = []
        #: Attempts so far, in the order of their end, and which cell the message of each was for.
        self.attempts: list[Attempt] = []
        self._receivers: dict[int, str] = {}
        self._gone: Counter[str] = Counter()
        self._work: dict[str, list[Handed | Return]] = {name: [] for name in CONSUMERS}

    @property
    def _there(self) -> str:
        return f"/runs/{self._run}-ledger"

    def start(self, seed: int, rate: float, streams: Sequence[Stream] = STREAMS) -> None:
        """Start the load and the reader.

        Args:
            seed: of the messages.
            rate: messages a second.
            streams: what is sent.

        """
        self._client.make(self._there)
        given = json.dumps([asdict(stream) for stream in streams])
        self._launch("read", ROLES)
        self._launch("keep", ROLES, f"--seed={seed}", f"--consumers={json.dumps(CONSUMERS)}")
        self._launch("load", ROLES, f"--seed={seed}", f"--rate={rate:g}", f"--streams={given}", "--deadly", *DEADLY)

    def stop(self) -> dict[str, int]:
        """Have no more messages begun; return when each has been acknowledged or given up, and nobody writes.

        Returns:
            messages that consumers have left, by instance.

        """
        self._finish("load")
        of = sorted({*CONSUMERS.values()})
        left: dict[str, int] = json.loads(self._client.run("flow.py", *self._arguments("settled", ROLES), "--of", *of))
        self._finish("keep")
        self._finish("read")
        self.pull()
        return left

    def kill(self, consumer: str) -> None:
        """Kill a consumer."""
        self._client.kill(f"{self._there}/{consumer}.pid", "KILL")

    def send_deadly(self) -> None:
        """Have a message sent whose handling kills the consumer."""
        self._client.kill(f"/runs/{self._name('load')}.pid", "USR1")

    def deaths(self, consumer: str) -> int:
        """Return how many lives of a consumer have ended."""
        self.pull()
        return self._gone[consumer]

    def acked(self, consumer: str, since: float) -> float | None:
        """Return when a consumer had an ack taken that it asked for since a moment; None: it had none."""
        acks = (one for one in self._work[consumer] if isinstance(one, Return) and one.action == "ack")
        return min((one.ended for one in acks if one.status == 200 and one.began >= since), default=None)

    def held(self, consumer: str, at: float) -> int:
        """Return how many messages a consumer held at a moment: handed to it, and not given back."""
        handed = {one.token for one in self._work[consumer] if isinstance(one, Handed) and one.ended <= at}
        given = {
            one.token for one in self._work[consumer] if isinstance(one, Return) and one.status > 0 and one.ended <= at
        }
        return len(handed - given)

    def inspect(self, roles: Sequence[Role]) -> None:
        """Read the inboxes of these instances to the end, for the last time."""
        self._client.run("flow.py", *self._arguments("inspect", roles))
        self.pull()

    def pull(self) -> None:
        """Bring what has been written since the last time."""
        size = MUCH
        while size >= MUCH:
            found = json.loads(self._client.run("pull.py", self._there, json.dumps(self._offsets)))
            size = max(map(len, found.values()), default=0)
            for name, text in found.items():
                self._offsets[name] = self._offsets.get(name, 0) + len(text.encode())
                with (self.directory / name).open("a") as file:
                    file.write(text)
                self._take(name, text)

    def output(self) -> str:
        """Return what the writers have said, for the report of a failure."""
        return "\n".join(f"{name}: {self._client.read(name)[-2000:]}" for name in self._running)

    def _take(self, name: str, text: str) -> None:
        writer = name.partition(".")[0]
        if writer == "load":
            for record in parse(text, name):
                if isinstance(record, Begun) and not record.queued:
                    self._receivers[record.number] = record.to_cell
                elif isinstance(record, Attempt):
                    self.attempts.append(record)
        elif writer == "keeper":
            self._gone.update(one.consumer.partition(".")[0] for one in parse(text, name) if isinstance(one, Gone))
        elif writer in CONSUMERS:
            self._work[writer] += [one for one in parse(text, name) if isinstance(one, Handed | Return)]

    def concerns(self, attempt: Attempt, instances: Sequence[str]) -> bool:
        """Tell whether an attempt was by one of these instances, or for it as far as is known; none: any attempt."""
        if not instances or {attempt.entry, attempt.instance} & {*instances}:
            return True
        cells = {self._cells.roles[name].cell for name in instances}
        return not attempt.acknowledged and self._receivers.get(attempt.number) in cells

    def in_flight(self, instances: Sequence[str], began: float, ended: float) -> int:
        """Return how many attempts that concern these instances were under way within a span of time."""
        return sum(1 for one in self._since(began) if one.began < ended and self.concerns(one, instances))

    def acknowledged(self, instance: str, since: float, by: str = "") -> float | None:
        """Return when something begun since a moment was acknowledged first; None: nothing was.

        Args:
            instance: that has sent it or has acknowledged it.
            since: seconds since the epoch.
            by: the sender, if it matters.

        """
        times = [
            one.ended
            for one in self._since(since)
            if one.acknowledged
            and one.began >= since
            and instance in {one.entry, one.instance}
            and by in {"", one.entry}
        ]
        return min(times, default=None)

    def _since(self, moment: float) -> Iterator[Attempt]:
        """Return the attempts that ended after a moment. They are in the order of their end."""
        return itertools.takewhile(lambda one: one.ended > moment, reversed(self.attempts))

    def _name(self, what: str) -> str:
        return f"{self._run}-{what}"

    def _launch(self, what: str, roles: Sequence[Role], *more: str) -> None:
        self._client.launch(self._name(what), "flow.py", *self._arguments(what, roles), *more)
        self._running.append(self._name(what))

    def _finish(self, what: str) -> None:
        said = self._client.finish(self._name(what), FINISHING)
        assert not said.strip(), f"{what}: {said[-2000:]}"
        self._running.remove(self._name(what))

    def _arguments(self, what: str, roles: Sequence[Role]) -> list[str]:
        told = [
            {
                "instance": role.instance,
                "cell": role.cell,
                "namespace": (self._cells.other if role.elsewhere else self._cells.space).name,
                "pod": role.pod,
                "sends": role.sends,
            }
            for role in roles
        ]
        discovery = self._cells.release.mesh_url("").removesuffix("/meshes/")
        given = {"run": self._run, "ledger": self._there, "discovery": discovery, "roles": json.dumps(told)}
        return [what, *(f"--{name}={value}" for name, value in given.items())]
