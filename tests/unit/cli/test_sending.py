"""`send` to several and queued, and `ask`, against cells of the test's making."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fake_mesh import FakeMesh, FakeServer, Run

REPLY = {"message_id": "r-1", "from_cell": "pure", "reply_to": "m-1", "payload": {"answer": 42}}
DELIVERED = {"status": "delivered", "message_id": "m-1", "to_cell": "pure", "response": {"instance": "pure-0"}}


def result(cell: str, status: int = 200, **body: Any) -> dict[str, Any]:
    """Return what became of a message at one receiver."""
    response = {"response": {"instance": f"{cell}-0"}} if status == 200 else {}
    return {"to_cell": cell, "status": status, "body": {**response, **body}}


def answering(mesh: FakeMesh, status: int, body: Any) -> FakeServer:
    """Add the cell alpha, which answers every send so."""
    alpha = mesh.cell("alpha")
    alpha.routes["POST", "/send"] = lambda *_: (status, body)
    return alpha


def sent_by(alpha: FakeServer) -> Any:
    """Return the body of the last send."""
    return alpha.requests[-1][3]


def test_several_receivers_are_sent_to_in_one_request(mesh: FakeMesh, run: Run) -> None:
    """Their names travel as a list; the outcome of each is a line."""
    alpha = answering(mesh, 200, {"status": "delivered", "results": [result("pure"), result("other")]})

    done = run("send", "alpha", "pure", "other", "--all-instances")

    assert sent_by(alpha)["to_cell"] == ["pure", "other"]
    assert sent_by(alpha)["instances"] == "all"
    assert done.code == 0
    assert [line.split() for line in done.out.splitlines()] == [
        ["TO", "INSTANCE", "OUTCOME", "ERROR"],
        ["pure", "pure-0", "delivered", "-"],
        ["other", "other-0", "delivered", "-"],
    ]


def test_everyone_is_a_star(mesh: FakeMesh, run: Run) -> None:
    """It is the cell that knows who that is."""
    alpha = answering(mesh, 200, {"status": "delivered", "results": [result("pure")]})

    assert run("send", "alpha", "*").code == 0
    assert sent_by(alpha)["to_cell"] == "*"


@pytest.mark.parametrize("status", [207, 502])
def test_a_broadcast_that_not_all_have_says_who_lacks_it(mesh: FakeMesh, run: Run, status: int) -> None:
    """Exit code 1, with the way to repeat it; what may have arrived is told from what has not."""
    results = [
        result("pure", 200 if status == 207 else 504, error="late", code="timeout"),
        result("other", 503, error="nobody is ready", code="no_ready_instance", maybe_delivered=False),
        result("third", 504, error="no answer", code="outcome_unknown", maybe_delivered=True),
    ]
    answering(mesh, status, {"status": "partial", "results": results})

    done = run("send", "alpha", "*", "--id", "m-1")

    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert lines[2:] == [
        "other - not delivered nobody is ready (no_ready_instance)",
        "third - perhaps delivered no answer (outcome_unknown)",
    ]
    assert done.code == 1
    assert done.err == (
        f"cellmesh: delivered to {1 if status == 207 else 0} of 3; repeat it with --id m-1 for the others: "
        "who has it already takes it once\n"
    )


def test_a_refusal_that_is_no_broadcast_is_none(mesh: FakeMesh, run: Run) -> None:
    """502 without results is the answer of one receiver."""
    answering(mesh, 502, {"status": "error", "error": "gone", "code": "unreachable", "maybe_delivered": False})

    assert run("send", "alpha", "pure").err == (
        "cellmesh: not delivered: gone (unreachable); it was not stored anywhere\n"
    )


def test_a_broadcast_to_nobody_is_said(mesh: FakeMesh, run: Run) -> None:
    """The cell's own words."""
    answering(mesh, 404, {"error": "no other cell is known", "code": "no_receivers", "maybe_delivered": False})

    assert "not delivered: no other cell is known (no_receivers)" in run("send", "alpha", "*").err


def test_what_receivers_say_cannot_reach_the_terminal(mesh: FakeMesh, run: Run) -> None:
    """Their errors are foreign text."""
    answering(mesh, 207, {"results": [result("pure", 500, error="\x1b[2J", code="\x9b")]})

    done = run("send", "alpha", "*")

    assert (done.out + done.err).replace("\n", "").isprintable()


