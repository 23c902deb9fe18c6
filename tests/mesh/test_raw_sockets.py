"""Bytes that no HTTP client would send: a cell answers or closes, stays well, and keeps nothing half."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processes import Cell
from support import eventually

pytestmark = pytest.mark.mesh

LIMIT = 65536
PATHS = ["/message", "/message/batch", "/message/legacy", "/send"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    """Run one cell for all tests."""
    cell = Cell("pure", tmp_path_factory.mktemp("cell"), max_body=str(LIMIT), max_batch_bytes=str(LIMIT))
    try:
        cell.start()
        yield cell
    finally:
        cell.kill()


@pytest.fixture
def cell(shared: Cell) -> Iterator[Cell]:
    """Return the cell; expect it well, and nothing stored but what the test says, afterwards."""
    before = total(shared)
    yield shared
    assert shared.get("/readyz", timeout=5).status == 200
    assert shared.returncode is None
    assert total(shared) - before == getattr(shared, "expected", 0)
    shared.__dict__.pop("expected", None)


def total(cell: Cell) -> int:
    """Return how many messages the cell keeps."""
    return int(cell.messages("limit=1")["total"])


def expect_stored(cell: Cell, count: int) -> None:
    """Say that a test stores messages."""
    cell.__dict__["expected"] = count


def message(message_id: str, **payload: object) -> bytes:
    """Return a message as JSON."""
    return json.dumps({"message_id": message_id, "from_cell": "raw", "payload": payload}).encode()


def head(path: str, *lines: str) -> bytes:
    """Return the head of a POST request."""
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *lines, "", ""]
    ).encode()


def chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def connect(cell: Cell) -> socket.socket:
    """Return a connection."""
    return socket.create_connection(("127.0.0.1", cell.port), timeout=10)


def everything(connection: socket.socket) -> bytes:
    """Read until the other side closes; a reset is a close."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def read_answers(connection: socket.socket, count: int) -> list[tuple[int, dict]]:
    """Read this many answers with JSON bodies."""
    received = b""
    answers: list[tuple[int, dict]] = []
    while len(answers) < count:
        data = connection.recv(65536)
        assert data, f"closed after {len(answers)} answers: {received[-200:]!r}"
        received += data
        while b"\r\n\r\n" in received:
            top, _, rest = received.partition(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in top.split(b"\r\n")[1:])
            length = int(fields[b"content-length"])
            if len(rest) < length:
                break
            answers.append((int(top.split()[1]), json.loads(rest[:length])))
            received = rest[length:]
    assert received == b""
    return answers


@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_is_cut_off_leaves_nothing(cell: Cell, path: str) -> None:
    """Expect a body shorter than it says, followed by a close, to store nothing."""
    body = message("cut")
    with connect(cell) as connection:
        connection.sendall(head(path, f"Content-Length: {len(body)}") + body[:-1])
        connection.shutdown(socket.SHUT_WR)
        assert b" 200 " not in everything(connection)


@pytest.mark.parametrize("path", PATHS)
def test_a_client_that_vanishes_leaves_nothing(cell: Cell, path: str) -> None:
    """Expect a reset in the middle of a body to store nothing."""
    with connect(cell) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        connection.sendall(head(path, "Content-Length: 100") + b"{")


def test_a_body_that_comes_byte_by_byte_is_taken(cell: Cell) -> None:
    """Expect a slow client served, and others meanwhile."""
    expect_stored(cell, 2)
    body = message("slow")
    with connect(cell) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(head("/message", f"Content-Length: {len(body)}"))
        for index in range(len(body) - 1):
            connection.sendall(body[index : index + 1])
        assert cell.post("/message", json.loads(message("meanwhile")), timeout=5).status == 200
        connection.sendall(body[-1:])
        assert read_answers(connection, 1)[0][0] == 200


