"""The examples, run as their READMEs say."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

import golang
from pictures import pixel, png
from processes import Answer, request
from support import eventually, free_port

pytestmark = pytest.mark.mesh

EXAMPLES = Path(__file__).parents[2] / "examples"
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("CELLMESH_")}
#: Seconds that anything may take on a busy machine.
LONG = 60.0


class Up:
    """A mesh that `cellmesh up` runs, from a manifest."""

    def __init__(self, manifest: Path, data: Path) -> None:
        command = [sys.executable, "-m", "cellmesh", "up", "-f", str(manifest), "--data-dir", str(data)]
        self._log = data.with_suffix(".log")
        self._said = data.with_suffix(".json")
        with self._log.open("w") as log, self._said.open("w") as said:
            self.process = subprocess.Popen(
                [*command, "--any-ports", "--json"], env=ENVIRON, stdin=subprocess.DEVNULL, stdout=said, stderr=log
            )

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return what it has told of a kind."""
        # The last line may not be complete yet.
        lines = [json.loads(line) for line in self._said.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if line["event"] == kind]

    def wait(self) -> None:
        """Wait until every instance serves."""

        def up() -> bool:
            assert self.process.poll() is None, self._log.read_text()[-3000:]
            assert not self.events("failed"), self._log.read_text()[-3000:]
            return bool(self.events("up"))

        eventually(up, within=LONG, message="the mesh to be up")

    def port(self, instance: str) -> int:
        """Return the port of an instance, as last told."""
        url = [one["url"] for one in self.events("ready") if one["instance"] == instance][-1]
        return int(url.rpartition(":")[2])

    def pid(self, instance: str) -> int:
        """Return the process of an instance that was started last."""
        return int([one["pid"] for one in self.events("started") if one["instance"] == instance][-1])

    def ask(self, sender: str, to_cell: str, payload: Any, **fields: Any) -> Answer:
        """Have a cell ask another one."""
        body = {"to_cell": to_cell, "message_type": "query", "payload": payload, "await_reply": 30} | fields
        return request(self.port(f"{sender}-0"), "POST", "/send", body, timeout=LONG)

    def get(self, instance: str, path: str) -> Any:
        """Ask an instance for something."""
        answer = request(self.port(instance), "GET", path)
        assert answer.status == 200, answer
        return answer.json


@contextlib.contextmanager
def up(manifest: Path, directory: Path) -> Iterator[Up]:
    """Run a manifest."""
    running = Up(manifest, directory / "data")
    try:
        running.wait()
        yield running
    finally:
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(LONG)


def test_word_count(tmp_path: Path) -> None:
    """Expect the answer of the README, and a payload without a text as a dead letter that says why."""
    with up(EXAMPLES / "word-count" / "cells.yaml", tmp_path) as mesh:
        answer = mesh.ask("alpha", "word-count", {"text": "to be or not to be", "top": 1})
        assert answer.status == 200, answer
        assert answer.json["reply"]["payload"] == {"words": 6, "different": 4, "top": [{"word": "to", "count": 2}]}
        text = "C'est la vie, c\u2019est la guerre; naïve co-operation in 2026: ÉTÉ été"
        (first, *_) = mesh.ask("alpha", "word-count", {"text": text}).json["reply"]["payload"]["top"]
        assert first == {"word": "la", "count": 2}
        mesh.ask("alpha", "word-count", {"words": "?"}, message_id="wrong", await_reply=0.1)
        found = eventually(lambda: _dead(mesh, "wrong"), within=LONG)
        assert "payload.text: required and absent; send it" in {step.get("reason") for step in found["history"]}


def _dead(mesh: Up, message_id: str) -> dict[str, Any] | None:
    found = mesh.get("word-count-0", f"/messages/{message_id}")
    return dict(found) if found["state"] == "dead" else None


