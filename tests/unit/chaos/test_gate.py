"""The gate: what is cut, lost and led astray, and for whom; with real connections in one process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import ClassVar

import pytest

from chaos.gate import Gate, owner_among
from support import eventually_async, free_port

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="addresses of 127.0.0.0/8, and /proc")

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echo(greeting: bytes = b"") -> AsyncIterator[tuple[str, int]]:
    """Run a server that says back what it is told, with a word before it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            while data := await reader.read(1000):
                writer.write(greeting + data)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()


class Setting:
    """A gate before an echo; every client has a name, and an address of its own."""

    ADDRESSES: ClassVar = {"a": "127.0.0.2", "b": "127.0.0.3"}

    def __init__(self, target: tuple[str, int]) -> None:
        names = {address: name for name, address in self.ADDRESSES.items()}
        self.gate = Gate(("127.0.0.1", free_port()), target, lambda there, _: names.get(there[0], ""))
        self._clients: list[Client] = []

    async def connect(self, name: str) -> Client:
        """Connect under a name."""
        client = await asyncio.open_connection(*self.gate.address, local_addr=(self.ADDRESSES[name], 0))
        self._clients.append(client)
        return client

    async def close(self) -> None:
        """Close the gate and all clients."""
        await self.gate.close()
        for _, writer in self._clients:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def ask(client: Client, text: bytes = b"hello") -> bytes:
    """Say something, return what comes back within a second."""
    client[1].write(text)
    async with asyncio.timeout(1):
        return await client[0].read(1000)


async def silence(client: Client) -> None:
    """Check that nothing comes back."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await client[0].read(1000)


def with_gate(check: Callable[[Setting], Awaitable[None]]) -> None:
    """Run a check with a gate that is open."""

    async def main() -> None:
        async with echo() as target:
            setting = Setting(target)
            await setting.gate.open()
            try:
                await check(setting)
            finally:
                await setting.close()

    asyncio.run(main())


def test_it_lets_through() -> None:
    """Both ways, several clients."""

    async def check(setting: Setting) -> None:
        one, two = await setting.connect("a"), await setting.connect("b")
        assert await ask(one) == b"hello"
        assert await ask(two, b"you") == b"you"
        assert setting.gate.in_flight() == 0

    with_gate(check)


def test_a_cut_holds_back_one_pair_only_and_a_mended_one_goes_on() -> None:
    """Nobody is told; what was held back arrives."""

    async def check(setting: Setting) -> None:
        one, two = await setting.connect("a"), await setting.connect("b")
        assert await ask(one) == b"hello"
        setting.gate.cut("a")
        one[1].write(b"held")
        await silence(one)
        late = await setting.connect("a")
        late[1].write(b"late")
        await silence(late)
        assert await ask(two) == b"hello"
        setting.gate.mend("a", broken=False)
        async with asyncio.timeout(1):
            assert await one[0].read(1000) == b"held"
            assert await late[0].read(1000) == b"late"

    with_gate(check)


def test_a_cut_can_break_the_connections() -> None:
    """They end with a reset; new ones get through."""

    async def check(setting: Setting) -> None:
        one = await setting.connect("a")
        setting.gate.cut("a")
        one[1].write(b"held")
        await silence(one)
        setting.gate.mend("a", broken=True)
        with pytest.raises(ConnectionResetError):
            await one[0].read(1000)
        assert await ask(await setting.connect("a")) == b"hello"

    with_gate(check)


@pytest.mark.parametrize("after", [0, 2])
def test_an_answer_is_lost_after_the_server_gave_it(after: int) -> None:
    """As many as were asked for, of one client only; a few bytes may come through."""

    async def check(setting: Setting) -> None:
        one, two = await setting.connect("a"), await setting.connect("b")
        lost = setting.gate.lose("a", 1, after)
        assert await ask(two) == b"hello"
        assert not lost.is_set()
        one[1].write(b"hello")
        if after:
            assert await one[0].read(1000) == b"he"
            assert await one[0].read(1000) == b""
        else:
            with pytest.raises(ConnectionResetError):
                await one[0].read(1000)
        assert lost.is_set()
        assert await ask(await setting.connect("a")) == b"hello"

    with_gate(check)


def test_requests_in_flight_are_counted_by_client() -> None:
    """From the request to its answer."""

    async def check(setting: Setting) -> None:
        async def dumb(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.closing(writer):
                await reader.read(1000)
                await release.wait()
                writer.write(b"at last")
                await reader.read(1000)

        release = asyncio.Event()
        server = await asyncio.start_server(dumb, "127.0.0.1", 0)
        async with server:
            setting.gate.lead_astray(server.sockets[0].getsockname())
            one = await setting.connect("a")
            one[1].write(b"hello")
            await eventually_async(lambda: setting.gate.in_flight("a") == 1, within=1)
            assert (setting.gate.in_flight(), setting.gate.in_flight("b")) == (1, 0)
            release.set()
            assert await one[0].read(1000) == b"at last"
            assert setting.gate.in_flight() == 0
            one[1].close()

    with_gate(check)


def test_it_leads_astray_and_back() -> None:
    """Connections there are end; new ones come to the other server."""

    async def check(setting: Setting) -> None:
        async with echo(b"other: ") as other:
            one = await setting.connect("a")
            assert await ask(one) == b"hello"
            setting.gate.lead_astray(other)
            assert await one[0].read(1000) == b""
            two = await setting.connect("a")
            assert await ask(two) == b"other: hello"
            setting.gate.lead_astray(None)
            assert await two[0].read(1000) == b""
            assert await ask(await setting.connect("a")) == b"hello"

    with_gate(check)


def test_a_gate_that_is_shut_refuses() -> None:
    """As a process that is not there does; open again, it lets through."""

    async def check(setting: Setting) -> None:
        one = await setting.connect("a")
        assert await ask(one) == b"hello"
        setting.gate.shut()
        assert await one[0].read(1000) == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*setting.gate.address)
        await setting.gate.open()
        assert await ask(await setting.connect("a")) == b"hello"

    with_gate(check)


def test_it_knows_whose_a_connection_is() -> None:
    """By the socket at its other end."""

    async def check() -> None:
        async with echo() as target:
            _, writer = await asyncio.open_connection(*target)
            with contextlib.closing(writer):
                owner = owner_among(lambda: {os.getppid(): "parent", os.getpid(): "we"})
                ours = writer.get_extra_info("sockname")
                assert owner(ours, target) == "we"
                assert owner(("127.0.0.1", 1), target) == ""
                assert owner(ours, ("127.0.0.1", 1)) == ""  # the same address, and a connection to somebody else
                assert owner_among(lambda: {os.getppid(): "parent"})(ours, target) == ""

    asyncio.run(check())