def test_a_client_that_half_closes_can_repeat_its_message(cell: Cell) -> None:
    """Expect a true answer or none, and the message once after it has come again."""
    expect_stored(cell, 1)
    body = message("half-closed")
    with connect(cell) as connection:
        connection.sendall(head("/message", f"Content-Length: {len(body)}") + body)
        connection.shutdown(socket.SHUT_WR)
        answered = everything(connection)
    # The HTTP server takes a half-close for a close; what counts is that an acknowledgement is true.
    if b" 200 " in answered:
        assert cell.get("/messages/half-closed").status == 200
    assert cell.post("/message", json.loads(body)).status == 200


def test_many_open_requests_keep_nobody_out(cell: Cell) -> None:
    """Expect a message taken while hundreds of bodies do not come."""
    expect_stored(cell, 1)
    connections = [connect(cell) for _ in range(300)]
    try:
        for connection in connections:
            connection.sendall(head("/message", "Content-Length: 50") + b"{")
        begun = time.monotonic()
        assert cell.post("/message", json.loads(message("beside")), timeout=5).status == 200
        assert time.monotonic() - begun < 5
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("length", ["-1", "abc", "1.5", "0x10", "", "99999999999999999999999", "10, 11", "+5"])
def test_a_length_that_is_none_is_refused(cell: Cell, length: str) -> None:
    """Expect 4xx or a close."""
    with connect(cell) as connection:
        connection.sendall(head("/message", f"Content-Length: {length}", "Connection: close") + message("length"))
        connection.shutdown(socket.SHUT_WR)
        answered = everything(connection)
    assert answered == b"" or answered.startswith(b"HTTP/1.1 4")


def test_two_different_lengths_are_refused(cell: Cell) -> None:
    """Expect no request smuggled behind another."""
    with connect(cell) as connection:
        connection.sendall(head("/message", "Content-Length: 2", "Content-Length: 3") + b"{}x")
        assert everything(connection).startswith(b"HTTP/1.1 400")


def test_a_length_and_chunks_together_are_refused(cell: Cell) -> None:
    """Expect no request smuggled behind another."""
    with connect(cell) as connection:
        connection.sendall(
            head("/message", "Content-Length: 5", "Transfer-Encoding: chunked")
            + chunk(message("smuggled"))
            + chunk(b"")
        )
        assert everything(connection).startswith(b"HTTP/1.1 400")


def test_a_length_shorter_than_the_body_ends_the_message_there(cell: Cell) -> None:
    """Expect the first part refused as cut-off JSON, and the rest not to be a request."""
    body = message("short")
    with connect(cell) as connection:
        connection.sendall(head("/message", f"Content-Length: {len(body) - 5}") + body)
        connection.shutdown(socket.SHUT_WR)
        assert b" 200 " not in everything(connection)


