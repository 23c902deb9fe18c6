"""A cell as its author declares it: what is taken, what is refused, and how messages look to a handler."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass
from enum import Enum
from typing import Any

import msgspec
import pydantic
import pytest
from msgspec import Raw

import cellmesh
from cellmesh import Cell, Message, Reject, Retry
from cellmesh.app.message import of_stored
from cellmesh.protocol.receipts import StoredMessage


def stored(payload: Any = None, **fields: Any) -> StoredMessage:
    """Return a message of an inbox."""
    known: dict[str, Any] = {
        "message_id": "m-1",
        "from_cell": "alpha",
        "to_cell": "pure",
        "message_type": "query",
        "payload": Raw(msgspec.json.encode({} if payload is None else payload)),
        "timestamp": "2026-01-31T12:00:00Z",
        "priority": "high",
        "ttl": 60,
        "acknowledged": True,
        "seq": 7,
        "received_at": "2026-01-31T12:00:01Z",
        "state": "leased",
        "delivery_count": 2,
    }
    return StoredMessage(**(known | fields))


def test_what_authors_use_is_loaded_only_when_it_is_asked_for() -> None:
    """Expect ``import cellmesh`` alone to load nothing of it, so that commands stay quick."""
    loaded = "print('cellmesh.app' in sys.modules)"
    program = f"import sys, cellmesh; {loaded}; cellmesh.Cell; {loaded}"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["False", "True"]


def test_every_public_name_is_there() -> None:
    """Expect what ``__all__`` promises, and an ordinary error for anything else."""
    assert all(getattr(cellmesh, name) for name in cellmesh.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Sell'"):
        cellmesh.Sell  # noqa: B018


def test_a_message_shows_what_the_sender_said() -> None:
    """Expect each field under its name, and no payload where a message is printed."""
    message = of_stored(stored({"text": "secret"}, conversation_id="c-1", from_instance="alpha-0"))
    assert (message.id, message.from_cell, message.to_cell, message.type) == ("m-1", "alpha", "pure", "query")
    assert (message.payload, message.raw) == ({"text": "secret"}, b'{"text":"secret"}')
    assert (message.priority, message.ttl, message.delivery_count, message.seq) == ("high", 60, 2, 7)
    assert (message.conversation_id, message.from_instance, message.reply_to) == ("c-1", "alpha-0", None)
    assert "secret" not in repr(message)
    with pytest.raises(FrozenInstanceError):
        message.id = "other"  # type: ignore[misc]


class Colour(Enum):
    """Some values."""

    RED = "red"


class OrderStruct(msgspec.Struct):
    """An order."""

    item: str
    count: int


@dataclass
class OrderData:
    """An order."""

    item: str
    count: int
    colour: Colour = Colour.RED


class OrderModel(pydantic.BaseModel):
    """An order."""

    item: str
    count: int

    @pydantic.field_validator("item")
    @classmethod
    def known(cls, value: str) -> str:
        """Know one item."""
        if value != "pen":
            raise ValueError(f"{value} is unknown")
        return value


@pytest.mark.parametrize("kind", [OrderStruct, OrderData, OrderModel])
def test_a_payload_is_decoded_into_a_type(kind: Any) -> None:
    """Expect an instance of it, whoever's kind of class it is."""
    order = of_stored(stored({"item": "pen", "count": 2})).decode(kind)
    assert isinstance(order, kind)
    assert (order.item, order.count) == ("pen", 2)


