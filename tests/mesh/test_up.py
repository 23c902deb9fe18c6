"""`cellmesh up` with real processes: start, restart, end, and what a second one finds."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cellmesh.cli import http
from support import eventually, free_port

pytestmark = pytest.mark.mesh

#: Seconds that anything may take on a busy machine; ordinarily it is a second or two.
LONG = 60.0
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("CELLMESH_")}


def cellmesh(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [sys.executable, "-m", "cellmesh", *arguments]
    return subprocess.run(command, env=ENVIRON, capture_output=True, text=True, timeout=LONG, check=False)


def cell(name: str, port: int, **spec: Any) -> dict[str, Any]:
    """Return a Cell as data."""
    spec = {"port": port, **spec}
    return {"apiVersion": "cellmesh.dev/v1alpha1", "kind": "Cell", "metadata": {"name": name}, "spec": spec}


class Up:
    """A `cellmesh up --json`, with its events."""

    def __init__(self, folder: Path, *cells: dict[str, Any], data: Path, discovery: int | None = None) -> None:
        manifest = folder / f"cells-{free_port()}.yaml"
        manifest.write_text("\n---\n".join(json.dumps(one) for one in cells))
        self.discovery = f"http://127.0.0.1:{discovery or free_port()}"
        command = [sys.executable, "-m", "cellmesh", "up", "-f", str(manifest), "--data-dir", str(data), "--json"]
        self.log = manifest.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--discovery-port", self.discovery.rpartition(":")[2]],
                env=ENVIRON,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # As from a terminal: where tests run under nohup, a hangup is ignored, and that is inherited.
                preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # noqa: PLW1509 - before any thread
            )
        self.events: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def event(self, kind: str, instance: str | None = None, *, number: int = 1) -> dict[str, Any]:
        """Wait for an event, the ``number``-th of its kind, and return it."""

        def look() -> dict[str, Any] | None:
            found = [one for one in self.events if one["event"] == kind and one.get("instance") == instance]
            assert self.process.poll() is None or len(found) >= number, f"ended: {self.log.read_text()[-2000:]}"
            return found[number - 1] if len(found) >= number else None

        found = eventually(look, within=LONG, message=f"event {kind} of {instance}")
        assert found is not None
        return found

    def url(self, instance: str) -> str:
        """Return where an instance is, as last told."""
        return str([one for one in self.events if one["event"] == "ready" and one["instance"] == instance][-1]["url"])

    def pids(self) -> list[int]:
        """Return every process that was started."""
        return [one["pid"] for one in self.events if one["event"] == "started"]

    def pid(self, instance: str) -> int:
        """Return the process of an instance that was started last."""
        return int([one for one in self.events if one["event"] == "started" and one["instance"] == instance][-1]["pid"])

    def wait(self) -> int:
        """Return the exit code, once it has ended."""
        code = self.process.wait(LONG)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal; return the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def send(self, sender: str, receiver: str, message_id: str) -> http.Answer:
        """Have a cell send a message."""
        body = {"to_cell": receiver, "message_id": message_id, "payload": {"text": "hi"}, "ttl": 0}
        return http.request("POST", f"{self.url(f'{sender}-0')}/send", who=sender, body=body, timeout=LONG)

    def ids(self, instance: str) -> list[str]:
        """Return the ids of the messages in an inbox."""
        return [one["message_id"] for one in http.get(f"{self.url(instance)}/messages", who=instance)["messages"]]


Start = Callable[..., Up]


def alive(pids: list[int]) -> list[int]:
    """Return those that run; a process that nobody has waited for yet does not."""
    running = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                running.append(pid)
        except psutil.NoSuchProcess:
            continue
    return running


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts `cellmesh up` with alpha and pure, or with other Cells."""
    started: list[Up] = []

    def run(*cells: dict[str, Any], **options: Any) -> Up:
        cells = cells or (cell("alpha", free_port()), cell("pure", free_port()))
        started.append(Up(tmp_path, *cells, **{"data": tmp_path / "data", **options}))
        return started[-1]

    yield run
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.wait()
        for pid in alive(one.pids()):
            os.kill(pid, signal.SIGKILL)


