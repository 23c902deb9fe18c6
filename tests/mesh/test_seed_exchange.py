"""The exchanges of the seed document, request by request, between real processes on real sockets."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from processes import Cell, Mesh, mesh

pytestmark = pytest.mark.mesh


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Run alpha and pure with discovery."""
    with mesh(tmp_path_factory.mktemp("mesh"), "alpha", "pure") as cells:
        yield cells


@pytest.fixture
def alpha(running: Mesh) -> Cell:
    """Return the cell alpha."""
    return running["alpha"]


@pytest.fixture
def pure(running: Mesh) -> Cell:
    """Return the cell pure."""
    return running["pure"]


@pytest.fixture
def lonely(tmp_path: Path) -> Iterator[Cell]:
    """Run one cell of its own, with an empty inbox and no discovery."""
    cell = Cell("lonely", tmp_path)
    try:
        cell.start()
        yield cell
    finally:
        cell.kill()


def shown(cell: Cell, message_id: str) -> dict:
    """Return a message as the list of messages shows it."""
    return next(message for message in cell.messages()["messages"] if message["message_id"] == message_id)


def test_alpha_sends_to_pure_and_the_receipt_is_inside_the_answer(alpha: Cell, pure: Cell) -> None:
    """Expect the answer of the seed: delivered, where, and pure's acknowledgement."""
    answer = alpha.send("pure", message_type="ping", payload={"text": "Hello from Alpha!"})
    body = answer.json
    assert answer.status == 200
    assert (body["status"], body["to_cell"]) == ("delivered", "pure")
    assert body["target_url"] == f"http://127.0.0.1:{pure.port}/message"
    assert uuid.UUID(body["message_id"]).version == 7
    assert body["response"] == {
        "status": "received",
        "message_id": body["message_id"],
        "acknowledged": True,
        "timestamp": body["response"]["timestamp"],
        "cell_id": "pure",
        "instance": "pure-0",
        "durability": "volume",
    }
    assert datetime.fromisoformat(body["timestamp"]).tzinfo is not None


def test_what_alpha_sent_is_in_pures_messages(alpha: Cell, pure: Cell) -> None:
    """Expect the message of the seed, with the fields that it shows."""
    sent = alpha.send("pure", message_type="ping", payload={"text": "Hello from Alpha!"}).json
    message = shown(pure, sent["message_id"])
    assert (message["from_cell"], message["to_cell"]) == ("alpha", "pure")
    assert (message["message_type"], message["payload"]) == ("ping", {"text": "Hello from Alpha!"})
    assert (message["priority"], message["ttl"]) == ("normal", 60)
    assert (message["state"], message["acknowledged"]) == ("pending", True)


def test_pure_posts_to_alpha_directly_without_a_type(alpha: Cell) -> None:
    """Expect the answer of the seed, and the type that stands for none."""
    message = {
        "from_cell": "pure",
        "to_cell": "alpha",
        "message_id": "test-from-pure-001",
        "payload": {"reply": "Got your message!"},
    }
    answer = alpha.post("/message", message)
    assert answer.status == 200
    assert answer.json["status"] == "received"
    assert answer.json["message_id"] == "test-from-pure-001"
    assert answer.json["acknowledged"] is True
    stored = shown(alpha, "test-from-pure-001")
    assert (stored["from_cell"], stored["message_type"]) == ("pure", "general")
    assert stored["payload"] == {"reply": "Got your message!"}


def test_an_answer_to_a_message_offers_batches(pure: Cell) -> None:
    """Expect the header with messages and bytes of a batch."""
    answer = pure.post("/message", {"from_cell": "a", "message_id": "offer", "payload": {}})
    assert answer.headers["cellmesh-batch"] == "256,2097152"


def test_the_legacy_form_is_taken_where_the_current_one_is(pure: Cell) -> None:
    """Expect an id made for it, ``content`` in the payload, and ``type`` as the message's type."""
    answer = pure.post("/message", {"from_cell": "alpha", "content": "an old hello", "type": "greeting"})
    assert (answer.status, answer.json["acknowledged"]) == (200, True)
    message = shown(pure, answer.json["message_id"])
    assert (message["payload"], message["message_type"]) == ({"content": "an old hello"}, "greeting")


