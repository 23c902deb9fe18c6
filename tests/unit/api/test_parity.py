"""The hot path and FastAPI's routes answer alike, and neither ever with a 500."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellmesh.api.app import build
from cellmesh.service.cell import Cell, open_inbox
from cellmesh.settings import Settings

LIMIT = 4096
BATCH_LIMIT = 8192
JSON = "application/json"
#: What differs between two cells that answer alike: ids made by us, and times.
MASKED = {"timestamp", "received_at", "at"}
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
DECIMALS = re.compile(r"within \d+\.\d s")

Seen = tuple[int, dict[str, str], Any]


async def call(
    app: Any,
    path: str,
    body: bytes,
    *,
    method: str = "POST",
    headers: dict[str, str] | None = None,
    pieces: int = 1,
    length: bool = True,
) -> tuple[int, dict[str, str], bytes]:
    """Make one request of an ASGI app; the body comes in ``pieces``."""
    given_headers = {"host": "localhost:8000", "content-type": JSON} | (headers or {})
    if length:
        given_headers = {"content-length": str(len(body))} | given_headers
    size = max(1, -(-len(body) // pieces))
    parts = [body[start : start + size] for start in range(0, len(body), size)] or [b""]
    incoming = [
        {"type": "http.request", "body": part, "more_body": index < len(parts) - 1} for index, part in enumerate(parts)
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in given_headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    await app(scope, receive, send)
    start, *rest = sent
    answered = {k.decode().lower(): v.decode("latin-1") for k, v in start["headers"]}
    return start["status"], answered, b"".join(part.get("body", b"") for part in rest)


def masked(value: Any) -> Any:
    """Return a JSON value without what differs between two cells."""
    if isinstance(value, dict):
        return {k: "*" if k in MASKED else masked(v) for k, v in value.items()}
    if isinstance(value, list):
        return [masked(item) for item in value]
    if isinstance(value, str):
        return DECIMALS.sub("within * s", UUID7.sub("*", value))
    return value


class Pair:
    """Two cells of one identity, with inboxes of their own: one with the hot path, one without."""

    def __init__(self, directory: Path) -> None:
        self._runner = asyncio.Runner()
        self._cells: list[Cell] = []
        self._apps: list[Any] = []
        for name in ("hot", "plain"):
            chosen = Settings(
                cell_id="pure",
                uid="one",
                data_dir=directory / name,
                max_body=LIMIT,
                max_batch_bytes=BATCH_LIMIT,
                max_batch_messages=5,
                disk_reserve=0,
            )
            self._runner.run(self._add(chosen, hot_path=name == "hot"))

    async def _add(self, chosen: Settings, *, hot_path: bool) -> None:
        cell = Cell(chosen, open_inbox(chosen))
        cell.ready = True
        self._cells.append(cell)
        self._apps.append(build(cell, hot_path=hot_path))

    def each(self, action: Callable[[Cell], None]) -> None:
        """Do something to both cells."""
        for cell in self._cells:
            action(cell)

    def ask(self, path: str, body: bytes, **how: Any) -> Seen:
        """Ask both; expect one answer, and return it."""
        hot, plain = (self._runner.run(self._ask(app, path, body, how)) for app in self._apps)
        assert hot == plain
        assert hot[0] != 500
        assert all(cell.in_flight == 0 for cell in self._cells)
        return hot

    async def _ask(self, app: Any, path: str, body: bytes, how: dict[str, Any]) -> Seen:
        status, headers, answer = await call(app, path, body, **how)
        assert headers["content-length"] == str(len(answer))
        # The length follows from the body, which is compared where it does not differ by nature.
        return status, {k: v for k, v in headers.items() if k != "content-length"}, masked(json.loads(answer))

    def totals(self) -> list[int]:
        """Return how many messages each has."""
        return [cell.inbox.gauges.total for cell in self._cells]

    def close(self) -> None:
        """Close both."""

        async def close() -> None:
            for cell in self._cells:
                await cell.close()

        self._runner.run(close())
        self._runner.close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Return two cells to compare."""
    with contextlib.closing(Pair(tmp_path_factory.mktemp("pair"))) as both:
        yield both


def message(**fields: Any) -> bytes:
    """Return a good message with these fields changed."""
    return json.dumps({"message_id": "m", "from_cell": "alpha", "payload": {}} | fields).encode()


def padded(size: int) -> bytes:
    """Return a good message of exactly this many bytes."""
    bare = message(message_id=f"padded-{size}", payload={"p": ""})
    return message(message_id=f"padded-{size}", payload={"p": "x" * (size - len(bare))})


def nested(depth: int) -> bytes:
    """Return a message with a payload this deep."""
    text = b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)
    return b'{"message_id":"deep-%d","from_cell":"alpha","payload":%b}' % (depth, text)


