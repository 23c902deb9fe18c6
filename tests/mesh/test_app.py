"""The code of a cell in its process: asked, stopped, killed, and started wrong."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from processes import Cell, Mesh, mesh
from support import eventually

pytestmark = pytest.mark.mesh

APP = """
import asyncio, os, signal, time
from pathlib import Path
from cellmesh import Cell, Message, Reject

cell = Cell("named-in-code", services=["from-code"], type="from-code")

@cell.on("query")
async def count(message: Message):
    return {"words": len(message.payload["text"].split()), "delivery": message.delivery_count}

@cell.on("sync")
def count_in_a_thread(message: Message):
    return {"words": len(message.payload["text"].split())}

@cell.on("forward")
def forward(message: Message):
    reply = cell.wait(cell.ask(message.payload["to"], "query", {"text": "a b c"}))
    return {"said": reply.payload, "by": reply.from_cell}

@cell.on("command")
async def slow(message: Message):
    mark(message, "begun")
    while not Path(message.payload["until"]).exists():
        await asyncio.sleep(0.01)
    mark(message, "done")
    return {"slept": True}

@cell.on("kill")
def kill(message: Message):
    mark(message, "begun")
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)

@cell.on("nap")
async def nap(message: Message):
    mark(message, "nap begun")
    await asyncio.sleep(1)

@cell.on("order")
async def order(message: Message):
    raise Reject("no such thing")

def mark(message, what):
    with open(message.payload["log"], "a") as log:
        log.write(f"{what} {message.delivery_count}\\n")

@cell.on_start
async def started():
    print("on_start", flush=True)

@cell.on_stop
def stopped():
    print("on_stop", flush=True)
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the app in it."""
    directory = tmp_path_factory.mktemp("mesh")
    (directory / "app_of_test.py").write_text(APP)
    return directory


@pytest.fixture(scope="module")
def running(directory: Path) -> Iterator[Mesh]:
    """Run alpha, which has no code, and two cells with the app."""
    with mesh(directory, "alpha") as cells:
        for name in ("pure", "other"):
            cells.add(name, **settings(directory))
        yield cells


def settings(directory: Path, **more: str) -> dict[str, str]:
    """Return the settings of a cell with the app."""
    return {"app": "app_of_test:cell", "app_dir": str(directory), "drain_accept": "0"} | more


def lines(file: Path) -> list[str]:
    """Return what handlers wrote."""
    return file.read_text().splitlines() if file.exists() else []


def has(cell: Cell, message_id: str, **wanted: Any) -> bool:
    """Tell whether a cell has a message with these fields."""
    found = cell.get(f"/messages/{message_id}").json
    return all(found.get(name) == value for name, value in wanted.items())


def test_a_handler_answers_who_asks(running: Mesh) -> None:
    """Expect its return value as the reply, from a coroutine and from a thread; the message consumed."""
    for message_type, message_id in (("query", "ask-1"), ("sync", "ask-2")):
        answer = running["alpha"].send(
            "pure", message_type=message_type, payload={"text": "a b"}, await_reply=20, message_id=message_id
        )
        assert answer.status == 200, answer
        reply = answer.json["reply"]
        assert reply["payload"]["words"] == 2
        assert (reply["from_cell"], reply["reply_to"], reply["message_type"]) == ("pure", message_id, "reply")
        eventually(lambda name=message_id: has(running["pure"], name, state="consumed"), within=10)  # type: ignore[misc]


def test_a_handler_can_ask_others(running: Mesh) -> None:
    """Expect an answer through two cells, and none to the reply in between."""
    answer = running["alpha"].send("other", message_type="forward", payload={"to": "pure"}, await_reply=20)
    assert answer.status == 200, answer
    assert answer.json["reply"]["payload"] == {"said": {"words": 3, "delivery": 1}, "by": "pure"}


def test_what_peers_are_told_is_what_the_code_says_where_settings_say_nothing(running: Mesh) -> None:
    """Expect the name of the settings, the services of the code."""
    peer = running.discovery.peers()["pure-0"]
    assert (peer["cell_id"], peer["services"], peer["type"]) == ("pure", ["from-code"], "from-code")


def test_a_type_without_a_handler_stays_for_consumers(running: Mesh) -> None:
    """Expect it pending, and handed out to whoever asks for it."""
    assert running["alpha"].send("pure", message_type="unhandled", message_id="free").status == 200
    leased = running["pure"].post("/messages/lease", {"types": ["unhandled"]}).json
    assert [message["message_id"] for message in leased["messages"]] == ["free"]


def test_a_rejected_message_is_a_dead_letter(running: Mesh) -> None:
    """Expect the author's reason with it, and a line in the log without a stack trace."""
    assert running["alpha"].send("pure", message_type="order", message_id="bad-order").status == 200
    eventually(lambda: has(running["pure"], "bad-order", state="dead", reason="rejected"), within=10)
    history = running["pure"].get("/messages/bad-order").json["history"]
    assert "no such thing" in {step.get("reason") for step in history}
    log = running["pure"].log.read_text()
    assert "no such thing" in log
    assert "Traceback" not in log


