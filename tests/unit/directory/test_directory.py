"""What a cell knows of others, from a discovery that says what the test wants."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from cellmesh.discovery.directory import Directory
from cellmesh.discovery.reading import DiscoveryUnavailable
from support import eventually_async

pytestmark = pytest.mark.anyio

ALPHA = {"cell_id": "alpha", "instance": "alpha-0", "ip": "127.0.0.1", "port": 1, "durability": "volume"}
PURE = {"cell_id": "pure", "instance": "pure-0", "ip": "127.0.0.1", "port": 2, "durability": "ephemeral"}
PURE_1 = {**PURE, "instance": "pure-1", "port": 3}

#: Given the query and the headers of a request, returns the answer: its status, and its body or nothing.
Script = Callable[[dict[str, str], dict[str, str]], tuple[int, dict[str, Any] | None]]


class Told:
    """A discovery on a real socket.

    Attributes:
        script: what it answers.
        etag: the entity tag of its answers; with it, a matching If-None-Match is answered 304.
        away: connections are closed without an answer.
        requests: query and headers of each.

    """

    def __init__(self) -> None:
        self.script: Script = lambda *_: (200, {"peers": []})
        self.etag = ""
        self.away = False
        self.requests: list[tuple[dict[str, str], dict[str, str]]] = []
        self.url = ""

    def says(self, *peers: dict[str, Any], **more: Any) -> None:
        """Answer every question in the same way."""
        self.script = lambda *_: (200, {"peers": list(peers), **more})

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while not self.away:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
                parts = urlsplit(head[0].split()[1])
                assert parts.path == "/meshes/m/peers"
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                self.requests.append((query, headers))
                if self.away:
                    break
                status, body = self.script(query, headers)
                if self.etag and headers.get("if-none-match") == self.etag:
                    status, body = 304, None
                data = b"" if body is None else json.dumps(body).encode()
                lines = [f"HTTP/1.1 {status} Some", f"Content-Length: {len(data)}"]
                lines += [f"ETag: {self.etag}"] if self.etag else []
                writer.write("\r\n".join([*lines, "", ""]).encode() + data)
                await writer.drain()
        writer.close()


@pytest.fixture
async def told() -> AsyncIterator[Told]:
    """Run one."""
    found = Told()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/meshes/m"
    async with server:
        yield found


@pytest.fixture
async def directory(told: Told) -> AsyncIterator[Directory]:
    """Return the directory of a cell that asks it."""
    found = Directory(told.url)
    yield found
    await found.close()


def instances(peers: list[Any]) -> list[str]:
    """Return the names of some instances."""
    return [peer.key for peer in peers]


async def test_how_many_instances_a_cell_should_have_is_kept(told: Told, directory: Directory) -> None:
    """Expect the number, the newer one once it is told, and none where discovery says none."""
    told.says(PURE, version="1", replicas=2)
    entry = directory.entry("pure")
    await eventually_async(lambda: entry.replicas == 2, within=5, message="the first number")
    assert entry.peers[0].durability == "ephemeral"

    told.says(PURE, version="2", replicas=1)
    await directory.refresh(entry)
    await eventually_async(lambda: entry.replicas == 1, within=5, message="the second number")

    told.says(PURE, version="3")
    await eventually_async(lambda: entry.replicas is None, within=5, message="no number")


async def test_a_discovery_that_has_just_started_takes_no_number_back(told: Told, directory: Directory) -> None:
    """Expect what was known to stay until discovery has heard from everyone."""
    told.says(PURE, version="1", replicas=2)
    entry = directory.entry("pure")
    await eventually_async(lambda: entry.replicas == 2, within=5, message="the number")

    told.says(version="2", settled=False)
    await eventually_async(lambda: not entry.settled, within=5, message="the restart")

    assert (entry.replicas, instances(entry.peers)) == (2, ["pure-0"])


async def test_everyone_is_every_peer_of_the_mesh(told: Told, directory: Directory) -> None:
    """Expect all instances of all cells, without those that nobody could connect to."""
    told.says(ALPHA, PURE, PURE_1, {"cell_id": "nowhere", "port": 4}, version="1", settled=True)

    found = await directory.everyone(5)

    assert instances(found) == ["alpha-0", "pure-0", "pure-1"]
    assert [peer.durability for peer in found] == ["volume", "ephemeral", "ephemeral"]
    assert [query for query, _ in told.requests] == [{}]


async def test_what_has_not_changed_is_not_sent_again(told: Told, directory: Directory) -> None:
    """Expect the entity tag to go along, and the same list when discovery answers that it is still so."""
    told.etag = 'W/"a"'
    told.says(ALPHA, version="1")
    first = await directory.everyone(5)

    assert await directory.everyone(5) == first

    assert told.requests[-1][1]["if-none-match"] == 'W/"a"'
    told.etag = 'W/"b"'
    told.says(PURE, version="2")
    assert instances(await directory.everyone(5)) == ["pure-0"]


async def test_while_discovery_is_away_everyone_is_who_was_known_last(told: Told, directory: Directory) -> None:
    """Expect the last list, whatever is wrong, and a new one afterwards."""
    told.says(ALPHA, PURE, version="1")
    await directory.everyone(5)

    told.away = True
    assert instances(await directory.everyone(5)) == ["alpha-0", "pure-0"]
    told.away = False
    told.script = lambda *_: (503, {"error": "draining"})
    assert instances(await directory.everyone(5)) == ["alpha-0", "pure-0"]
    told.script = lambda *_: (200, {"peers": 5})
    assert instances(await directory.everyone(5)) == ["alpha-0", "pure-0"]

    told.says(PURE, version="2")
    assert instances(await directory.everyone(5)) == ["pure-0"]


async def test_a_connection_that_was_closed_while_idle_is_no_absence(told: Told, directory: Directory) -> None:
    """Expect the question to be asked once more at once."""
    told.says(ALPHA, version="1")
    await directory.everyone(5)
    told.says(PURE, version="2")
    answer = told.script

    def once(query: dict[str, str], headers: dict[str, str]) -> tuple[int, dict[str, Any] | None]:
        told.script = answer
        raise ConnectionError

    told.script = once

    assert instances(await directory.everyone(5)) == ["pure-0"]


async def test_who_knows_nobody_says_that_discovery_is_away(told: Told, directory: Directory) -> None:
    """Expect no empty list, which would mean that there is nobody; and soon."""
    told.away = True
    with pytest.raises(DiscoveryUnavailable):
        await directory.everyone(5)
    with pytest.raises(DiscoveryUnavailable, match="CELLMESH_DISCOVERY_URL"):
        await Directory("").everyone(5)


async def test_a_discovery_that_does_not_answer_is_waited_for_no_longer_than_asked() -> None:
    """Expect the deadline to hold."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with silent:
        directory = Directory(f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}/meshes/m")
        with pytest.raises(DiscoveryUnavailable):
            await asyncio.wait_for(directory.everyone(0.1), 4)
        await directory.close()