def test_a_length_over_the_limit_is_refused_before_the_body_comes(cell: Cell) -> None:
    """Expect 413 at once."""
    with connect(cell) as connection:
        connection.sendall(head("/message", f"Content-Length: {LIMIT + 1}"))
        status, body = read_answers(connection, 1)[0]
    assert (status, body["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("path", PATHS)
def test_chunks_over_the_limit_are_refused(cell: Cell, path: str) -> None:
    """Expect 413 although no length was said."""
    with connect(cell) as connection:
        connection.sendall(head(path, "Transfer-Encoding: chunked"))
        try:
            for _ in range(LIMIT * 3 // 8192):
                connection.sendall(chunk(b" " * 8192))
            connection.sendall(chunk(b""))
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all was sent
        assert everything_at_once(connection).startswith(b"HTTP/1.1 413")


def everything_at_once(connection: socket.socket) -> bytes:
    """Return what has been answered so far, at least one read."""
    return connection.recv(65536)


def test_chunks_make_a_message(cell: Cell) -> None:
    """Expect a chunked body taken like any other."""
    expect_stored(cell, 1)
    body = message("chunked")
    with connect(cell) as connection:
        connection.sendall(head("/message", "Transfer-Encoding: chunked"))
        for start in range(0, len(body), 7):
            connection.sendall(chunk(body[start : start + 7]))
        connection.sendall(b"0\r\n\r\n")
        assert read_answers(connection, 1)[0][0] == 200


def test_chunks_that_do_not_end_leave_nothing(cell: Cell) -> None:
    """Expect a complete message without the last chunk not to be stored."""
    with connect(cell) as connection:
        connection.sendall(head("/message", "Transfer-Encoding: chunked") + chunk(message("endless")))
        connection.shutdown(socket.SHUT_WR)
        assert b" 200 " not in everything(connection)


def test_a_chunk_size_that_is_none_is_refused(cell: Cell) -> None:
    """Expect 400 or a close."""
    with connect(cell) as connection:
        connection.sendall(head("/message", "Transfer-Encoding: chunked") + b"xyz\r\n{}\r\n0\r\n\r\n")
        assert b" 200 " not in everything(connection)


def test_requests_sent_at_once_are_answered_in_order(cell: Cell) -> None:
    """Expect each of ten pipelined messages acknowledged, a bad one among them refused."""
    expect_stored(cell, 9)
    bodies = [message(f"pipelined-{index}") if index != 4 else b"{}" for index in range(10)]
    with connect(cell) as connection:
        connection.sendall(b"".join(head("/message", f"Content-Length: {len(body)}") + body for body in bodies))
        answers = read_answers(connection, 10)
    assert [status for status, _ in answers] == [200] * 4 + [422] + [200] * 5
    named = [body["message_id"] for status, body in answers if status == 200]
    assert named == [f"pipelined-{index}" for index in range(10) if index != 4]


def test_a_client_that_waits_for_leave_to_send_gets_it(cell: Cell) -> None:
    """Expect 100 Continue and then the answer."""
    expect_stored(cell, 1)
    body = message("expecting")
    with connect(cell) as connection:
        connection.sendall(head("/message", f"Content-Length: {len(body)}", "Expect: 100-continue"))
        assert connection.recv(1000).startswith(b"HTTP/1.1 100")
        connection.sendall(body)
        assert read_answers(connection, 1)[0][0] == 200


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00" * 100,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x55" * 200,
        b"hello\r\n\r\n",
        b"POST /message\r\n\r\n",
        b"POST /message HTTP/9.9\r\n\r\n",
        b"GET " + b"/a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /message HTTP/1.1\r\nHost: a\r\nbad header line\r\n\r\n",
        b"POST /message HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"\r\n" * 1000,
    ],
    ids=[
        "zeros",
        "tls",
        "text",
        "no version",
        "version 9.9",
        "long path",
        "http2",
        "bad header",
        "many headers",
        "lines",
    ],
)
def test_garbage_is_answered_with_an_error_or_a_close(cell: Cell, garbage: bytes) -> None:
    """Expect no success and no hang."""
    with connect(cell) as connection:
        try:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # closed before all was sent
        answered = everything(connection)
    assert answered == b"" or answered.startswith(b"HTTP/1.1 4")


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    path=st.sampled_from(PATHS),
    body=st.binary(max_size=60) | st.text(max_size=40).map(str.encode),
    at=st.integers(0, 200),
    bad=st.binary(max_size=12),
)
def test_any_bytes_in_a_request_are_answered_or_closed(cell: Cell, path: str, body: bytes, at: int, bad: bytes) -> None:
    """Expect an answer that is no 5xx, or a close, for bytes put anywhere in a request."""
    whole = head(path, f"Content-Length: {len(body)}", "Connection: close") + body
    with connect(cell) as connection:
        try:
            connection.sendall(whole[:at] + bad + whole[at:])
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        answered = everything(connection)
    assert answered == b"" or answered.startswith((b"HTTP/1.1 4", b"HTTP/1.1 1"))


def test_connections_that_end_are_let_go(shared: Cell) -> None:
    """Expect no descriptor left behind by all of the above."""
    descriptors = Path(f"/proc/{shared.pid}/fd")
    if not descriptors.exists():
        pytest.skip("no /proc here")
    eventually(lambda: len(list(descriptors.iterdir())) < 100, within=40, message="connections to be closed")
