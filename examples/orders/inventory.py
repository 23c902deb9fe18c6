"""A cell that knows what is in stock, in an SQLite file beside its inbox."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cellmesh import Cell, Message

cell = Cell("inventory", services=["stock"])


@dataclass
class Reservation:
    """What is asked: so many of an item for an order."""

    order: str
    item: str
    count: int


@cell.on("reserve")
def reserve(message: Message) -> dict[str, object]:
    """Take items from the stock once for each order, however often it is asked: its number is in the same commit."""
    asked = message.decode(Reservation)
    with database() as db:
        known = db.execute("SELECT reserved FROM reservations WHERE order_id = ?", (asked.order,)).fetchone()
        if known is None:
            changed = db.execute(
                "UPDATE stock SET count = count - ?1 WHERE item = ?2 AND count >= ?1 AND ?1 > 0",
                (asked.count, asked.item),
            )
            known = (changed.rowcount,)
            db.execute("INSERT INTO reservations VALUES (?, ?)", (asked.order, *known))
    return {"reserved": bool(known[0])}


@cell.on("stock")
def stock(message: Message) -> dict[str, object]:
    """Return how many there are of each item."""
    with database() as db:
        return dict(db.execute("SELECT item, count FROM stock ORDER BY item"))


@cell.on_start
def fill() -> None:
    """Make the file, the first time, with what STOCK says: pen=10,book=2."""
    with database() as db:
        db.execute("CREATE TABLE IF NOT EXISTS stock (item TEXT PRIMARY KEY, count INTEGER)")
        db.execute("CREATE TABLE IF NOT EXISTS reservations (order_id TEXT PRIMARY KEY, reserved INTEGER)")
        for entry in os.environ.get("STOCK", "pen=10").split(","):
            item, _, count = entry.partition("=")
            db.execute("INSERT OR IGNORE INTO stock VALUES (?, ?)", (item.strip(), int(count)))


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """Open the file for one transaction."""
    inbox = Path(os.environ.get("CELLMESH_DATA_DIR", ".data"))
    db = sqlite3.connect(inbox.with_name(inbox.name + "-stock.db"), timeout=30, isolation_level=None)
    try:
        db.execute("BEGIN IMMEDIATE")
        yield db
        db.execute("COMMIT")
    finally:
        db.close()
