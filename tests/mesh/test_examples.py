"""The examples, run as their READMEs say."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from levels import missing
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
    go = shutil.which("go")
    if go is None:
        missing("go is not on PATH", "install Go 1.21 or later")
    program = tmp_path_factory.mktemp("go") / "thumbnails"
    environ = os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod"}
    subprocess.run(
        [go, "build", "-o", program, "."], cwd=EXAMPLES / "thumbnails", env=environ, check=True, timeout=LONG * 2
    )
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


def png(width: int, height: int) -> bytes:
    """Return a picture whose left half is black and whose right half is white."""
    row = b"\0" + b"\0\0\0" * (width // 2) + b"\xff\xff\xff" * (width - width // 2)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(row * height)),
        (b"IEND", b""),
    )
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def pixel(picture: bytes) -> tuple[int, int, int]:
    """Return the colour of a picture of one pixel."""
    start = picture.index(b"IDAT")
    (length,) = struct.unpack(">I", picture[start - 4 : start])
    red, green, blue = zlib.decompress(picture[start + 4 : start + 4 + length])[1:4]
    return red, green, blue
