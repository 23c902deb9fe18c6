"""The hot path and FastAPI's routes answer alike, and neither ever with a 500."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from cellmesh.api import exchange
from cellmesh.api.app import build
from cellmesh.api.exchange import Guard
from cellmesh.api.hot_path import HotProtocol
from cellmesh.service.cell import Cell, open_inbox
from cellmesh.service.reply import Reply
from cellmesh.settings import Settings
from support import eventually_async

LIMIT = 4096
BATCH_LIMIT = 8192
JSON = "application/json"
#: What differs between two cells that answer alike: ids made by us, and times.
MASKED = {"timestamp", "received_at", "at"}
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
DECIMALS = re.compile(r"within \d+\.\d s")

T = TypeVar("T")
Seen = tuple[int, dict[str, str], Any]


class Wire(asyncio.Transport):
    """The server's end of a connection that is no socket: keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep what is written."""
        self.written += data

    def is_closing(self) -> bool:
        """Tell whether it is closed."""
        return self._closing

    def close(self) -> None:
        """Close."""
        self._closing = True

    def pause_reading(self) -> None:
        """Nothing: all that is sent is there."""

    def resume_reading(self) -> None:
        """Nothing, likewise."""


class Response:
    """One answer, parsed; header names in lower case."""

    def __init__(self, data: bytes) -> None:
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(data)

    @property
    def status(self) -> int:
        """Its status."""
        return self._parser.get_status_code()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header (httptools)."""
        self.headers[name.decode().lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Keep a piece (httptools)."""
        self.body += body

    def on_message_complete(self) -> None:
        """Note that it is complete (httptools)."""
        self.complete = True


def request(
    path: str, body: bytes, *, method: str = "POST", headers: dict[str, str] | None = None, length: bool = True
) -> tuple[bytes, bytes]:
    """Return the head and the body of a request; without ``length`` the body is one chunk."""
    given_headers = {"host": "localhost:8000", "content-type": JSON} | (headers or {})
    if length:
        given_headers = {"content-length": str(len(body))} | given_headers
    else:
        given_headers["transfer-encoding"] = "chunked"
        body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given_headers.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n", body


async def answered(wire: Wire) -> Response:
    """Wait for one complete answer."""
    return await eventually_async(
        lambda: (response := Response(wire.written)).complete and response, within=20, message="an answer"
    )


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
        self._protocols: list[Callable[[], HttpToolsProtocol]] = []
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
        guard = Guard(chosen)
        config = Config(build(cell, guard), lifespan="off", log_config=None, access_log=False)
        config.load()
        make = functools.partial(HotProtocol, cell=cell, guard=guard) if hot_path else HttpToolsProtocol
        self._cells.append(cell)
        self._protocols.append(lambda: make(config, ServerState(), {}))

    def each(self, action: Callable[[Cell], None]) -> None:
        """Do something to both cells."""
        for cell in self._cells:
            action(cell)

    def on_both(self, conversation: Callable[[HttpToolsProtocol, Wire], Awaitable[T]]) -> list[T]:
        """Hold a conversation with a new connection of each, and return what came of it."""

        async def hold(make: Callable[[], HttpToolsProtocol]) -> T:
            wire, protocol = Wire(), make()
            protocol.connection_made(wire)
            try:
                return await conversation(protocol, wire)
            finally:
                protocol.connection_lost(None)
                await asyncio.sleep(0)  # a turn of the loop, for tasks that hear of it

        return [self._runner.run(hold(make)) for make in self._protocols]

    def ask(self, path: str, body: bytes, *, pieces: int = 1, **how: Any) -> Seen:
        """Ask both; expect one answer, and return it."""
        hot, plain = self.on_both(lambda protocol, wire: self._ask(protocol, wire, request(path, body, **how), pieces))
        assert hot == plain
        assert hot[0] != 500
        assert all(cell.in_flight == 0 for cell in self._cells)
        return hot

    async def _ask(self, protocol: HttpToolsProtocol, wire: Wire, sent: tuple[bytes, bytes], pieces: int) -> Seen:
        head, body = sent
        size = max(1, -(-len(body) // pieces))
        first, *rest = [body[start : start + size] for start in range(0, len(body), size)] or [b""]
        protocol.data_received(head + first)
        for part in rest:
            await asyncio.sleep(0)  # so that a piece is seen before the next one comes
            protocol.data_received(part)
        answer = await answered(wire)
        assert answer.headers["content-length"] == str(len(answer.body))
        # The length follows from the body, which is compared where it does not differ by nature.
        headers = {k: v for k, v in answer.headers.items() if k != "content-length"}
        if headers["content-type"] != JSON:
            return answer.status, headers, answer.body  # not even HTTP: uvicorn's own answer
        return answer.status, headers, masked(json.loads(answer.body))

    def run(self, conversation: Coroutine[Any, Any, T]) -> T:
        """Run something in the loop of both."""
        return self._runner.run(conversation)

    @property
    def hot(self) -> Cell:
        """The cell with the hot path."""
        return self._cells[0]

    def in_flight(self) -> list[int]:
        """Return how many requests each is answering."""
        return [cell.in_flight for cell in self._cells]

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
    ("a send to everyone without discovery", "/send", b'{"to_cell":"*"}', 503),
    ("a send to several without discovery", "/send", b'{"to_cell":["alpha","beta"],"message_id":"s"}', 502),
    ("a send to each instance of nobody", "/send", b'{"to_cell":["a b"],"instances":"all","message_id":"s"}', 502),
    ("a question to several", "/send", b'{"to_cell":"*","await_reply":1}', 422),
    ("a question without discovery", "/send", b'{"to_cell":"alpha","await_reply":1}', 503),
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
        ({"content-length": "999999999999999999"}, 413),
        ({"origin": "http://evil.com", "content-type": "text/plain"}, 403),
    ],
)
def test_both_refuse_what_a_request_may_not_look_like(
    pair: Pair, path: str, headers: dict[str, str], status: int
) -> None:
    """Expect the same refusal before the body is read; one of a send says that nothing was delivered."""
    got, _, answer = pair.ask(path, message(), headers=headers)
    assert got == status
    if path == "/send":
        assert (answer["maybe_delivered"], answer["origin"], answer["message_id"]) == (False, "self", None)


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

    async def broken(protocol: HttpToolsProtocol, wire: Wire) -> bytes:
        head, body = request("/message", message(message_id="broken"))
        protocol.data_received(head + body[:20])
        await asyncio.sleep(0)
        return wire.written

    before = pair.totals()
    assert pair.on_both(broken) == [b"", b""]
    assert pair.totals() == before
    pair.ask("/message", message(message_id="after-broken"))