def test_messages_go_both_ways(start: Start) -> None:
    """What one cell sends is in the other's inbox."""
    up = start()
    up.event("up")

    assert (up.send("alpha", "pure", "to-pure").status, up.send("pure", "alpha", "to-alpha").status) == (200, 200)
    assert (up.ids("pure-0"), up.ids("alpha-0")) == (["to-pure"], ["to-alpha"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_everything_in_order(start: Start, number: signal.Signals) -> None:
    """Exit code 0, no process left, cells before discovery, nobody killed."""
    up = start()
    up.event("up")

    assert up.end(number) == 0
    assert alive(up.pids()) == []
    stopped = [(one["instance"], one.get("code")) for one in up.events if one["event"] == "stopped"]
    assert {name for name, _ in stopped[:2]} == {"alpha-0", "pure-0"}
    assert stopped[2] == ("discovery", 0)


def test_a_cell_that_has_stopped_in_order_ends_with_code_0(start: Start) -> None:
    """The end of a cell is no crash."""
    up = start()
    up.event("up")
    up.end()

    assert [one.get("code") for one in up.events if one["event"] == "stopped"] == [0, 0, 0]


def test_a_signal_while_it_starts_leaves_no_process(start: Start) -> None:
    """At any moment."""
    up = start()
    up.event("started", "alpha-0")

    assert up.end() == 0
    assert alive(up.pids()) == []


def test_nothing_survives_a_sigkill(start: Start) -> None:
    """Children notice by themselves that their parent is gone."""
    up = start()
    up.event("up")
    pids = up.pids()

    up.end(signal.SIGKILL)

    eventually(lambda: not alive(pids), within=LONG, message="children to end")


def test_a_second_signal_does_not_wait_for_anyone(start: Start) -> None:
    """A process that hangs is killed."""
    up = start()
    up.event("up")
    os.kill(up.pid("pure-0"), signal.SIGSTOP)
    up.process.send_signal(signal.SIGINT)
    up.event("stopped", "alpha-0")

    assert up.end(signal.SIGINT) == 0
    assert alive(up.pids()) == []
    assert next(one for one in up.events if one["event"] == "stopped" and one["instance"] == "pure-0")["signal"] == 9


def test_a_killed_cell_comes_back_with_its_messages(start: Start) -> None:
    """On its port, told event by event."""
    up = start()
    up.event("up")
    up.send("alpha", "pure", "before")

    os.kill(up.pid("pure-0"), signal.SIGKILL)

    assert up.event("exited", "pure-0")["signal"] == 9
    assert up.event("restarting", "pure-0")["after"] == 0.5
    first, again = up.event("ready", "pure-0"), up.event("ready", "pure-0", number=2)
    assert again["url"] == first["url"]
    assert up.send("alpha", "pure", "after").status == 200
    assert up.ids("pure-0") == ["before", "after"]


def test_a_killed_discovery_comes_back_and_messages_flow_meanwhile(start: Start) -> None:
    """Cells go on with whom they know."""
    up = start()
    up.event("up")
    up.send("alpha", "pure", "before")
    os.kill(up.pid("discovery"), signal.SIGKILL)
    up.event("exited", "discovery")

    assert up.send("alpha", "pure", "meanwhile").status == 200
    up.event("ready", "discovery", number=2)
    assert up.send("alpha", "pure", "after").status == 200


def test_a_second_up_finds_the_messages_of_the_first(start: Start) -> None:
    """Inboxes outlive their processes."""
    cells = (cell("alpha", free_port()), cell("pure", free_port()))
    first = start(*cells)
    first.event("up")
    first.send("alpha", "pure", "kept")
    first.end()

    second = start(*cells)
    second.event("up")

    assert second.ids("pure-0") == ["kept"]


def test_a_second_up_on_the_same_ports_starts_nothing(start: Start) -> None:
    """Every port is named with its owner."""
    cells = (cell("alpha", free_port()), cell("pure", free_port()))
    first = start(*cells)
    first.event("up")

    second = start(*cells, discovery=int(first.discovery.rpartition(":")[2]))

    assert second.wait() == 1
    assert second.events == []
    owners = [line.split()[4:6] for line in second.log.read_text().splitlines()]
    assert owners == [["discovery", "on"], ["Cell", "alpha"], ["Cell", "pure"]]


def test_a_second_up_on_the_same_data_is_refused(start: Start) -> None:
    """The first one's inboxes are its own; the reason is told."""
    first = start()
    first.event("up")

    second = start()

    assert second.wait() == 1
    failed = [one for one in second.events if one["event"] == "failed" and "instance" in one]
    assert {one["instance"] for one in failed} == {"alpha-0", "pure-0"}
    assert all("is in use by another process" in one["last_lines"][-1] for one in failed)
    assert alive(second.pids()) == []
    assert first.send("alpha", "pure", "unharmed").status == 200


def test_one_cell_with_foreign_data_does_not_take_the_others_down(start: Start, tmp_path: Path) -> None:
    """It is not restarted, the rest of the mesh runs, and what is missing is told."""
    folder = tmp_path / "data" / "default" / "alpha-0"
    folder.mkdir(parents=True)
    (folder / "inbox.db").write_text("my diary" * 100)

    up = start()

    assert "it was not touched" in up.event("failed", "alpha-0")["last_lines"][-1]
    assert up.event("incomplete")["missing"] == ["alpha-0"]
    assert up.ids("pure-0") == []
    assert (folder / "inbox.db").read_text() == "my diary" * 100


def test_every_instance_has_a_port_and_an_inbox_of_its_own(start: Start, tmp_path: Path) -> None:
    """The first has the port of the manifest, the others are found through discovery."""
    port = free_port()
    up = start(cell("alpha", port, replicas=3))
    urls = up.event("up")["instances"]

    assert urls["alpha-0"] == f"http://127.0.0.1:{port}"
    assert len(set(urls.values())) == 3
    assert [http.get(f"{urls[f'alpha-{n}']}/health", who="alpha")["instance"] for n in range(3)] == [
        "alpha-0",
        "alpha-1",
        "alpha-2",
    ]
    assert sorted(path.parent.name for path in (tmp_path / "data" / "default").glob("*/inbox.db")) == sorted(urls)


def test_fields_that_need_a_cluster_are_taken_and_told_once(start: Start) -> None:
    """The manifest of a cluster runs here as it is; what it cannot have here is said in one line."""
    up = start(cell("alpha", free_port(), image="registry.example/alpha:1", storage={"size": "2Gi"}))
    up.event("up")

    (told,) = [one for one in up.events if one["event"] == "unused"]
    assert told["text"] == "Cell alpha: has an effect in a cluster only: spec.image, spec.storage"
    assert (told["cell"], told["fields"]) == ("alpha", ["spec.image", "spec.storage"])


def test_a_handler_that_is_not_started_is_told(start: Start) -> None:
    """The container is left out, and where the user's own program has to listen is said."""
    containers = [{"name": "handler", "image": "registry.example/handler:1"}]
    up = start(cell("alpha", free_port(), handler={"port": 9, "path": "/x"}, template={"containers": containers}))
    up.event("up")

    (told,) = [one for one in up.events if one["event"] == "handler"]
    assert (told["cell"], told["url"]) == ("alpha", "http://127.0.0.1:9/x")
    assert "run its handler yourself" in told["text"]
    assert [one["fields"] for one in up.events if one["event"] == "unused"] == [["spec.template"]]


def test_the_code_of_a_cell_is_found_beside_its_manifest(start: Start, tmp_path: Path) -> None:
    """Whatever the current directory; code that cannot be loaded takes no other cell down, and its line is told."""
    (tmp_path / "up_words.py").write_text(
        "from cellmesh import Cell\ncell = Cell()\n"
        "@cell.on()\ndef count(message):\n    return {'words': len(message.payload['text'].split())}\n"
    )
    (tmp_path / "up_broken.py").write_text("\nnonsense\n")
    up = start(
        cell("alpha", free_port()),
        cell("pure", free_port(), app="up_words:cell"),
        cell("broken", free_port(), app="up_broken:cell"),
    )
    failed = up.event("failed", "broken-0")
    assert any("NameError" in line and "up_broken.py line 2" in line for line in failed["last_lines"])
    up.event("ready", "alpha-0")
    up.event("ready", "pure-0")
    body = {"to_cell": "pure", "payload": {"text": "a b c"}, "await_reply": 20}
    answer = http.request("POST", f"{up.url('alpha-0')}/send", who="alpha", body=body, timeout=LONG)
    assert answer.body["reply"]["payload"] == {"words": 3}


def test_a_variable_that_only_a_cluster_has_starts_nothing(start: Start) -> None:
    """Rather than a cell without the Secret it needs."""
    secret = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    up = start(cell("alpha", free_port(), env=[secret]))

    assert up.wait() == 1
    assert up.events == []
    assert "spec.env[0].valueFrom.secretKeyRef: there are no Secrets on this machine" in up.log.read_text()


def test_an_instance_on_any_port_comes_back_on_another(start: Start) -> None:
    """Its new port is found although discovery may still tell the old one."""
    up = start(cell("alpha", free_port(), replicas=2))
    up.event("up")
    os.kill(up.pid("alpha-1"), signal.SIGKILL)
    again = up.event("ready", "alpha-1", number=2)

    assert http.get(f"{again['url']}/health", who="alpha-1")["instance"] == "alpha-1"


def test_the_commands_work_on_a_real_mesh(start: Start, tmp_path: Path) -> None:
    """Send, messages, peers, top and backup, each against the real thing."""
    up = start()
    up.event("up")
    there = ("--discovery", up.discovery)

    sent = cellmesh("send", "alpha", "pure", "--payload", '{"n": 1}', "--id", "m-1", *there)
    shown = cellmesh("messages", "pure", "--json", *there)
    peers = cellmesh("peers", "--json", *there)
    top = cellmesh("top", "--once", "--interval", "0.1", "--json", *there)
    copied = cellmesh("backup", "pure", str(tmp_path / "copy.db"), "--data-dir", str(tmp_path / "data"))

    assert sent.stdout == f"delivered m-1 to pure at {up.url('pure-0')}/message\n"
    assert [json.loads(line)["payload"] for line in shown.stdout.splitlines()] == [{"n": 1}]
    assert [peer["instance"] for peer in json.loads(peers.stdout)["peers"]] == ["alpha-0", "pure-0"]
    rows = {row["instance"]: row for row in json.loads(top.stdout)["instances"]}
    assert (rows["pure-0"]["status"], rows["pure-0"]["pending"], rows["pure-0"]["dead"]) == ("ok", 1, 0)
    assert (rows["alpha-0"]["pending"], rows["alpha-0"]["sent_per_second"]) == (0, 0.0)
    assert copied.returncode == 0, copied.stderr


def test_a_backup_taken_from_a_running_cell_can_be_put_back(start: Start, tmp_path: Path) -> None:
    """A cell started with it has the messages of that moment."""
    up = start()
    up.event("up")
    up.send("alpha", "pure", "kept")
    copied = cellmesh("backup", "pure-0", str(tmp_path / "copy.db"), "--data-dir", str(tmp_path / "data"))
    assert copied.returncode == 0, copied.stderr
    up.send("alpha", "pure", "too late")
    up.end()
    folder = tmp_path / "restored" / "default" / "pure-0"
    folder.mkdir(parents=True)
    (tmp_path / "copy.db").rename(folder / "inbox.db")

    again = start(data=tmp_path / "restored")
    again.event("up")

    assert again.ids("pure-0") == ["kept"]


def test_a_send_to_a_cell_that_is_not_there_says_which_are(start: Start) -> None:
    """The cell's own answer is passed on, in one line."""
    up = start()
    up.event("up")

    result = cellmesh("send", "alpha", "nobody", "--timeout", "30", "--discovery", up.discovery)

    assert result.returncode == 1
    assert result.stderr.startswith("cellmesh: not delivered: ")
    assert "(unknown_cell)" in result.stderr
    assert "it was not stored anywhere" in result.stderr


def test_the_demo_shows_both_directions_and_ends(tmp_path: Path) -> None:
    """It succeeds, and again on the same data."""
    arguments = ("demo", "--exit", "--any-ports", "--data-dir", str(tmp_path))

    for _ in range(2):
        result = cellmesh(*arguments)
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        assert "Both directions work." in result.stdout


def test_a_demo_whose_ports_are_taken_says_how_to_choose_others(tmp_path: Path) -> None:
    """Nothing is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = cellmesh("demo", "--exit", "--discovery-port", port, "--data-dir", str(tmp_path / "data"))

    assert result.returncode == 1
    assert f"port {port} of discovery on 127.0.0.1 is in use by another program" in result.stderr
    assert "--any-ports" in result.stderr
    assert not (tmp_path / "data").exists()


def test_plain_output_says_what_is_where(tmp_path: Path) -> None:
    """States are lines on standard output; what the processes write is on standard error, with their names."""
    (tmp_path / "cells.yaml").write_text(json.dumps(cell("alpha", 8000)))
    command = [sys.executable, "-m", "cellmesh", "up", "--any-ports"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRON, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or not lines[-1].startswith("the mesh is up: 1 instance, discovery at "):
            lines.append(process.stdout.readline())
            assert lines[-1], "it ended"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=LONG)

    assert process.returncode == 0
    assert any(line.startswith("alpha-0    ready  http://127.0.0.1:") for line in lines)
    assert all(line.split(" | ")[0].strip() in {"alpha-0", "discovery"} for line in errors.splitlines())
