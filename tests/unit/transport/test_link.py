"""The queue of messages to one instance: what goes out together, and what becomes of each message."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from cellmesh.protocol.peers import Peer
from cellmesh.protocol.problems import Problem
from cellmesh.transport.http1 import Lost, NotSent
from cellmesh.transport.link import Link, Ticket
from support import eventually_async, free_port

OK = b'{"acknowledged":true}'
#: Status, body, offer of batches; None closes the connection without an answer.
Said = tuple[int, bytes, str | None] | None


class Server:
    """A server that keeps what it gets, holds its answers back when told, and answers by ``script``."""

    def __init__(self, offer: str | None) -> None:
        self.offer = offer
        self.requests: list[tuple[str, Any]] = []
        self.sizes: list[int] = []
        self.open = asyncio.Event()
        self.open.set()
        self.script: Callable[[str, Any], Said] = self.accept
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    def accept(self, path: str, body: Any) -> Said:
        """Acknowledge everything."""
        if path == "/message":
            return 200, OK, self.offer
        return 200, json.dumps([{"status": 200, "body": {"n": item["n"]}} for item in body]).encode(), None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self._writers.append(writer)
        self._tasks.add(task := asyncio.current_task())  # type: ignore[arg-type] # it is one
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                top = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(next(x for x in top.split("\r\n") if x.startswith("content-length")).split(":")[1])
                text = await reader.readexactly(length)
                path, body = top.split()[1], json.loads(text)
                self.requests.append((path, body))
                self.sizes.append(length)
                await self.open.wait()
                said = self.script(path, body)
                if said is None:
                    break
                status, answer, offer = said
                extra = f"CellMesh-Batch: {offer}\r\n" if offer else ""
                writer.write(f"HTTP/1.1 {status} X\r\n{extra}Content-Length: {len(answer)}\r\n\r\n".encode() + answer)
        self._tasks.discard(task)
        writer.close()

    async def close(self) -> None:
        """End every connection."""
        for task in self._tasks:
            task.cancel()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)

    @property
    def numbers(self) -> list[Any]:
        """What came, by request: the number of a single message, a list for a batch."""
        return [[m["n"] for m in body] if isinstance(body, list) else body["n"] for _, body in self.requests]


@contextlib.asynccontextmanager
async def linked(
    offer: str | None, max_messages: int = 1000, max_bytes: int = 1_000_000
) -> AsyncIterator[tuple[Server, Link]]:
    """Run a server and a link to it."""
    server = Server(offer)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    link = Link(Peer(cell_id="pure", ip="127.0.0.1", port=server.port), max_messages, max_bytes)
    try:
        yield server, link
    finally:
        server.open.set()
        link.close()
        await server.close()
        listener.close()
        await listener.wait_closed()


def submit(link: Link, number: int, padding: int = 0) -> Ticket:
    """Submit one message."""
    return link.submit(json.dumps({"n": number, "p": "x" * padding}).encode())


def run(test: Callable[[Server, Link], Awaitable[None]], offer: str | None, **limits: int) -> None:
    """Run a test against a server with this offer."""

    async def main() -> None:
        async with asyncio.timeout(20), linked(offer, **limits) as (server, link):
            await test(server, link)

    asyncio.run(main())


async def held(server: Server, link: Link, count: int) -> list[Ticket]:
    """Learn the offer by message 0, then submit 1 to ``count`` while answers are held back."""
    await submit(link, 0).future
    server.open.clear()
    return [submit(link, number) for number in range(1, count + 1)]


def test_without_an_offer_each_message_is_a_request() -> None:
    """Expect singles only, however many wait."""

    async def test(server: Server, link: Link) -> None:
        tickets = await held(server, link, 100)
        server.open.set()
        await asyncio.gather(*(ticket.future for ticket in tickets))
        assert {path for path, _ in server.requests} == {"/message"}
        assert sorted(server.numbers) == list(range(101))

    run(test, None)


def test_before_the_first_answer_no_batch_is_sent() -> None:
    """Expect nothing sent to /message/batch of a server that has not offered it yet."""

    async def test(server: Server, link: Link) -> None:
        server.open.clear()
        tickets = [submit(link, number) for number in range(10)]
        await eventually_async(lambda: len(server.requests) == 10, within=5)
        assert {path for path, _ in server.requests} == {"/message"}
        server.open.set()
        await asyncio.gather(*(ticket.future for ticket in tickets))

    run(test, "100,100000")


def test_after_the_offer_what_waits_goes_out_together() -> None:
    """Expect what was submitted at once in one batch, and what came meanwhile in the next one."""

    async def test(server: Server, link: Link) -> None:
        tickets = await held(server, link, 10)
        await eventually_async(lambda: len(server.requests) == 2, within=5)
        tickets += [submit(link, number) for number in range(11, 31)]
        assert link.waiting == 20
        server.open.set()
        receipts = await asyncio.gather(*(ticket.future for ticket in tickets))
        assert {receipt.status for receipt in receipts} == {200}
        assert [json.loads(receipt.body)["n"] for receipt in receipts] == list(range(1, 31))
        assert server.numbers == [0, list(range(1, 11)), list(range(11, 31))]

    run(test, "100,100000")


def test_a_message_alone_is_sent_alone() -> None:
    """Expect no batch of one."""

    async def test(server: Server, link: Link) -> None:
        for number in range(3):
            await submit(link, number).future
        assert server.numbers == [0, 1, 2]

    run(test, "100,100000")


def test_a_batch_has_at_most_as_many_messages_as_offered() -> None:
    """Expect none above three."""

    async def test(server: Server, link: Link) -> None:
        tickets = await held(server, link, 20)
        server.open.set()
        await asyncio.gather(*(ticket.future for ticket in tickets))
        assert max(len(numbers) for numbers in server.numbers if isinstance(numbers, list)) == 3

    run(test, "3,100000")


def test_a_batch_has_at_most_as_many_bytes_as_offered() -> None:
    """Expect no batch above 200 bytes; a message that is longer alone goes alone."""

    async def test(server: Server, link: Link) -> None:
        await submit(link, 0).future
        server.open.clear()
        tickets = [submit(link, number, padding=500 if number == 5 else 30) for number in range(1, 21)]
        server.open.set()
        await asyncio.gather(*(ticket.future for ticket in tickets))
        batches = [
            size for size, numbers in zip(server.sizes, server.numbers, strict=True) if isinstance(numbers, list)
        ]
        assert batches
        assert max(batches) <= 200
        assert 5 in server.numbers

    run(test, "100,200")


@pytest.mark.parametrize("offer", ["nonsense", "5", ",", "-,-"])
def test_an_offer_that_cannot_be_read_is_none(offer: str) -> None:
    """Expect singles."""

    async def test(server: Server, link: Link) -> None:
        tickets = await held(server, link, 10)
        server.open.set()
        await asyncio.gather(*(ticket.future for ticket in tickets))
        assert {path for path, _ in server.requests} == {"/message"}

    run(test, offer)


@pytest.mark.parametrize("status", [404, 405, 413, 415, 501])
def test_a_server_that_takes_no_batches_any_more_gets_singles(status: int) -> None:
    """Expect the offer forgotten, every message delivered once, and no batch again."""

    async def test(server: Server, link: Link) -> None:
        def no_batches(path: str, _: Any) -> Said:
            return (200, OK, None) if path == "/message" else (status, b"{}", None)

        tickets = await held(server, link, 10)
        server.script = no_batches
        server.open.set()
        receipts = await asyncio.gather(*(ticket.future for ticket in tickets))
        assert {receipt.status for receipt in receipts} == {200}
        singles = [numbers for numbers in server.numbers if not isinstance(numbers, list)]
        assert sorted(singles) == list(range(11))
        refused = len(server.numbers) - len(singles)
        await asyncio.gather(*(submit(link, number).future for number in range(11, 20)))
        assert len(server.numbers) - refused == 20

    run(test, "100,100000")


def test_each_message_of_a_batch_gets_its_own_outcome() -> None:
    """Expect one refused among those acknowledged."""

    async def test(server: Server, link: Link) -> None:
        def picky(path: str, body: Any) -> Said:
            if path == "/message":
                return 200, OK, server.offer
            items = [{"status": 422 if item["n"] == 7 else 200, "body": {"n": item["n"]}} for item in body]
            return 200, json.dumps(items).encode(), None

        tickets = await held(server, link, 10)
        server.script = picky
        server.open.set()
        receipts = await asyncio.gather(*(ticket.future for ticket in tickets))
        assert [receipt.status for receipt in receipts] == [200] * 6 + [422] + [200] * 3

    run(test, "100,100000")


def test_an_error_for_a_whole_batch_is_everyones() -> None:
    """Expect 503 for each of its messages."""

    async def test(server: Server, link: Link) -> None:
        tickets = await held(server, link, 10)
        server.script = lambda *_: (503, b'{"code":"draining"}', None)
        server.open.set()
        receipts = await asyncio.gather(*(ticket.future for ticket in tickets))
        assert {receipt.status for receipt in receipts} == {503}

    run(test, "100,100000")


@pytest.mark.parametrize("said", [(200, b"[]", None), (200, b"{}", None), (200, b"not json", None), None])
def test_a_batch_whose_answer_is_lost_is_unknown_for_each_of_its_messages(said: Said) -> None:
    """Expect ``Lost`` for all, and that each may have left."""

    async def test(server: Server, link: Link) -> None:
        tickets = await held(server, link, 10)
        await eventually_async(lambda: len(server.requests) == 2, within=5)
        server.script = lambda path, body: said if isinstance(body, list) else server.accept(path, body)
        server.open.set()
        outcomes = await asyncio.gather(*(ticket.future for ticket in tickets), return_exceptions=True)
        batched = [n for numbers in server.numbers if isinstance(numbers, list) for n in numbers]
        assert batched
        assert [isinstance(outcomes[n - 1], Lost) for n in batched] == [True] * len(batched)
        assert all(ticket.sent for ticket in tickets)

    run(test, "100,100000")


def test_a_caller_that_gives_up_leaves_the_batch_running() -> None:
    """Expect the others of the batch answered."""

    async def test(server: Server, link: Link) -> None:
        tickets = await held(server, link, 10)
        await eventually_async(lambda: len(server.requests) == 2, within=5)
        tickets[5].future.set_exception(TimeoutError())
        server.open.set()
        outcomes = await asyncio.gather(*(ticket.future for ticket in tickets), return_exceptions=True)
        assert isinstance(outcomes.pop(5), TimeoutError)
        assert {receipt.status for receipt in outcomes} == {200}  # type: ignore[union-attr] # no exceptions are left

    run(test, "100,100000")


def test_a_message_whose_caller_has_given_up_before_its_turn_is_not_sent() -> None:
    """Expect it left out, and said not to have left."""

    async def test(server: Server, link: Link) -> None:
        server.open.clear()
        tickets = [submit(link, number) for number in range(70)]
        await eventually_async(lambda: len(server.requests) == 64, within=5)
        tickets[69].future.cancel()
        assert not tickets[69].sent
        server.open.set()
        await asyncio.gather(*(ticket.future for ticket in tickets[:69]))
        assert 69 not in server.numbers
        assert link.idle or link.waiting == 0

    run(test, None)


def test_too_many_waiting_messages_are_refused() -> None:
    """Expect 429 ``link_full`` for the one above the bound, and room again later."""

    async def test(server: Server, link: Link) -> None:
        server.open.clear()
        tickets = [submit(link, number) for number in range(5)]
        with pytest.raises(Problem) as caught:
            submit(link, 5)
        assert (caught.value.code, caught.value.http_status, caught.value.retry_after) == ("link_full", 429, 1)
        server.open.set()
        await asyncio.gather(*(ticket.future for ticket in tickets))
        assert (await submit(link, 6).future).status == 200

    run(test, None, max_messages=5)


def test_too_many_waiting_bytes_are_refused() -> None:
    """Expect 429 ``link_full``, and a smaller message still taken."""

    async def test(server: Server, link: Link) -> None:
        first = submit(link, 0, padding=600)
        with pytest.raises(Problem) as caught:
            submit(link, 1, padding=600)
        assert caught.value.code == "link_full"
        assert (await submit(link, 2).future).status == 200
        await first.future

    run(test, None, max_bytes=1000)


def test_a_refused_connection_is_not_sent() -> None:
    """Expect ``NotSent``, and no byte said to have left."""

    async def main() -> None:
        link = Link(Peer(cell_id="pure", ip="127.0.0.1", port=free_port()), 10, 1000)
        ticket = submit(link, 0)
        with pytest.raises(NotSent):
            await ticket.future
        assert not ticket.sent
        link.close()

    asyncio.run(main())


def test_a_link_that_closes_leaves_nobody_waiting() -> None:
    """Expect ``Lost`` for what is under way and ``NotSent`` for what waits."""

    async def test(server: Server, link: Link) -> None:
        server.open.clear()
        tickets = [submit(link, number) for number in range(70)]
        await eventually_async(lambda: len(server.requests) == 64, within=5)
        link.close()
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(*(ticket.future for ticket in tickets), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Lost] * 64 + [NotSent] * 6

    run(test, None)


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    """Expect the answers of plain servers taken."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + OK)
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        link = Link(Peer(cell_id="pure", ip="127.0.0.1", port=listener.sockets[0].getsockname()[1]), 10, 1000)
        receipt = await submit(link, 0).future
        assert (receipt.status, receipt.body) == (200, OK)
        link.close()
        listener.close()
        await listener.wait_closed()

    asyncio.run(main())
