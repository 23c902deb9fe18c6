"""A consumer inside a cell's own process: what ``cellmesh cell --app chaos.handler:cell`` runs.

As ``chaos.consumer``, it writes down what it was handed before it does anything with it, and what it is about to do.
Whether an ack was taken it does not learn: the cell sees to that when the handler has returned. Its own wall clock may
be moved, so it reckons with the steady one, which is the same for all processes of a machine.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import time
from pathlib import Path

from cellmesh import Cell, Message, Reject, Retry
from chaos.ledger import Handed, Ledger, Return

#: Variables that say where the ledger is, which run this is, whose inbox it handles, and when the steady clock began.
LEDGER, RUN, INSTANCE, EPOCH = "CHAOS_LEDGER", "CHAOS_RUN", "CHAOS_INSTANCE", "CHAOS_EPOCH"
#: Seconds of a lease; longer than a cell is ever stopped.
LEASE = 60.0
#: Greatest number of seconds that work on a message takes.
WORK = 0.02
#: What is done with a message, and how often; by the name that the ledger has for what follows of it.
ACTIONS = {"ack": 95, "nack": 2, "release": 2, "reject": 1}

cell = Cell(lease=LEASE)
_instance, _run = os.environ[INSTANCE], os.environ[RUN]
#: This life of the consumer; who sees it end knows the id of the process.
_life = f"{_instance}.{os.getpid()}"
_ledger = Ledger(Path(os.environ[LEDGER]), _instance)
_epoch = float(os.environ[EPOCH])
_numbers = itertools.count()
_rng = random.Random()


class Clumsy(Exception):  # noqa: N818 - what the handler is
    """What a handler that has a bad day raises."""


def _now() -> float:
    return _epoch + time.monotonic()


@cell.on()
async def handle(message: Message) -> None:
    """Work on a message."""
    said = message.payload
    if said.get("run") != _run:
        return
    began, token = _now(), f"{_life}.{next(_numbers)}"
    handed = Handed(
        consumer=_life,
        instance=_instance,
        seq=message.seq,
        number=said["number"],
        seal=said["seal"],
        began=began,
        ended=began,
        token=token,
        lease=LEASE,
        deliveries=message.delivery_count,
        inside=True,
    )
    _ledger.write(handed)
    if said.get("deadly"):
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(_rng.uniform(0, WORK))
    action = _rng.choices(list(ACTIONS), list(ACTIONS.values()))[0]
    _ledger.write(Return(action=action, instance=_instance, seq=message.seq, token=token, began=_now()))
    if action == "nack":
        raise Clumsy
    if action == "release":
        raise Retry(after=_rng.uniform(0, 1))
    if action == "reject":
        raise Reject("so the dice say")