def test_the_legacy_endpoint_answers_as_it_used_to(pure: Cell) -> None:
    """Expect the four members of the old answer, metadata and priority kept."""
    body = {"from_cell": "alpha", "content": {"n": 1}, "metadata": {"k": "v"}, "priority": "high"}
    answer = pure.post("/message/legacy", body)
    assert answer.status == 200
    assert set(answer.json) == {"status", "message_id", "timestamp", "cell_id"}
    assert (answer.json["status"], answer.json["cell_id"]) == ("received", "pure")
    message = shown(pure, answer.json["message_id"])
    assert message["payload"] == {"content": {"n": 1}, "metadata": {"k": "v"}}
    assert message["priority"] == "high"


def test_a_cell_nobody_knows_is_404_with_those_there_are(alpha: Cell) -> None:
    """Expect the seed's list of available cells, and that nothing was delivered."""
    answer = alpha.send("nobody", payload={})
    assert answer.status == 404
    assert (answer.json["status"], answer.json["code"]) == ("error", "unknown_cell")
    assert sorted(answer.json["available_cells"]) == ["alpha", "pure"]
    assert (answer.json["origin"], answer.json["maybe_delivered"]) == ("self", False)
    assert answer.json["to_cell"] == "nobody"
    assert answer.json["message_id"]


def test_a_cell_can_send_to_itself(alpha: Cell) -> None:
    """Expect it delivered like any other message."""
    answer = alpha.send("alpha", payload={"to": "myself"})
    assert (answer.status, answer.json["response"]["cell_id"]) == (200, "alpha")


def test_a_message_that_comes_again_is_a_duplicate(pure: Cell) -> None:
    """Expect the same receipt with ``duplicate`` and one message stored."""
    message = {"from_cell": "alpha", "message_id": "twice", "payload": {"n": 1}}
    first = pure.post("/message", message).json
    again = pure.post("/message", message)
    assert again.status == 200
    assert again.json == first | {"duplicate": True}
    assert [m["message_id"] for m in pure.messages()["messages"]].count("twice") == 1


def test_a_send_repeated_with_its_id_is_delivered_once(alpha: Cell, pure: Cell) -> None:
    """Expect delivered both times, the second as a duplicate at the receiver."""
    for expected in (None, True):
        answer = alpha.send("pure", message_id="send-twice", payload={"n": 1})
        assert (answer.status, answer.json["response"].get("duplicate")) == (200, expected)
    assert [m["message_id"] for m in pure.messages()["messages"]].count("send-twice") == 1


def test_an_id_used_for_another_message_is_a_conflict(pure: Cell) -> None:
    """Expect 409 naming the field; the first message stays."""
    pure.post("/message", {"from_cell": "alpha", "message_id": "taken", "payload": {"n": 1}})
    answer = pure.post("/message", {"from_cell": "alpha", "message_id": "taken", "payload": {"n": 2}})
    assert (answer.status, answer.json["code"], answer.json["field"]) == (409, "id_conflict", "message_id")
    assert shown(pure, "taken")["payload"] == {"n": 1}


def test_a_conflict_at_the_receiver_is_passed_on_by_send(alpha: Cell) -> None:
    """Expect the target's own status and code, and that it was the target."""
    alpha.send("pure", message_id="send-taken", payload={"n": 1})
    answer = alpha.send("pure", message_id="send-taken", payload={"n": 2})
    assert (answer.status, answer.json["code"], answer.json["origin"]) == (409, "id_conflict", "target")
    assert answer.json["response"]["field"] == "message_id"


@pytest.mark.parametrize("field", ["to_cell", "to_namespace", "to_instance", "to_uid"])
def test_a_message_for_another_is_misdirected(pure: Cell, field: str) -> None:
    """Expect 421 naming the field that says so, and nothing stored."""
    message_id = f"astray-{field}"
    answer = pure.post("/message", {"from_cell": "alpha", "message_id": message_id, "payload": {}, field: "another"})
    assert (answer.status, answer.json["code"], answer.json["field"]) == (421, "misdirected", field)
    assert pure.get(f"/messages/{message_id}").status == 404