TABLE: list[tuple[str, str, bytes, int]] = [
    ("a message", "/message", message(message_id="one"), 200),
    ("a repeat", "/message", message(message_id="one"), 200),
    ("a conflict", "/message", message(message_id="one", payload={"n": 2}), 409),
    ("the legacy form", "/message", b'{"from_cell":"old","content":"hi"}', 200),
    ("the legacy endpoint", "/message/legacy", b'{"from_cell":"old","content":"hi"}', 200),
    ("a current message at the legacy endpoint", "/message/legacy", message(), 422),
    ("another cell's", "/message", message(to_cell="alpha"), 421),
    ("another instance's", "/message", message(to_instance="pure-9"), 421),
    ("another uid's", "/message", message(to_uid="two"), 421),
    ("nothing", "/message", b"", 400),
    ("cut off", "/message", message()[:-3], 400),
    ("not UTF-8", "/message", b'{"message_id":"\xff"}', 400),
    ("an array", "/message", b"[]", 422),
    ("null", "/message", b"null", 422),
    ("no payload", "/message", b'{"message_id":"m","from_cell":"a"}', 422),
    ("a negative ttl", "/message", message(ttl=-1), 422),
    ("an unknown priority", "/message", message(priority="URGENT"), 422),
    ("1e999", "/message", b'{"message_id":"m","from_cell":"a","payload":{"n":1e999}}', 422),
    ("a lone surrogate", "/message", b'{"message_id":"m","from_cell":"a","payload":{"n":"\\ud800"}}', 400),
    ("depth 64", "/message", nested(64), 200),
    ("depth 65", "/message", nested(65), 422),
    ("duplicate keys", "/message", b'{"message_id":"x","message_id":"dup","from_cell":"a","payload":{}}', 200),
    ("at the limit", "/message", padded(LIMIT), 200),
    ("over the limit", "/message", padded(LIMIT + 1), 413),
    ("a batch", "/message/batch", b"[" + message(message_id="b1") + b"," + message(message_id="b2") + b"]", 200),
    ("a batch with bad items", "/message/batch", b'[{},1,null,"x",' + message(message_id="b3") + b"]", 200),
    ("an empty batch", "/message/batch", b"[]", 422),
    ("a batch of too many", "/message/batch", b"[" + b",".join([b"{}"] * 6) + b"]", 413),
    ("a batch that is none", "/message/batch", message(), 422),
    ("a batch over the limit", "/message/batch", b"[" + b" " * BATCH_LIMIT + b"]", 413),
    ("a send without discovery", "/send", b'{"to_cell":"alpha"}', 503),
    ("a send to a name that can be none", "/send", b'{"to_cell":"a b c"}', 503),
    ("a send to nobody", "/send", b"{}", 422),
    ("a send with a wrong payload", "/send", b'{"to_cell":"alpha","payload":[],"message_id":"s"}', 422),
    ("a send with an unknown option", "/send", b'{"to_cell":"alpha","speed":"high"}', 422),
    ("a send that is not JSON", "/send", b"to_cell=alpha", 400),
    ("a send that is no object", "/send", b"[1]", 422),
    ("a send over the limit", "/send", b" " * (LIMIT + 1), 413),
]


@pytest.mark.parametrize(("path", "body", "status"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_both_answer_a_request_alike(pair: Pair, path: str, body: bytes, status: int) -> None:
    """Expect one status, one set of headers and one body of both."""
    assert pair.ask(path, body)[0] == status


@pytest.mark.parametrize("path", ["/message", "/message/legacy", "/message/batch", "/send"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": ""}, 415),
        ({"content-type": "application/cloudevents+json"}, 415),
        ({"content-type": "application/json; charset=latin-1"}, 415),
        ({"host": "evil.com"}, 403),
        ({"host": ""}, 403),
        ({"origin": "http://evil.com"}, 403),
        ({"origin": "null"}, 403),
        ({"content-length": "99999999999999999999"}, 413),
        ({"origin": "http://evil.com", "content-type": "text/plain"}, 403),
    ],
)
def test_both_refuse_what_a_request_may_not_look_like(
    pair: Pair, path: str, headers: dict[str, str], status: int
) -> None:
    """Expect the same refusal before the body is read."""
    assert pair.ask(path, message(), headers=headers)[0] == status


@pytest.mark.parametrize(
    "path", ["/message", "/message/batch", "/send", "/message/", "//message", "/Message", "/nothing"]
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_both_answer_other_methods_and_paths_alike(pair: Pair, path: str, method: str) -> None:
    """Expect 404 or 405, as JSON with a code."""
    status, _, answer = pair.ask(path, b"", method=method)
    assert status in {404, 405}
    assert answer["code"] in {"not_found", "method_not_allowed"}


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413), (LIMIT * 20, 413)])
@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_both_limit_a_body_that_does_not_say_its_length(pair: Pair, size: int, status: int, pieces: int) -> None:
    """Expect the limit to hold for the bytes that come, however they come."""
    assert pair.ask("/message", padded(size), length=False, pieces=pieces)[0] == status