def test_requests_in_one_piece_are_answered_in_their_order(pair: Pair) -> None:
    """Expect the answers of pipelined requests one after the other, whoever answers them."""
    wanted = [("/message", "first"), ("/send", ""), ("/messages?limit=1", ""), ("/message", "last")]

    async def pipelined(protocol: HttpToolsProtocol, wire: Wire) -> list[str]:
        sent = b""
        for path, identity in wanted:
            method = "GET" if path.startswith("/messages") else "POST"
            sent += b"".join(request(path, message(message_id=identity) if identity else b"", method=method))
        protocol.data_received(sent)
        await eventually_async(lambda: wire.written.count(b"HTTP/1.1 ") == len(wanted), within=20)
        return re.findall(r"HTTP/1\.1 (\d+)|\"message_id\":\"(first|last)\",\"acknowledged", wire.written.decode())

    hot, plain = pair.on_both(pipelined)
    assert hot == plain
    assert [status for status, _ in hot if status] == ["200", "400", "200", "200"]
    assert [identity for _, identity in hot if identity] == ["first", "last"]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_connection_that_is_to_end_is_closed_after_its_answer(pair: Pair, version: str) -> None:
    """Expect the answer to say so where it was asked, and the connection closed."""

    async def last(protocol: HttpToolsProtocol, wire: Wire) -> tuple[str | None, bool]:
        head, body = request("/message", message(message_id=f"last-{version}"), headers={"connection": "close"})
        protocol.data_received(head.replace(b"HTTP/1.1", b"HTTP/" + version.encode()) + body)
        answer = await answered(wire)
        return answer.headers.get("connection"), wire.is_closing()

    assert pair.on_both(last) == [("close", True)] * 2


def test_a_client_that_waits_for_leave_to_send_its_body_is_given_it(pair: Pair) -> None:
    """Expect 100 Continue before the body comes (RFC 9110, 10.1.1), then the answer."""

    async def polite(protocol: HttpToolsProtocol, wire: Wire) -> tuple[bytes, int]:
        head, body = request("/message", message(message_id="polite"), headers={"expect": "100-continue"})
        protocol.data_received(head)
        leave = await eventually_async(lambda: wire.written, within=5, message="leave to send")
        wire.written = b""
        protocol.data_received(body)
        return leave, (await answered(wire)).status

    assert pair.on_both(polite) == [(b"HTTP/1.1 100 Continue\r\n\r\n", 200)] * 2


