"""Discovery away, cells that restart, an orderly end, and programs that speak the seed's dialect."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import scripted
from processes import Answer, Cell, Mesh, mesh, request
from support import eventually

pytestmark = pytest.mark.mesh


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Mesh]:
    """Run alpha, pure and gamma; alpha and pure know each other."""
    with mesh(tmp_path, "alpha", "pure", "gamma", drain_accept="0") as running:
        assert running["alpha"].send("pure").status == 200
        assert running["pure"].send("alpha").status == 200
        yield running


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Mesh]:
    """Run alpha and pure, with a discovery that has run for longer than it takes to hear of everyone."""
    with mesh(tmp_path, "alpha", "pure", settle=0) as running:
        yield running


def test_messages_flow_while_discovery_is_down(three: Mesh) -> None:
    """Expect every send between cells that know each other delivered, both ways."""
    three.discovery.kill()
    for _ in range(20):
        assert three["alpha"].send("pure").status == 200
        assert three["pure"].send("alpha").status == 200


def test_a_cell_not_known_yet_is_said_to_be_unreachable_by_discoverys_absence(three: Mesh) -> None:
    """Expect 503 ``discovery_unavailable`` soon, and that nothing was delivered."""
    three.discovery.kill()
    begun = time.monotonic()
    answer = three["alpha"].send("gamma")
    assert (answer.status, answer.json["code"]) == (503, "discovery_unavailable")
    assert (answer.json["origin"], answer.json["maybe_delivered"]) == ("self", False)
    assert answer.headers["retry-after"]
    assert time.monotonic() - begun < 6


def test_discovery_restarted_empty_knows_everyone_within_ten_seconds(three: Mesh) -> None:
    """Expect all cells listed, and a send to a cell not talked to before delivered."""
    three.discovery.kill()
    begun = time.monotonic()
    three.discovery.start()
    three.wait_listed(*three.cells.values(), within=10)
    assert three["alpha"].send("gamma", payload={}).status == 200
    assert time.monotonic() - begun < 10 + 2  # the start of a Python process is not the mesh's


def test_a_send_just_after_discovery_restarted_empty_waits_for_its_cell(three: Mesh) -> None:
    """Expect no 404 while discovery has not heard from everyone yet."""
    three.discovery.kill()
    three.discovery.start()
    answer = three["alpha"].post("/send", {"to_cell": "gamma", "timeout": 20})
    assert (answer.status, answer.json.get("code")) == (200, None)


def test_messages_flow_while_discovery_restarts_empty(three: Mesh) -> None:
    """Expect every send delivered from before the kill until all cells are listed again."""
    with sending(three["alpha"], "pure") as answers:
        three.discovery.kill()
        three.discovery.start()
        three.wait_listed(*three.cells.values())
        more(answers, 50)
    assert {answer.status for answer in answers} == {200}


def test_a_cell_that_came_while_discovery_was_down_is_found(three: Mesh) -> None:
    """Expect it registered as soon as discovery is back, and a send to it delivered."""
    three.discovery.kill()
    late = Cell("late", three.directory, three.discovery.url)
    three.cells["late-0"] = late
    late.start()
    three.discovery.start()
    three.wait_listed(late, within=10)
    assert three["alpha"].send("late").status == 200


@contextlib.contextmanager
def sending(sender: Cell, to_cell: str, *, threads: int = 4, timeout: float = 30) -> Iterator[list[Answer]]:
    """Send in a loop, in several threads, until the block ends; yield the growing list of answers."""
    answers: list[Answer] = []
    done = threading.Event()

    def loop() -> None:
        while not done.is_set():
            answers.append(sender.post("/send", {"to_cell": to_cell, "timeout": timeout}, timeout=timeout + 10))

    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(loop) for _ in range(threads)]
        try:
            more(answers, 20)
            yield answers
        finally:
            done.set()
    for future in running:
        future.result()


def more(answers: list[Answer], count: int) -> None:
    """Wait until so many more answers have come."""
    wanted = len(answers) + count
    eventually(lambda: len(answers) >= wanted, within=40, message=f"{count} more answers")


@pytest.mark.parametrize("moved", [False, True], ids=["same port", "another port"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_cell_restarts_while_others_send_to_it(pair: Mesh, number: signal.Signals, moved: bool) -> None:
    """Expect every send to wait for its return and succeed, and each message there once."""
    pure = pair["pure"]
    with sending(pair["alpha"], "pure") as answers:
        pure.signal(number)
        pure.wait()
        if moved:
            pure.move()
        pure.start()
        more(answers, 50)
    assert {(answer.status, answer.json.get("code")) for answer in answers} == {(200, None)}
    acknowledged = [answer.json["message_id"] for answer in answers]
    assert sorted(acknowledged) == sorted(stored(pure))


def test_a_cell_that_has_gone_for_good_is_unknown_after_a_while(pair: Mesh) -> None:
    """Expect a send to wait for its return, and then 404."""
    assert pair["alpha"].send("pure").status == 200
    pair["pure"].stop()
    answer = pair["alpha"].post("/send", {"to_cell": "pure", "timeout": 40}, timeout=50)
    assert (answer.status, answer.json["code"]) == (404, "unknown_cell")
    assert answer.json["maybe_delivered"] is False


def stored(cell: Cell) -> list[str]:
    """Return the ids of all messages of a cell."""
    ids: list[str] = []
    after = 0
    while found := cell.messages(f"limit=1000&after={after}")["messages"]:
        ids += [message["message_id"] for message in found]
        after = found[-1]["seq"]
    return ids


def test_a_stopping_cell_is_unready_at_once_and_takes_messages_a_little_longer(pair: Mesh) -> None:
    """Expect 503 from /readyz while /message still acknowledges, then no more; exit code 0; all on disk."""
    pure = pair["pure"]
    acknowledged: list[str] = []
    pure.signal(signal.SIGTERM)
    begun = time.monotonic()
    unready = eventually(lambda: not_ready(pure), within=2, message="/readyz to say 503")
    assert (unready.json["code"], time.monotonic() - begun < 1) == ("draining", True)
    refusals = []
    accepted_until = begun
    for number in range(100_000):
        try:
            answer = pure.post("/message", {"from_cell": "x", "message_id": f"m{number}", "payload": {}})
        except OSError:
            break
        if answer.status == 200:
            acknowledged.append(f"m{number}")
            accepted_until = time.monotonic()
        else:
            refusals.append((answer.status, answer.json["code"]))
    assert 1.5 < accepted_until - begun < 4
    assert set(refusals) <= {(503, "draining")}
    assert pure.wait() == 0
    pure.start()
    assert stored(pure) == acknowledged


def not_ready(cell: Cell) -> Answer | None:
    """Return the answer of /readyz if it is 503."""
    answer = cell.get("/readyz")
    return answer if answer.status == 503 else None


def test_a_stopping_cell_leaves_discovery_at_once(pair: Mesh) -> None:
    """Expect it gone from the peers while it still takes messages."""
    pure = pair["pure"]
    pure.signal(signal.SIGTERM)
    eventually(lambda: "pure-0" not in pair.discovery.peers(), within=1.5, message="pure to be gone")
    assert pure.post("/message", {"from_cell": "x", "message_id": "m", "payload": {}}).status == 200


def test_a_stopping_cell_finishes_what_it_is_sending(pair: Mesh) -> None:
    """Expect a send that was under way at SIGTERM answered, and then exit code 0."""
    alpha = pair["alpha"]
    go_on = threading.Event()

    def script(_: dict[str, Any]) -> bytes:
        go_on.wait(30)
        return scripted.answer(200, {"status": "received", "acknowledged": True})

    with scripted.peer(script) as slow, ThreadPoolExecutor(1) as pool:
        pair.discovery.register("slow", slow.port)
        under_way = pool.submit(alpha.send, "slow")
        eventually(lambda: slow.messages, within=10, message="the send to be under way")
        alpha.signal(signal.SIGTERM)
        eventually(lambda: refuses(alpha), within=10, message="alpha to take no more")
        go_on.set()
        assert under_way.result().status == 200
    assert alpha.wait() == 0


def test_a_send_that_is_not_finished_when_the_time_is_over_is_answered_with_what_is_known(tmp_path: Path) -> None:
    """Expect 504 and that it may have been delivered, for a receiver that has it and says nothing; then the end."""
    with mesh(tmp_path, "alpha", drain_accept="0", drain_timeout="1") as running, scripted.peer(None) as silent:
        running.discovery.register("silent", silent.port)
        alpha = running["alpha"]
        with ThreadPoolExecutor(1) as pool:
            under_way = pool.submit(alpha.send, "silent")
            eventually(lambda: silent.messages, within=10, message="the send to be under way")
            alpha.signal(signal.SIGTERM)
            reply = under_way.result()
        assert (reply.status, reply.json["code"]) == (504, "outcome_unknown")
        assert (reply.json["maybe_delivered"], reply.json["to_cell"]) == (True, "silent")
        assert alpha.wait() == 0


def refuses(cell: Cell) -> bool:
    """Tell whether a cell refuses messages because it is stopping."""
    return cell.post("/message", {"from_cell": "x", "message_id": "m", "payload": {}}).status == 503


def test_a_second_signal_ends_a_cell_at_once(pair: Mesh) -> None:
    """Expect it gone long before the time for accepting is over, with exit code 1."""
    pure = pair["pure"]
    pure.signal(signal.SIGTERM)
    eventually(lambda: not_ready(pure), within=2, message="/readyz to say 503")
    begun = time.monotonic()
    pure.signal(signal.SIGTERM)
    assert pure.wait() == 1
    assert time.monotonic() - begun < 1.5


def test_what_was_acknowledged_before_a_second_signal_is_there(pair: Mesh) -> None:
    """Expect every acknowledged message after a stop that was cut short."""
    pure = pair["pure"]
    with sending_directly(pure) as acknowledged:
        pure.signal(signal.SIGTERM)
        eventually(lambda: not_ready(pure), within=2, message="/readyz to say 503")
        pure.signal(signal.SIGTERM)
        pure.wait()
    pure.start()
    assert set(acknowledged) <= set(stored(pure))


@contextlib.contextmanager
def sending_directly(cell: Cell) -> Iterator[list[str]]:
    """Post messages until the cell is gone; yield the growing list of ids acknowledged."""
    acknowledged: list[str] = []

    def loop() -> None:
        number = 0
        with contextlib.suppress(OSError, http.client.HTTPException):
            while True:
                number += 1
                answer = cell.post("/message", {"from_cell": "x", "message_id": f"m{number}", "payload": {}})
                if answer.status == 200:
                    acknowledged.append(f"m{number}")

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        eventually(lambda: len(acknowledged) > 20, within=20, message="acknowledgements")
        yield acknowledged
    finally:
        thread.join(40)


class PlainCell:
    """A program in the seed's dialect: registers, beats, looks up, posts; knows nothing of ours."""

    def __init__(self, cell_id: str, discovery_port: int) -> None:
        self.cell_id = cell_id
        self.messages: list[dict[str, Any]] = []
        self._discovery = discovery_port
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        cell = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                cell.messages.append(json.loads(body))
                answer = json.dumps({"status": "received", "acknowledged": True}).encode()
                self.send_response(200 if self.path == "/message" else 404)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def register(self) -> Answer:
        """Register as such programs do."""
        me = {
            "cell_id": self.cell_id,
            "ip": "127.0.0.1",
            "port": self.port,
            "type": "plain",
            "consciousness_level": 0.7,
        }
        return request(self._discovery, "POST", "/register", me)

    def beat(self) -> Answer:
        """Beat."""
        return request(self._discovery, "POST", "/heartbeat", {"cell_id": self.cell_id})

    def send(self, to_cell: str, payload: dict[str, Any]) -> Answer:
        """Look a cell up and post to it."""
        peers = request(self._discovery, "GET", "/peers").json["peers"]
        target = next(peer for peer in peers if peer["cell_id"] == to_cell)
        assert target["ip"] == "127.0.0.1"
        message = {"from_cell": self.cell_id, "to_cell": to_cell, "message_id": "plain-1", "payload": payload}
        return request(target["port"], "POST", "/message", message)

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture
def plain(pair: Mesh) -> Iterator[PlainCell]:
    """Run a plain program beside the cells, registered."""
    with contextlib.closing(PlainCell("plain", pair.discovery.port)) as cell:
        assert cell.register().json == {"status": "registered", "cell_id": "plain"}
        yield cell