def test_both_refuse_alike_while_they_stop(pair: Pair) -> None:
    """Expect 503 draining with Retry-After from each endpoint."""
    pair.each(lambda cell: cell.refuse())
    try:
        for path in ("/message", "/message/legacy", "/message/batch", "/send"):
            status, headers, answer = pair.ask(path, message())
            assert (status, answer["code"], headers["retry-after"]) == (503, "draining", "1")
    finally:
        pair.each(reopen)


def reopen(cell: Cell) -> None:
    """Take messages again."""
    cell.receiver.refusing = cell.sender.refusing = False


def test_nothing_of_a_body_that_breaks_off_is_kept(pair: Pair) -> None:
    """Expect no message and no request left under way when the client goes away."""

    async def broken(app: Any) -> None:
        parts = [{"type": "http.request", "body": message(message_id="broken")[:20], "more_body": True}]

        async def receive() -> dict[str, Any]:
            return parts.pop(0) if parts else {"type": "http.disconnect"}

        async def send(_: dict[str, Any]) -> None:
            pass

        scope = {"type": "http", "method": "POST", "path": "/message", "raw_path": b"/message", "query_string": b""}
        scope |= {"headers": [(b"host", b"localhost"), (b"content-type", b"application/json")], "root_path": ""}
        await app(scope, receive, send)

    before = pair.totals()
    for app in pair._apps:
        pair._runner.run(broken(app))
    assert pair.totals() == before
    pair.ask("/message", message(message_id="after-broken"))


texts = st.text(max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    "message_id", "from_cell", "to_cell", "message_type", "payload", "timestamp", "priority", "ttl", "acknowledged",
    "reply_to", "tracestate", "to_uid", "ttl_remaining", "content", "metadata", "type", "timeout", "mode",
]  # fmt: skip
likely = st.fixed_dictionaries(
    {},
    optional={
        "message_id": st.sampled_from(["m1", "m2", ""]) | values,
        "from_cell": st.just("alpha") | values,
        "to_cell": st.sampled_from(["pure", "alpha", None]) | values,
        "payload": st.dictionaries(texts, values, max_size=3) | values,
        "content": values,
        "ttl": st.integers(-2, 100) | values,
        "priority": st.sampled_from(["low", "high", "HIGH"]) | values,
        "timestamp": st.just("2026-01-31T12:00:00Z") | values,
    },
)
keys = st.sampled_from(FIELDS) | texts
documents = likely | st.dictionaries(keys, values, max_size=6) | values
encoded = documents.map(lambda value: json.dumps(value).encode())
doubled = st.lists(st.tuples(keys, values), max_size=6).map(
    lambda pairs: b"{" + b",".join(json.dumps(k).encode() + b":" + json.dumps(v).encode() for k, v in pairs) + b"}"
)
truncated = st.tuples(encoded, st.integers(0, 80)).map(lambda pair: pair[0][: pair[1]])
spliced = st.tuples(st.binary(max_size=6), st.integers(0, 60)).map(
    lambda pair: message()[: pair[1]] + pair[0] + message()[pair[1] :]
)
deep = st.integers(1, 600).map(nested)
around_the_limit = st.integers(LIMIT - 3, LIMIT + 3).map(padded)
single = st.binary(max_size=80) | encoded | doubled | truncated | spliced | deep | around_the_limit
batches = st.lists(encoded | spliced | deep, max_size=6).map(lambda items: b"[" + b",".join(items) + b"]")


@settings(max_examples=400, deadline=None)
@given(
    path=st.sampled_from(["/message", "/message", "/message/batch", "/message/legacy", "/send"]),
    body=single | batches,
    pieces=st.sampled_from([1, 1, 2, 5]),
    length=st.booleans(),
)
def test_both_answer_any_body_alike(pair: Pair, path: str, body: bytes, pieces: int, length: bool) -> None:
    """Expect one answer of both, never a 500, and the same number of messages stored."""
    status, _, answer = pair.ask(path, body, pieces=pieces, length=length)
    hot, plain = pair.totals()
    assert hot == plain
    if status >= 400:
        assert answer["code"]


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(["host", "origin", "content-type"]),
    value=st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40),
)
def test_both_judge_any_header_alike(pair: Pair, name: str, value: str) -> None:
    """Expect one answer of both, whatever Host, Origin and Content-Type say."""
    pair.ask("/message", message(message_id="headers"), headers={name: value})