@pytest.fixture(scope="module")
def thumbnailer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the program of the example."""
    program = tmp_path_factory.mktemp("go") / "thumbnails"
    golang.build(EXAMPLES / "thumbnails", program)
    return program


@contextlib.contextmanager
def listening(program: Path, port: int) -> Iterator[None]:
    """Run the program of the example."""
    environ = os.environ | {"LISTEN": f"127.0.0.1:{port}"}
    with subprocess.Popen([program], env=environ, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            yield
        finally:
            running.kill()


def test_thumbnails(tmp_path: Path, thumbnailer: Path) -> None:
    """Expect pictures made small, messages that wait while the program is down, and what is no picture refused."""
    port = free_port()
    manifest = tmp_path / "cells.yaml"
    cells = list(yaml.safe_load_all((EXAMPLES / "thumbnails" / "cells.yaml").read_text()))
    cells[1]["spec"]["handler"]["port"] = port
    manifest.write_text(yaml.safe_dump_all(cells))
    with up(manifest, tmp_path) as mesh:
        asked = {"picture": base64.b64encode(png(200, 100)).decode(), "side": 50}
        early = mesh.ask("alpha", "thumbnails", asked, message_id="early", await_reply=None, mode=None)
        assert early.status == 200, early
        with listening(thumbnailer, port):
            answer = mesh.ask("alpha", "thumbnails", asked)
            assert answer.status == 200, answer
            reply = answer.json["reply"]["payload"]
            assert (reply["width"], reply["height"]) == (50, 25)
            assert struct.unpack(">II", base64.b64decode(reply["thumbnail"])[16:24]) == (50, 25)
            # Half of it black and half white: as one pixel it is grey.
            tiny = mesh.ask("alpha", "thumbnails", asked | {"side": 1}).json["reply"]["payload"]
            assert pixel(base64.b64decode(tiny["thumbnail"])) in {(127, 127, 127), (128, 128, 128)}
            eventually(lambda: _is(mesh, "early", "consumed", 1), within=LONG)
            wrong = {"picture": base64.b64encode(b"no picture").decode(), "side": 50}
            mesh.ask("alpha", "thumbnails", wrong, message_id="wrong", await_reply=0.1)
            eventually(lambda: _is(mesh, "wrong", "dead", 1), within=LONG)
        late = mesh.ask("alpha", "thumbnails", asked, message_id="late", await_reply=0.1)
        assert late.json["code"] == "reply_timeout"
        with listening(thumbnailer, port):
            eventually(lambda: _is(mesh, "late", "consumed", 1), within=LONG)


def _is(mesh: Up, message_id: str, state: str, deliveries: int) -> bool:
    found = mesh.get("thumbnails-0", f"/messages/{message_id}")
    return (found["state"], found["delivery_count"]) == (state, deliveries)


@pytest.mark.timeout(400)  # six restarts, on a busy machine
def test_orders(tmp_path: Path) -> None:
    """Expect as many orders accepted as there are pens, while both cells are killed over and over, and each shipped."""
    with up(EXAMPLES / "orders" / "cells.yaml", tmp_path) as mesh:
        refused = mesh.ask("shipping", "orders", {"item": "book", "count": 3}, message_type="order")
        assert refused.json["reply"]["payload"] == {"accepted": False, "why": "there are not 3 of 'book'"}
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(_order, mesh, number) for number in range(25)]
            for number, name in enumerate(("inventory-0", "orders-0") * 3):
                eventually(lambda n=number: sum(one.done() for one in answers) > 3 * n, within=LONG)  # type: ignore[misc]
                started = len([one for one in mesh.events("ready") if one["instance"] == name])
                os.kill(mesh.pid(name), signal.SIGKILL)
                eventually(
                    lambda n=name, s=started: len([o for o in mesh.events("ready") if o["instance"] == n]) > s,  # type: ignore[misc]
                    within=LONG,
                    message=f"{name} to be back",
                )
            numbers = [number for one in answers if (number := one.result()) is not None]
        assert len(numbers) == len(set(numbers)) == 10
        left = mesh.ask("shipping", "inventory", {}, message_type="stock").json["reply"]["payload"]
        assert left == {"book": 2, "pen": 0}
        eventually(lambda: sorted(_parcels(mesh)) == sorted(numbers), within=LONG, message="ten parcels")


def _order(mesh: Up, number: int) -> str | None:
    """Order a pen; return the number of the order if it is accepted. The reply may come late, so it is looked for."""
    message_id = f"order-{number}"
    body = {"to_cell": "orders", "message_type": "order", "payload": {"item": "pen"}, "message_id": message_id}
    sent = request(mesh.port("shipping-0"), "POST", "/send", body | {"mode": "queued", "ttl": 0}, timeout=LONG)
    assert sent.status == 202, sent

    def reply() -> dict[str, Any] | None:
        page = mesh.get("shipping-0", "/messages?limit=1000&from_cell=orders")["messages"]
        found = [message for message in page if message.get("reply_to") == message_id]
        assert len(found) <= 1, "one order, two replies"
        return found[0]["payload"] if found else None

    found = eventually(reply, within=2 * LONG, message=f"a reply to {message_id}")
    return str(found["order"]) if found["accepted"] else None


def _parcels(mesh: Up) -> list[str]:
    page = mesh.get("shipping-0", "/messages?limit=1000&from_cell=orders")["messages"]
    return [message["payload"]["order"] for message in page if message["message_type"] == "parcel"]