def test_a_body_that_takes_too_long_is_given_up(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect 408 and the connection closed, nothing stored, and nothing kept of what still comes."""
    monkeypatch.setattr(exchange, "BODY_TIMEOUT", 0.05)

    async def slow(protocol: HttpToolsProtocol, wire: Wire) -> tuple[int, str, str | None, bool]:
        head, body = request("/message", message(message_id="slow"))
        protocol.data_received(head + body[:10])
        late = await answered(wire)
        protocol.data_received(body[10:])
        return late.status, json.loads(late.body)["code"], late.headers.get("connection"), wire.is_closing()

    before = pair.totals()
    assert pair.on_both(slow) == [(408, "request_timeout", "close", True)] * 2
    assert pair.totals() == before
    pair.ask("/message", message(message_id="after-slow"))


def test_a_body_in_pieces_is_answered_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect no second answer when the time for a body is over that had come long before."""
    monkeypatch.setattr(exchange, "BODY_TIMEOUT", 0.05)

    async def pieces(protocol: HttpToolsProtocol, wire: Wire) -> int:
        head, body = request("/message", message(message_id="in-pieces"))
        protocol.data_received(head + body[:10])
        protocol.data_received(body[10:])
        await answered(wire)
        over = asyncio.get_running_loop().time() + 0.15
        await eventually_async(lambda: asyncio.get_running_loop().time() > over, within=5)
        return wire.written.count(b"HTTP/1.1 ")

    assert pair.on_both(pieces) == [1, 1]
    assert pair.in_flight() == [0, 0]


def test_a_client_that_does_not_read_its_answers_is_not_answered_on_and_on(pair: Pair) -> None:
    """Expect nothing written while the client takes nothing, and the answers once it does."""

    async def full(protocol: HttpToolsProtocol, wire: Wire) -> tuple[bytes, int]:
        protocol.pause_writing()
        for _ in range(3):
            protocol.data_received(b"".join(request("/message", b"{}")))
            await asyncio.sleep(0)
        meanwhile, wire.written = wire.written, b""
        protocol.resume_writing()
        await eventually_async(lambda: wire.written.count(b"HTTP/1.1 422") == 3, within=5)
        return meanwhile, wire.written.count(b"HTTP/1.1 ")

    assert pair.on_both(full) == [(b"", 3)] * 2


def test_no_body_is_kept_once_it_is_answered(pair: Pair) -> None:
    """Expect an idle connection to hold nothing of the last message."""

    async def idle(protocol: HttpToolsProtocol, wire: Wire) -> int:
        protocol.data_received(b"".join(request("/message", padded(LIMIT))))
        await answered(wire)
        cycle: Any = protocol.cycle
        return len(cycle.body) if hasattr(cycle, "body") else sum(map(len, cycle.parts))

    assert pair.on_both(idle) == [0, 0]


def hot_only(cell: Cell, wire: Wire) -> HotProtocol:
    """Return a connection to a cell with the hot path, made now: it has the cell's handlers of this moment."""
    guard = Guard(cell.settings)
    config = Config(build(cell, guard), lifespan="off", log_config=None, access_log=False)
    config.load()
    protocol = HotProtocol(config, ServerState(), {}, cell=cell, guard=guard)
    protocol.connection_made(wire)
    return protocol


def test_a_client_that_leaves_is_not_waited_for(pair: Pair) -> None:
    """Expect nothing written, and no request left under way once its message is stored."""
    pair.ask("/message", message(message_id="left"))

    async def leave() -> tuple[int, bytes]:
        wire = Wire()
        protocol = hot_only(pair.hot, wire)
        protocol.data_received(b"".join(request("/message", message(message_id="left"))))
        wire.close()
        protocol.connection_lost(None)
        under_way = pair.hot.in_flight
        await eventually_async(lambda: pair.hot.in_flight == 0, within=10)
        return under_way, wire.written

    assert pair.run(leave()) == (1, b"")


@pytest.mark.parametrize("answers_first", [False, True])
def test_a_handler_that_fails_is_answered_for(pair: Pair, monkeypatch: pytest.MonkeyPatch, answers_first: bool) -> None:
    """Expect exactly one answer, none under way, and a connection that goes on."""
    cell = pair.hot

    def failing(_: bytes, answer: Callable[[Reply], None]) -> None:
        if answers_first:
            answer(Reply(200, b"{}"))
        raise RuntimeError("a fault of ours")

    async def talk() -> list[str]:
        monkeypatch.setattr(cell.receiver, "message", failing)
        wire = Wire()
        protocol = hot_only(cell, wire)
        for _ in range(2):
            protocol.data_received(b"".join(request("/message", message())))
        protocol.connection_lost(None)
        return re.findall(r"HTTP/1\.1 (\d+)", wire.written.decode())

    assert pair.run(talk()) == (["200"] * 2 if answers_first else ["500"] * 2)
    assert pair.in_flight() == [0, 0]


def test_a_request_behind_an_answered_one_is_not_cut_off_by_the_idle_time(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect the keep-alive timer not to run while a request is under way that came in the same piece."""
    cell = pair.hot
    held: list[Callable[[Reply], None]] = []

    async def talk() -> tuple[bool, bool]:
        monkeypatch.setattr(cell.sender, "send", lambda _, answer: held.append(answer))
        wire = Wire()
        protocol = hot_only(cell, wire)
        protocol.data_received(b"".join([*request("/message", b"{}"), *request("/send", b"{}")]))
        under_way = protocol.timeout_keep_alive_task is not None
        held[0](Reply(200, b"{}"))
        idle = protocol.timeout_keep_alive_task is not None
        protocol.connection_lost(None)
        return under_way, idle

    assert pair.run(talk()) == (False, True)


texts = st.text(max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    "message_id", "from_cell", "to_cell", "message_type", "payload", "timestamp", "priority", "ttl", "acknowledged",
    "reply_to", "tracestate", "to_uid", "ttl_remaining", "content", "metadata", "type", "timeout", "mode",
    "await_reply", "instances", "not_before", "for_instance",
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
