"""Messages pushed to a program, by real cells: asked through the mesh, and away for a while."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from processes import Mesh, mesh
from pushed import Pushed, Said, program
from support import eventually, free_port

pytestmark = pytest.mark.mesh


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Run discovery and alpha."""
    with mesh(tmp_path_factory.mktemp("mesh"), "alpha") as cells:
        yield cells


def count(request: Pushed) -> Said:
    """Count the words of a message."""
    return Said(body=json.dumps({"words": len(request.message["payload"]["text"].split())}).encode())


def test_the_answer_of_a_program_is_the_reply_to_who_asks(running: Mesh) -> None:
    """Expect it through two cells, and the message consumed."""
    with program(count) as server:
        pure = running.add("pure", handler_url=server.url)
        answer = running["alpha"].send("pure", payload={"text": "a b c"}, await_reply=20, message_id="asked")
        assert answer.status == 200, answer
        assert answer.json["reply"]["payload"] == {"words": 3}
        eventually(lambda: pure.get("/messages/asked").json["state"] == "consumed", within=10)
        assert server.requests[0].headers["cellmesh-from-cell"] == "alpha"


def test_messages_wait_for_a_program_that_is_not_up_yet(running: Mesh) -> None:
    """Expect all of them once, none counted more than once, through a restart of the cell."""
    port = free_port()
    cell = running.add("early", handler_url=f"http://127.0.0.1:{port}", drain_accept="0")
    for number in range(5):
        assert running["alpha"].send("early", payload={"n": number}, ttl=0).status == 200
    eventually(lambda: "messages wait for it" in cell.log.read_text(), within=10)
    assert cell.stop() == 0
    cell.start()
    with program(port=port) as server:
        eventually(lambda: cell.get("/health").json["messages"]["consumed"] == 5, within=20)
        assert sorted(request.message["payload"]["n"] for request in server.requests) == list(range(5))
    assert {message["delivery_count"] for message in cell.messages()["messages"]} == {1}


def test_at_sigterm_the_request_under_way_is_finished(running: Mesh, tmp_path: Path) -> None:
    """Expect the process to wait for the answer, and the message consumed."""
    go_on = threading.Event()

    def script(_: Pushed) -> Said:
        go_on.wait(30)
        return Said()

    with program(script) as server:
        cell = running.add("stopped", handler_url=server.url, drain_accept="0")
        assert running["alpha"].send("stopped", message_id="m", ttl=0).status == 200
        eventually(lambda: server.ids == ["m"], within=10)
        cell.signal(signal.SIGTERM)
        eventually(lambda: "is stopping" in cell.log.read_text(), within=10)
        go_on.set()
        assert cell.wait() == 0
        cell.start()
        assert cell.get("/messages/m").json["state"] == "consumed"
        assert server.ids == ["m"]