def test_a_queued_message_has_no_timeout_and_is_done_once_it_is_on_disk(mesh: FakeMesh, run: Run) -> None:
    """What holds for it is its ttl."""
    alpha = answering(mesh, 202, {"status": "queued", "message_id": "m-1", "to_cell": "pure"})

    done = run("send", "alpha", "pure", "--queued", "--id", "m-1", "--ttl", "3600", "--not-before", "5")

    assert (done.code, done.out) == (0, "queued m-1 for pure\n")
    assert sent_by(alpha) == {
        "to_cell": "pure",
        "message_id": "m-1",
        "payload": {},
        "ttl": 3600.0,
        "not_before": 5.0,
        "mode": "queued",
    }


def test_a_message_that_was_queued_before_says_what_it_is_now(mesh: FakeMesh, run: Run) -> None:
    """So a script may repeat itself."""
    body = {"status": "queued", "message_id": "m-1", "to_cell": "pure", "duplicate": True, "state": "delivered"}
    answering(mesh, 202, body)

    assert run("send", "alpha", "pure", "--queued").out == "queued m-1 for pure; it was before, and is delivered\n"


def test_an_answer_given_by_hand_names_what_it_answers(mesh: FakeMesh, run: Run) -> None:
    """And goes on with the conversation."""
    alpha = answering(mesh, 200, DELIVERED)

    run("send", "alpha", "pure", "--reply-to", "m-1", "--conversation", "c-1", "--to-instance", "pure-1")

    sent = sent_by(alpha)
    assert (sent["reply_to"], sent["conversation_id"], sent["to_instance"]) == ("m-1", "c-1", "pure-1")


def test_ask_prints_the_payload_of_the_reply(mesh: FakeMesh, run: Run) -> None:
    """As JSON, for whatever reads it."""
    alpha = answering(mesh, 200, {**DELIVERED, "reply": REPLY})

    done = run("ask", "alpha", "pure", "--type", "query", "--payload", '{"question": "?"}', "--timeout", "3")

    assert (done.code, done.out) == (0, '{"answer": 42}\n')
    sent = sent_by(alpha)
    assert (sent["message_type"], sent["await_reply"], sent["timeout"]) == ("query", 3.0, 3.0)


def test_ask_prints_the_whole_answer_for_programs(mesh: FakeMesh, run: Run) -> None:
    """With --json."""
    answering(mesh, 200, {**DELIVERED, "reply": REPLY})

    assert json.loads(run("ask", "alpha", "pure", "--json").out)["reply"] == REPLY


def test_a_reply_cannot_reach_the_terminal(mesh: FakeMesh, run: Run) -> None:
    """What a terminal would obey is escaped as JSON does it, so it is still the same text."""
    payload = {"text": "\x9b2J\u202e ü"}
    answering(mesh, 200, {**DELIVERED, "reply": {**REPLY, "payload": payload}})

    out = run("ask", "alpha", "pure").out

    assert out.rstrip("\n").isprintable()
    assert json.loads(out) == payload


def test_ask_without_a_reply_says_that_it_was_delivered_and_where_to_look(mesh: FakeMesh, run: Run) -> None:
    """Asking again would be wrong: the message is there."""
    error = {"error": "no reply from pure; the message is delivered", "code": "reply_timeout", "delivered": True}
    answering(mesh, 504, error)

    done = run("ask", "alpha", "pure", "--timeout", "2")

    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "cellmesh: no reply from pure; the message is delivered (reply_timeout); "
        "look with: cellmesh messages alpha --from pure\n"
    )


def test_ask_that_was_not_delivered_is_like_send(mesh: FakeMesh, run: Run) -> None:
    """With the same advice."""
    answering(mesh, 504, {"error": "too slow", "code": "outcome_unknown", "maybe_delivered": True})

    assert "not delivered: too slow (outcome_unknown); it may have been delivered" in run("ask", "alpha", "pure").err


def test_a_cell_that_knows_no_replies_is_found_out(mesh: FakeMesh, run: Run) -> None:
    """One of an older version delivers, and gives no reply."""
    answering(mesh, 200, DELIVERED)

    done = run("ask", "alpha", "pure")

    assert (done.code, done.out) == (1, "")
    assert "answered without a reply" in done.err