@pytest.mark.parametrize(
    ("kind", "payload", "why"),
    [
        (OrderStruct, {"item": "pen"}, "payload.count: required and absent; send it"),
        (OrderStruct, {"item": "secret", "count": "x"}, "payload.count: expected integer, got string"),
        (OrderData, {"item": "pen", "count": 1, "colour": "secret"}, "payload.colour: none of the values allowed here"),
        (OrderModel, {"item": "pen"}, "payload.count: field required"),
        (OrderModel, {"item": "pen", "count": "secret"}, "payload.count: input should be a valid integer"),
        (OrderModel, {"item": "secret", "count": 1}, "payload.item: not valid"),
    ],
)
def test_a_payload_that_does_not_fit_is_rejected_by_name_of_the_field(kind: Any, payload: Any, why: str) -> None:
    """Expect the reason to say which field is wrong and nothing of what is in it."""
    with pytest.raises(Reject) as rejected:
        of_stored(stored(payload)).decode(kind)
    assert str(rejected.value).startswith(why)
    assert "secret" not in str(rejected.value)


def test_derived_ids_are_the_same_each_time_and_differ_by_what_they_are_about() -> None:
    """Expect them to depend on message, sender, receiver and parts, and on nothing else."""
    message = of_stored(stored())
    again = of_stored(stored(delivery_count=5, state="leased"))
    assert message.derived_id("a") == again.derived_id("a")
    others = [
        message.derived_id("b"),
        message.derived_id(),
        message.derived_id("a", "b"),
        of_stored(stored(message_id="m-2")).derived_id("a"),
        of_stored(stored(from_cell="beta")).derived_id("a"),
        of_stored(stored(to_cell="other")).derived_id("a"),
    ]
    assert len({message.derived_id("a"), *others}) == 7


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"name": "no blanks"}, "name"),
        ({"concurrency": 0}, "concurrency"),
        ({"timeout": 0}, "timeout"),
        ({"lease": -1}, "lease"),
        ({"services": ["a,b"]}, "services"),
    ],
)
def test_what_a_cell_cannot_be_is_refused_by_name(arguments: dict[str, Any], field: str) -> None:
    """Expect an error that names the argument."""
    with pytest.raises(ValueError, match=f"^{field}: "):
        Cell(**arguments)


def test_handlers_are_plain_functions_afterwards() -> None:
    """Expect the decorator to give back what it got, so that tests can call it."""
    cell = Cell("pure")

    def handler(message: Message) -> None:
        """Do nothing."""

    assert cell.on("query", "command")(handler) is handler
    assert set(cell.handlers) == {"query", "command"}


def test_one_type_has_one_handler() -> None:
    """Expect the second to be refused, by type."""
    cell = Cell("pure")
    cell.on("query")(print)
    cell.on()(print)
    with pytest.raises(ValueError, match="'query' has a handler already"):
        cell.on("event", "query")(print)
    with pytest.raises(ValueError, match="every other type has a handler already"):
        cell.on()(print)


def test_what_cannot_be_a_handler_is_refused_where_it_stands() -> None:
    """Expect a function of the wrong arguments, a generator and a forgotten call named."""
    cell = Cell("pure")
    with pytest.raises(TypeError, match="must take one argument"):
        cell.on("a")(lambda: None)  # type: ignore[arg-type, misc]
    with pytest.raises(TypeError, match="must take one argument"):
        cell.on("a")(lambda one, two: None)  # type: ignore[arg-type, misc]
    with pytest.raises(TypeError, match="yields"):

        @cell.on("a")
        def generator(message: Message) -> Any:
            yield {}

    with pytest.raises(TypeError, match=r'write @cell.on\("query"\)'):

        @cell.on  # type: ignore[arg-type]
        def handler(message: Message) -> None:
            """Do nothing."""

    assert cell.handlers == {}


def test_retry_says_when() -> None:
    """Expect a time that makes sense."""
    assert Retry(5).after == 5.0
    with pytest.raises(ValueError, match=r"^after: "):
        Retry(-1)


def test_a_cell_that_is_not_run_says_how_to_run_it() -> None:
    """Expect a clear error, and no coroutine left behind."""
    cell = Cell("pure")
    with pytest.raises(RuntimeError, match="cellmesh cell --app"):
        cell.wait(cell.send("alpha", "event"))