def test_at_sigterm_a_handler_finishes_and_its_reply_arrives(running: Mesh, directory: Path) -> None:
    """Expect the process to wait for it, to take no more, and to call on_stop at the end."""
    cell = running.add("stopped", **settings(directory))
    log, until = directory / "stopped.txt", directory / "stopped.until"
    payload = {"until": str(until), "log": str(log)}
    sender = running["alpha"]
    sent = sender.send("stopped", message_type="command", payload=payload, message_id="first", ttl=0)
    assert sent.status == 200, sent
    eventually(lambda: lines(log) == ["begun 1"], within=10)
    cell.signal(signal.SIGTERM)
    eventually(lambda: "is stopping" in cell.log.read_text(), within=10)
    until.touch()
    assert cell.wait() == 0
    assert lines(log) == ["begun 1", "done 1"]
    written = cell.log.read_text()
    assert written.index("on_start") < written.index("is stopping") < written.index("on_stop")
    eventually(
        lambda: [m for m in sender.messages()["messages"] if m.get("reply_to") == "first"],
        within=10,
        message="the reply to arrive",
    )


def test_a_handler_that_outlasts_the_drain_is_not_counted_as_a_delivery(running: Mesh, directory: Path) -> None:
    """Expect its message handed back, and handed out for the first time after the restart."""
    cell = running.add("drained", **settings(directory, drain_timeout="0.5"))
    log, until = directory / "drained.txt", directory / "drained.until"
    payload = {"until": str(until), "log": str(log)}
    assert (
        running["alpha"].send("drained", message_type="command", payload=payload, message_id="d", ttl=0).status == 200
    )
    eventually(lambda: lines(log) == ["begun 1"], within=10)
    assert cell.stop() == 0
    until.touch()
    cell.start()
    eventually(lambda: has(cell, "d", state="consumed", delivery_count=1), within=20)
    assert lines(log) == ["begun 1", "begun 1", "done 1"]


def test_a_message_that_kills_the_process_is_dead_after_its_deliveries(running: Mesh, directory: Path) -> None:
    """Expect each death counted, the message handed out again after it, and in the end no more."""
    cell = running.add("killed", **settings(directory, max_deliveries="3"))
    log = directory / "killed.txt"
    sent = running["alpha"].send("killed", message_type="kill", payload={"log": str(log)}, message_id="k", ttl=0)
    assert sent.status == 200, sent
    for deaths in (1, 2, 3):
        assert cell.wait() == -signal.SIGKILL
        assert lines(log) == [f"begun {number + 1}" for number in range(deaths)]
        cell.start(wait=deaths == 3)
    assert has(cell, "k", state="dead", reason="max_deliveries", delivery_count=3)
    assert running["alpha"].send("killed", message_type="query", payload={"text": "x"}, await_reply=20).status == 200


def test_a_message_that_kills_the_process_takes_no_other_with_it(running: Mesh, directory: Path) -> None:
    """Expect those that were in hand beside it, each time, to be handled in the end, and only it to be dead."""
    cell = running.add("beside", **settings(directory, max_deliveries="4"))
    naps = [f"nap-{number}" for number in range(4)]
    log = directory / "beside.txt"
    send = running["alpha"].send
    for name in naps:
        assert send("beside", message_type="nap", payload={"log": str(log)}, message_id=name, ttl=0).status == 200
    assert send("beside", message_type="kill", payload={"log": str(log)}, message_id="k", ttl=0).status == 200
    for deaths in range(1, 5):
        assert cell.wait() == -signal.SIGKILL
        cell.start(wait=deaths == 4)
    assert has(cell, "k", state="dead", reason="max_deliveries", delivery_count=4)
    for name in naps:
        eventually(lambda name=name: has(cell, name, state="consumed"), within=20)


@pytest.mark.parametrize(
    ("app", "code", "said"),
    [
        ("absent:cell", 2, "app: there is no module 'absent'"),
        ("broken:cell", 2, "app: broken cannot be imported: NameError: name 'nonsense' is not defined ("),
        ("failing:cell", 1, "on_start: ValueError: no database ("),
    ],
)
def test_an_app_that_cannot_be_started_is_said_in_one_line(tmp_path: Path, app: str, code: int, said: str) -> None:
    """Expect its file and line, no stack trace, and the exit code that says whether starting again may help."""
    (tmp_path / "broken.py").write_text("nonsense\n")
    (tmp_path / "failing.py").write_text(
        "from cellmesh import Cell\ncell = Cell()\n@cell.on_start\ndef start():\n    raise ValueError('no database')\n"
    )
    cell = Cell("pure", tmp_path, app=app, app_dir=str(tmp_path), drain_accept="0")
    cell.start(wait=False)
    assert cell.wait() == code
    log = cell.log.read_text()
    (line,) = [line for line in log.splitlines() if said in line]
    assert code == 2 or "failing.py line 5), this process stops" in line
    assert "Traceback" not in log
