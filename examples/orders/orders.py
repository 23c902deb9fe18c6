"""A cell that takes orders: it asks inventory for the items and, if they are there, has them shipped."""

from dataclasses import dataclass

from cellmesh import Cell, Message, Reject, Retry, SendError

cell = Cell("orders", services=["orders"])


@dataclass
class Order:
    """What is ordered."""

    item: str
    count: int = 1


@cell.on("order")
async def order(message: Message) -> dict[str, object]:
    """Take an order. Handled again after a crash, it is the same order: neither reserved nor shipped twice."""
    ordered = message.decode(Order)
    if ordered.count < 1:
        raise Reject("payload.count: must be at least 1")
    number = message.derived_id("order")
    wanted = {"order": number, "item": ordered.item, "count": ordered.count}
    try:
        answer = await cell.ask("inventory", "reserve", wanted, timeout=10)
    except SendError as error:
        # Inventory is away or slow. Asked again, it answers as before.
        raise Retry(after=1, why=f"inventory: {error.code}") from error
    if not answer.payload["reserved"]:
        return {"accepted": False, "why": f"there are not {ordered.count} of {ordered.item[:40]!r}"}
    # Queued: shipping may be away for as long as it likes. The id makes a repeat the same parcel.
    await cell.send("shipping", "parcel", wanted, queued=True, ttl=0, message_id=number)
    return {"accepted": True, "order": number}