async def test_after_a_restart_of_discovery_nobody_is_forgotten_until_it_has_heard_everyone(
    told: Told, directory: Directory
) -> None:
    """Expect the known and the new, at once, and only those that are named once it has settled."""
    told.says(ALPHA, PURE, version="1")
    await directory.everyone(5)

    told.says({**ALPHA, "port": 9}, PURE_1, version="2", settled=False)
    found = await directory.everyone(5)
    assert {peer.key: peer.port for peer in found} == {"alpha-0": 9, "pure-1": 3, "pure-0": 2}

    told.says(PURE_1, version="3", settled=True)
    assert instances(await directory.everyone(5)) == ["pure-1"]


async def test_who_knows_nobody_waits_until_a_young_discovery_has_heard_everyone(
    told: Told, directory: Directory
) -> None:
    """Expect a blocking query for what is newer, and the complete list."""

    def script(query: dict[str, str], _: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if "version" in query:
            return 200, {"peers": [ALPHA, PURE], "version": "e-2", "settled": True}
        return 200, {"peers": [ALPHA], "version": "e-1", "settled": False}

    told.script = script

    assert instances(await directory.everyone(5)) == ["alpha-0", "pure-0"]
    query = told.requests[-1][0]
    assert query["version"] == "e-1"
    assert 4 < float(query["wait"].removesuffix("s")) < 5


async def test_what_a_young_discovery_names_is_all_there_is_when_time_is_over(told: Told, directory: Directory) -> None:
    """Expect an answer, also from a server that does not wait, and not to ask it in a circle."""
    told.says(ALPHA, version="1", settled=False)

    assert instances(await directory.everyone(5)) == ["alpha-0"]
    assert len(told.requests) == 2
    assert instances(await directory.everyone(0.15)) == ["alpha-0"]


async def test_an_answer_that_was_overtaken_changes_nothing(told: Told, directory: Directory) -> None:
    """Expect the list of the later question, whichever answer comes last."""
    held = asyncio.Event()
    serve = told.serve

    async def slow_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not told.requests:
            old = json.dumps({"peers": [ALPHA], "version": "1"}).encode()
            await reader.readuntil(b"\r\n\r\n")
            told.requests.append(({}, {}))
            await held.wait()
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(old)}\r\n\r\n".encode() + old)
            await writer.drain()
            writer.close()
            return
        await serve(reader, writer)

    server = await asyncio.start_server(slow_first, "127.0.0.1", 0)
    async with server:
        directory = Directory(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/meshes/m")
        told.says(PURE, version="2")
        first = asyncio.create_task(directory.everyone(5))
        await eventually_async(lambda: told.requests, within=5, message="the first question")
        assert instances(await directory.everyone(5)) == ["pure-0"]
        held.set()
        await first
        told.away = True
        assert instances(await directory.everyone(5)) == ["pure-0"]
        await directory.close()
