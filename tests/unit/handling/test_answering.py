"""What a handler returns on its way to whoever asked: which request is made of it, and what refusals mean."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from cellmesh.protocol.messages import Identity, encode
from cellmesh.protocol.receipts import StoredMessage
from cellmesh.service import answering
from cellmesh.service.answering import Answers
from cellmesh.service.outcomes import Backoff
from cellmesh.service.reply import Reply

HERE = Identity("pure", "default", "pure-0", "uid")
TIMED = "01a20825-2b48-7325-895a-34c9a4e925d3"


def stored(**fields: Any) -> StoredMessage:
    """Return a message of an inbox."""
    known: dict[str, Any] = {
        "message_id": TIMED,
        "from_cell": "alpha",
        "to_cell": "pure",
        "message_type": "query",
        "payload": Raw(b"{}"),
        "timestamp": "",
        "priority": "high",
        "ttl": 90,
        "acknowledged": True,
        "seq": 1,
        "received_at": "",
        "state": "leased",
    }
    return StoredMessage(**(known | fields))


def answer(message: StoredMessage, *replies: Reply, here: Identity = HERE) -> tuple[str, list[dict[str, Any]]]:
    """Answer a message where sending is answered so, in turn; return the outcome and the requests."""
    left, requests = list(replies), []

    async def send(body: bytes) -> Reply:
        requests.append(msgspec.json.decode(body))
        return left.pop(0)

    code = asyncio.run(Answers(here, send).answer(message, b'{"n":1}'))
    assert left == []
    return code, requests


QUEUED = Reply(202, b"{}")


def refusal(status: int, code: str) -> Reply:
    """Return a refusal."""
    return Reply(status, encode({"code": code, "error": "no"}))


def test_a_reply_goes_back_with_what_belongs_to_the_request() -> None:
    """Expect receiver, reference, conversation, trace, and the sender's own wishes for priority and ttl."""
    code, (request,) = answer(stored(conversation_id="c", traceparent="t", tracestate="s"), QUEUED)
    assert code == ""
    assert request.pop("message_id").startswith(TIMED[:13])
    assert request == {
        "to_cell": "alpha",
        "mode": "queued",
        "message_type": "reply",
        "payload": {"n": 1},
        "reply_to": TIMED,
        "conversation_id": "c",
        "traceparent": "t",
        "tracestate": "s",
        "priority": "high",
        "ttl": 90,
    }


def test_the_id_of_a_reply_follows_from_the_request_and_who_answers() -> None:
    """Expect it the same for the same message, and for no other."""

    def id_of(here: Identity = HERE, **fields: Any) -> str:
        _, (request,) = answer(stored(**fields), QUEUED, here=here)
        return str(request["message_id"])

    ids = {
        id_of(),
        id_of(message_id="plain"),
        id_of(from_cell="beta"),
        id_of(from_namespace="default"),
        id_of(here=Identity("other", "default", "other-0", "uid")),
    }
    assert len(ids) == 5
    assert id_of() in ids
    # Another instance, to which the message was handed over, answers with the same.
    assert id_of(here=Identity("pure", "default", "pure-1", "other"), delivery_count=3) == id_of()


@pytest.mark.parametrize("status", [429, 500, 503, 507])
def test_what_may_pass_is_waited_for(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """Expect the same request again until it is taken."""
    monkeypatch.setattr(answering, "BACKOFF", Backoff(first=0.001, most=0.001))
    code, requests = answer(stored(), refusal(status, "some"), refusal(status, "some"), QUEUED)
    assert code == ""
    assert len(requests) == 3
    assert requests[0] == requests[1] == requests[2]


def test_a_refusal_for_good_is_told() -> None:
    """Expect its code, after one try."""
    assert answer(stored(), refusal(413, "body_too_large"))[0] == "body_too_large"
    assert answer(stored(), Reply(400, b"nonsense"))[0] == "status 400"


def test_who_is_no_cell_is_not_answered() -> None:
    """Expect no failure: the work is done, and trying again would not help."""
    assert answer(stored(from_cell="a program"), refusal(404, "unknown_cell"))[0] == ""


def test_who_is_in_another_mesh_is_not_answered() -> None:
    """Expect nothing sent: in this mesh the name may be somebody else's."""
    assert answer(stored(from_namespace="lab")) == ("", [])


def test_a_reply_that_was_sent_before_with_other_words_stands() -> None:
    """Expect no failure: whoever asked has an answer."""
    assert answer(stored(), refusal(409, "id_conflict"))[0] == ""