def test_a_cell_sends_to_a_plain_program(pair: Mesh, plain: PlainCell) -> None:
    """Expect it delivered, with the program's own answer inside."""
    answer = pair["alpha"].send("plain", message_type="ping", payload={"text": "hello"})
    assert (answer.status, answer.json["status"]) == (200, "delivered")
    assert answer.json["target_url"] == f"http://127.0.0.1:{plain.port}/message"
    assert answer.json["response"] == {"status": "received", "acknowledged": True}
    assert [m["payload"] for m in plain.messages] == [{"text": "hello"}]


def test_what_a_plain_program_gets_has_the_fields_of_the_seed(pair: Mesh, plain: PlainCell) -> None:
    """Expect each of them, with its default where nothing was said."""
    pair["alpha"].send("plain", message_type="ping", payload={})
    seed = {"message_id", "from_cell", "to_cell", "message_type", "payload", "timestamp"}
    assert seed <= plain.messages[0].keys()


def test_many_sends_to_a_plain_program_arrive_one_by_one(pair: Mesh, plain: PlainCell) -> None:
    """Expect no batch sent to a program that does not offer it, and none lost."""
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: pair["alpha"].send("plain"), range(64)))
    assert {answer.status for answer in answers} == {200}
    assert sorted(m["message_id"] for m in plain.messages) == sorted(a.json["message_id"] for a in answers)


def test_a_plain_program_sends_to_a_cell(pair: Mesh, plain: PlainCell) -> None:
    """Expect its message acknowledged and shown."""
    answer = plain.send("alpha", {"reply": "Got your message!"})
    assert (answer.status, answer.json["acknowledged"]) == (200, True)
    assert pair["alpha"].messages()["messages"][0]["from_cell"] == "plain"


def test_a_plain_programs_own_fields_are_given_back(pair: Mesh, plain: PlainCell) -> None:
    """Expect what its registration brought in the peers, at any mesh's address."""
    assert pair.discovery.peers()["plain"]["consciousness_level"] == 0.7


def test_a_plain_program_registers_again_after_a_restart_of_discovery(pair: Mesh, plain: PlainCell) -> None:
    """Expect 404 to its beat, a registration, and sends to it as before."""
    assert plain.beat().status == 200
    pair.discovery.kill()
    pair.discovery.start()
    assert plain.beat().status == 404
    assert plain.register().status == 200
    assert pair["alpha"].send("plain").status == 200
