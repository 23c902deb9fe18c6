"""The cell as its author declares it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from cellmesh.app import calls
from cellmesh.app.calls import Broadcast, Sent
from cellmesh.app.message import Message
from cellmesh.protocol.fields import CELL_ID_PATTERN, is_cell_id
from cellmesh.service.handling import LEASE
from cellmesh.service.outcomes import Backoff
from cellmesh.service.reply import Reply

T = TypeVar("T")
H = TypeVar("H", bound=Callable[[Message], Any])
F = TypeVar("F", bound=Callable[[], Any])

Priority = Literal["low", "normal", "high", "critical"]


@dataclass(frozen=True)
class Registered:
    """A handler, and what it was registered with."""

    function: Callable[[Message], Any]
    timeout: float | None
    is_async: bool


class Mesh(Protocol):
    """The running cell that a declared one is part of."""

    loop: asyncio.AbstractEventLoop

    async def submit(self, body: bytes) -> Reply:
        """Do what ``POST /send`` does."""


class Cell:
    """A cell: what handles its messages, and how it sends its own.

        cell = Cell("word-count")

        @cell.on("query")
        async def count(message):
            return {"words": len(message.payload["text"].split())}

    ``cellmesh cell --app my_module:cell`` runs it. Its name and what peers are told of it come from the
    settings; what stands here is used where those say nothing.

    Args:
        name: the cell's name.
        type: free text shown to peers.
        branch: free text shown to peers.
        services: names shown to peers.
        concurrency: how many messages are handled at the same time at most.
        timeout: seconds a handler may take, unless ``on`` says otherwise.
        lease: seconds that a message is leased for; renewed while its handler runs.
        backoff: how long a message waits after its handler failed.

    Raises:
        ValueError: the name, or a number, cannot be used.

    """

    def __init__(
        self,
        name: str | None = None,
        *,
        type: str = "",  # noqa: A002 - the setting's name
        branch: str = "",
        services: Sequence[str] = (),
        concurrency: int = 8,
        timeout: float = 30.0,
        lease: float = LEASE,
        backoff: Backoff = Backoff(),  # noqa: B008 - it is frozen
    ) -> None:
        if name is not None and not is_cell_id(name):
            raise ValueError(f"name: {name!r} must match {CELL_ID_PATTERN}")
        if concurrency < 1:
            raise ValueError(f"concurrency: {concurrency} must be at least 1")
        for field, value in (("timeout", timeout), ("lease", lease)):
            if value <= 0:
                raise ValueError(f"{field}: {value} must be greater than 0 seconds")
        if any("," in service for service in services):
            raise ValueError("services: a name must not have a comma")
        self.name = name
        self.type = type
        self.branch = branch
        self.services = tuple(services)
        self.concurrency = concurrency
        self.timeout = timeout
        self.lease = lease
        self.backoff = backoff
        self.handlers: dict[str | None, Registered] = {}
        self.starting: list[Callable[[], Any]] = []
        self.stopping: list[Callable[[], Any]] = []
        #: Set while it is run.
        self.mesh: Mesh | None = None

    def on(self, *types: str, timeout: float | None = None) -> Callable[[H], H]:
        """Register a handler: ``@cell.on("query")`` for messages of these types, ``@cell.on()`` for all others.

        The handler takes the message. If it returns, the message is done; a dict (or dataclass,
        ``msgspec.Struct``, pydantic model) that it returns is sent to whoever asked. If it raises, the message
        is tried again later, and in the end it is a dead letter; see ``Reject`` and ``Retry``. One that is not
        a coroutine function runs in a thread.

        Args:
            types: of the messages.
            timeout: seconds it may take; then its message is tried again.

        Raises:
            TypeError: it is no function of one argument.
            ValueError: another handler has one of the types.

        """
        if any(not isinstance(name, str) for name in types):
            raise TypeError('on: write @cell.on("query") for messages of a type, @cell.on() for all')
        if timeout is not None and timeout <= 0:
            raise ValueError(f"timeout: {timeout} must be greater than 0 seconds")

        def register(function: H) -> H:
            _check(function)
            for name in types or (None,):
                if name in self.handlers:
                    raise ValueError(f"on: {'every other type' if name is None else repr(name)} has a handler already")
                self.handlers[name] = Registered(function, timeout, _is_async(function))
            return function

        return register

    def on_start(self, function: F) -> F:
        """Register what is called before the first message is handled; the cell can send by then."""
        self.starting.append(function)
        return function

    def on_stop(self, function: F) -> F:
        """Register what is called after the last message was handled; the cell can still send."""
        self.stopping.append(function)
        return function

    async def send(
        self,
        to: str,
        message_type: str,
        payload: Any = None,
        *,
        queued: bool = False,
        priority: Priority | None = None,
        ttl: float | None = None,
        not_before: float | None = None,
        timeout: float | None = None,
        message_id: str | None = None,
        conversation_id: str | None = None,
        reply_to: str | None = None,
        to_instance: str | None = None,
    ) -> Sent:
        """Send a message to a cell; return once the receiver has it on disk or, ``queued``, the own outbox has.

        Args:
            to: the cell.
            message_type: its type.
            payload: a dict, dataclass, ``msgspec.Struct`` or pydantic model; None: an empty object.
            queued: leave the delivery to the outbox, which tries while ``ttl`` lasts.
            priority: higher ones are handed out first.
            ttl: seconds until it expires, 0: never; default 60.
            not_before: seconds that the receiver keeps it before handing it out.
            timeout: seconds for the delivery; default 10.
            message_id: its id; a message sent again with its id is recognised. See ``Message.derived_id``.
            conversation_id: messages of one go to one instance and keep their order.
            reply_to: id of the message that it answers.
            to_instance: an instance, where not any will do.

        Raises:
            SendError: it was not delivered, or not taken into the outbox.
            TypeError: the payload is no JSON object.

        """
        options = {
            "mode": "queued" if queued else None,
            "priority": priority,
            "ttl": ttl,
            "not_before": not_before,
            "timeout": timeout,
            "message_id": message_id,
            "conversation_id": conversation_id,
            "reply_to": reply_to,
            "to_instance": to_instance,
        }
        return calls.sent(await self._submit(to, message_type, payload, options))

    async def ask(
        self,
        to: str,
        message_type: str,
        payload: Any = None,
        *,
        timeout: float = 10.0,
        priority: Priority | None = None,
        ttl: float | None = None,
        message_id: str | None = None,
        conversation_id: str | None = None,
        to_instance: str | None = None,
    ) -> Message:
        """Send a message and return the reply; ``timeout`` is how long to wait for it, seconds, at most 300.

        The other arguments are those of ``send``.

        Raises:
            SendError: it was not delivered, or no reply came in time (``reply_timeout``).
            TypeError: the payload is no JSON object.

        """
        options = {
            "await_reply": timeout,
            "priority": priority,
            "ttl": ttl,
            "message_id": message_id,
            "conversation_id": conversation_id,
            "to_instance": to_instance,
        }
        return calls.answered(await self._submit(to, message_type, payload, options))

    async def broadcast(
        self,
        message_type: str,
        payload: Any = None,
        *,
        to: str | Sequence[str] = "*",
        instances: Literal["one", "all"] = "one",
        queued: bool = False,
        priority: Priority | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
        message_id: str | None = None,
    ) -> Broadcast:
        """Send a message to several cells: ``*`` is every other one of the mesh known now.

        Args:
            message_type: its type.
            payload: as with ``send``.
            to: ``*``, or the names of cells.
            instances: one instance of each cell, or all.
            queued: leave the delivery to the outbox.
            priority: as with ``send``.
            ttl: as with ``send``.
            timeout: as with ``send``.
            message_id: as with ``send``; all copies have it.

        Returns:
            what became of each copy, also of those that were not delivered.

        Raises:
            SendError: there is nobody to send to.
            TypeError: the payload is no JSON object.

        """
        options = {
            "instances": instances if instances != "one" else None,
            "mode": "queued" if queued else None,
            "priority": priority,
            "ttl": ttl,
            "timeout": timeout,
            "message_id": message_id,
        }
        return calls.broadcast(await self._submit(to, message_type, payload, options))

    def wait(self, awaitable: Awaitable[T]) -> T:
        """Return what a coroutine returns, in a handler that is none: ``cell.wait(cell.ask("pure", "query"))``.

        Raises:
            RuntimeError: called in a coroutine, where ``await`` does it, or while the cell does not run.

        """
        try:
            loop = self._running().loop
            if loop is _running_loop():
                raise RuntimeError("wait: this is the cell's event loop, which waiting would stop; use await")
        except RuntimeError:
            if inspect.iscoroutine(awaitable):
                awaitable.close()
            raise
        return asyncio.run_coroutine_threadsafe(_awaiting(awaitable), loop).result()

    async def _submit(self, to: str | Sequence[str], message_type: str, payload: Any, options: dict[str, Any]) -> Reply:
        mesh = self._running()
        return await mesh.submit(calls.request(to, message_type, payload, options | calls.trace()))

    def _running(self) -> Mesh:
        if self.mesh is None:
            raise RuntimeError("the cell does not run; cellmesh cell --app runs it, in tests cellmesh.testing.mesh")
        return self.mesh


async def _awaiting(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _is_async(function: Callable[..., Any]) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004 - an object may have it
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def _check(function: Callable[..., Any]) -> None:
    name = getattr(function, "__qualname__", type(function).__name__)
    if not callable(function):
        raise TypeError(f"on: a handler must be a function, got {type(function).__name__}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"on: {name} yields; a handler returns its reply")
    try:
        inspect.signature(function).bind(object())
    except TypeError:
        raise TypeError(f"on: {name} must take one argument, the message") from None
    except ValueError:
        pass  # something built in, which does not say what it takes