def test_a_batch_answers_for_each_of_its_messages(pure: Cell) -> None:
    """Expect the good ones stored around the bad one, in order."""
    batch = [
        {"from_cell": "alpha", "message_id": "batch-1", "payload": {}},
        {"from_cell": "alpha", "message_id": "batch-2"},
        {"from_cell": "alpha", "content": "old"},
        {"from_cell": "alpha", "message_id": "batch-1", "payload": {}},
    ]
    answer = pure.post("/message/batch", batch)
    assert answer.status == 200
    assert [item["status"] for item in answer.json] == [200, 422, 200, 200]
    assert answer.json[1]["body"]["field"] == "payload"
    assert answer.json[3]["body"]["duplicate"] is True


def test_the_newest_messages_are_listed_oldest_first(lonely: Cell) -> None:
    """Expect the last ``limit`` in the order they came, with the total of all."""
    for number in range(5):
        lonely.post("/message", {"from_cell": "a", "message_id": f"m{number}", "payload": {}})
    page = lonely.messages("limit=3")
    assert [message["message_id"] for message in page["messages"]] == ["m2", "m3", "m4"]
    assert (page["total"], page["cell_id"]) == (5, "lonely")
    assert page["next"] == page["messages"][-1]["seq"]


def test_pages_follow_one_another(lonely: Cell) -> None:
    """Expect every message once, in order, when asked after each page's end."""
    for number in range(5):
        lonely.post("/message", {"from_cell": "a", "message_id": f"m{number}", "payload": {}})
    seen: list[str] = []
    after = 0
    while page := lonely.messages(f"limit=2&after={after}"):
        if not page["messages"]:
            break
        seen += [message["message_id"] for message in page["messages"]]
        after = page["next"]
    assert seen == ["m0", "m1", "m2", "m3", "m4"]
    assert page["next"] == after


def test_messages_of_one_sender_can_be_asked_for(lonely: Cell) -> None:
    """Expect only those of that cell."""
    for number, sender in enumerate(["a", "b", "a"]):
        lonely.post("/message", {"from_cell": sender, "message_id": f"m{number}", "payload": {}})
    page = lonely.messages("from_cell=a")
    assert [message["message_id"] for message in page["messages"]] == ["m0", "m2"]


def test_messages_of_one_state_can_be_asked_for(lonely: Cell) -> None:
    """Expect what is pending as pending, and nothing consumed."""
    lonely.post("/message", {"from_cell": "a", "message_id": "m", "payload": {}})
    assert len(lonely.messages("state=pending")["messages"]) == 1
    assert lonely.messages("state=consumed")["messages"] == []


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "after=-1", "state=lost", "from_cell="])
def test_a_wrong_query_names_its_parameter(pure: Cell, query: str) -> None:
    """Expect 422 with the parameter's name."""
    answer = pure.get(f"/messages?{query}")
    assert (answer.status, answer.json["code"]) == (422, "invalid_field")
    assert answer.json["field"] == query.partition("=")[0]


def test_one_message_is_shown_with_its_history(pure: Cell) -> None:
    """Expect the message of the list and how it came to its state."""
    pure.post("/message", {"from_cell": "alpha", "message_id": "with/a slash?", "payload": {"n": 1}})
    answer = pure.get("/messages/with/a%20slash%3F")
    assert (answer.status, answer.json["payload"]) == (200, {"n": 1})
    assert [step["state"] for step in answer.json["history"]] == ["pending"]


def test_a_message_nobody_sent_is_not_found(pure: Cell) -> None:
    """Expect 404 with its code."""
    answer = pure.get("/messages/never")
    assert (answer.status, answer.json["code"]) == (404, "unknown_message")


def test_a_cell_tells_whom_it_knows_and_since_when(alpha: Cell, pure: Cell) -> None:
    """Expect pure, asked for before, with the age of the knowledge."""
    alpha.send("pure", payload={})
    peer = next(peer for peer in alpha.get("/peers").json["peers"] if peer["cell_id"] == "pure")
    assert (peer["port"], peer["instance"]) == (pure.port, "pure-0")
    assert peer["age_seconds"] >= 0


def test_health_tells_of_the_cell_in_the_way_of_the_seed(alpha: Cell) -> None:
    """Expect its status and name."""
    answer = alpha.get("/health")
    assert (answer.status, answer.json["status"], answer.json["cell_id"]) == (200, "healthy", "alpha")


def test_the_metrics_can_be_read_by_prometheus(alpha: Cell) -> None:
    """Expect its text format with the count of what was sent."""
    answer = alpha.get("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"cellmesh_inbox_messages{" in answer.body
