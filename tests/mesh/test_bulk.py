"""Many messages in one request, as an array and as a stream."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from processes import Cell, Mesh, mesh
from support import eventually

pytestmark = pytest.mark.mesh

LINES = "application/x-ndjson"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Run two cells."""
    with mesh(tmp_path_factory.mktemp("bulk"), "alpha", "pure", settle=0) as started:
        yield started


def item(message_id: str, **fields: Any) -> dict[str, Any]:
    """Return a message to pure."""
    return {"to_cell": "pure", "message_id": message_id, "payload": {"id": message_id}, "ttl": 0} | fields


def inbox(cell: Cell, prefix: str) -> list[str]:
    """Return the ids in an inbox that begin so, in the order of their positions."""
    found = (one["message_id"] for one in cell.messages()["messages"])
    return [one for one in found if one.startswith(prefix)]


def test_each_message_of_an_array_has_its_own_outcome(running: Mesh) -> None:
    """Expect what /send would have answered to each, in order, direct and queued ones mixed."""
    items = [
        item("array-1"),
        item("array-2", mode="queued"),
        item("array-3", to_cell="nobody"),
        item("array-4", payload=[]),
        item("array-5", mode="queued", priority="urgent"),
        item("array-6", mode="queued"),
        "not a message",
    ]
    answer = running["alpha"].post("/send/batch", items)
    assert answer.status == 200
    assert [one["status"] for one in answer.json] == [200, 202, 404, 422, 422, 202, 422]
    bodies = [one["body"] for one in answer.json]
    assert [body["status"] for body in bodies] == ["delivered", "queued", "error", "error", "error", "queued", "error"]
    assert bodies[3]["message_id"] == "array-4"
    assert bodies[4]["field"] == "priority"
    eventually(
        lambda: sorted(inbox(running["pure"], "array-")) == ["array-1", "array-2", "array-6"],
        within=10,
        message="queued messages to arrive",
    )


def test_all_queued_messages_of_an_array_share_one_commit(running: Mesh) -> None:
    """Expect one group commit for two hundred messages at their sender before the answer."""
    alpha = running["alpha"]

    def groups() -> float:
        lines = alpha.get("/metrics").body.decode().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("cellmesh_inbox_groups_total")))

    # To a cell that is not there: what follows the answer is no commit of the dispatcher's.
    items = [item(f"group-{n}", to_cell="later", mode="queued") for n in range(200)]
    before = groups()
    answer = alpha.post("/send/batch", items)
    after = groups()
    assert {one["status"] for one in answer.json} == {202}
    assert after - before <= 2


def test_a_stream_is_answered_while_it_goes_on(running: Mesh) -> None:
    """Expect each answer before the next line is sent, over one request without an end in sight."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", running["alpha"].port, timeout=20)) as connection:
        connection.putrequest("POST", "/send/batch")
        connection.putheader("Content-Type", LINES)
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        answer = None
        for number in range(5):
            line = json.dumps(item(f"stream-{number}")).encode() + b"\n"
            # In two pieces, as a network may cut it.
            for piece in (line[:7], line[7:]):
                connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            if answer is None:
                answer = connection.response_class(connection.sock)
                answer.begin()
                assert (answer.status, answer.getheader("content-type")) == (200, LINES)
            assert json.loads(answer.readline())["status"] == 200
        connection.send(b"0\r\n\r\n")
        assert answer is not None
        assert answer.read() == b""
    assert inbox(running["pure"], "stream-") == [f"stream-{number}" for number in range(5)]


def test_a_long_stream_of_queued_messages_arrives_in_order(running: Mesh) -> None:
    """Expect thousands of lines, more than any body may be long, each answered, and their order kept."""
    count = 3000
    items = (item(f"long-{n}", mode="queued", payload={"pad": "x" * 900}) for n in range(count))
    body = b"".join(json.dumps(one).encode() + b"\n" for one in items)
    assert len(body) > 2 * 1024 * 1024
    answer = running["alpha"].post("/send/batch", body, headers={"Content-Type": LINES}, timeout=60)
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert [one["body"]["message_id"] for one in lines] == [f"long-{n}" for n in range(count)]
    assert {one["status"] for one in lines} == {202}
    eventually(lambda: running["alpha"].get("/sent/long-2999").json["state"] == "delivered", within=60)
    found: list[str] = []
    after = 0
    while page := running["pure"].messages(f"limit=1000&after={after}")["messages"]:
        found += [one["message_id"] for one in page if one["message_id"].startswith("long-")]
        after = page[-1]["seq"]
    assert found == [f"long-{n}" for n in range(count)]


def test_a_line_that_is_wrong_or_too_long_fails_alone(running: Mesh) -> None:
    """Expect the lines behind it to be sent, and empty ones to be passed over."""
    lines = [
        json.dumps(item("line-1")).encode(),
        b"{not json",
        b"",
        json.dumps(item("line-2", payload={"pad": "x" * 1_100_000})).encode(),
        json.dumps(item("line-3")).encode(),
    ]
    answer = running["alpha"].post("/send/batch", b"\n".join(lines), headers={"Content-Type": LINES}, timeout=30)
    assert [json.loads(line)["status"] for line in answer.body.splitlines()] == [200, 400, 413, 200]
    assert inbox(running["pure"], "line-") == ["line-1", "line-3"]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"[]", "application/json", 422),
        (b"{}", "application/json", 422),
        (b"[", "application/json", 400),
        (b"[" + b",".join([b"{}"] * 1001) + b"]", "application/json", 422),
        (b"[" + b" " * (3 * 1024 * 1024) + b"]", "application/json", 413),
        (b"[]", "text/plain", 415),
    ],
)
def test_a_body_that_is_no_array_of_messages_is_refused(
    running: Mesh, body: bytes, content_type: str, status: int
) -> None:
    """Expect one answer for the whole of it."""
    answer = running["alpha"].post("/send/batch", body, headers={"Content-Type": content_type})
    assert (answer.status, answer.json["status"]) == (status, "error")


def test_a_stream_from_a_web_page_is_refused(running: Mesh) -> None:
    """Expect 403 for a foreign origin."""
    headers = {"Content-Type": LINES, "Origin": "http://evil.example"}
    assert running["alpha"].post("/send/batch", b"{}\n", headers=headers).status == 403
