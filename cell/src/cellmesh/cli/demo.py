"""``cellmesh demo``: two cells, and a message going both ways, shown as anyone could repeat it with curl."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from cellmesh.cli import http
from cellmesh.cli.mesh import Place
from cellmesh.cli.output import safe
from cellmesh.cli.reporting import Reporter
from cellmesh.cli.supervisor import Child
from cellmesh.cli.up import place_options, plan_of, run

EXAMPLE = "examples/alpha-pure.yaml"


class CheckFailed(Exception):  # noqa: N818 - what has happened
    """An answer is not what the contract says; the text names the check."""


@click.command()
@click.option("--file", "-f", default=EXAMPLE, show_default=True, help="Manifest with the Cells alpha and pure.")
@click.option("--stay/--exit", default=True, help="Keep the mesh running afterwards. [default: --stay]")
@place_options
@click.pass_context
def demo(ctx: click.Context, /, *, file: str, stay: bool, any_ports: bool, **place: Any) -> None:
    """Run the cells alpha and pure, send a message each way, and show requests and answers.

    Exit code 1 if an answer is not what it should be.
    """
    if file == EXAMPLE and not Path(file).is_file():
        raise click.UsageError(f"{EXAMPLE} is not here; run this in CellMesh's directory, or name a manifest with -f")
    plan = plan_of([file], Place(**place), any_ports=any_ports)
    if not {"alpha-0", "pure-0"} <= {process.instance for process in plan.cells}:
        raise click.UsageError(f"{file} must hold the Cells alpha and pure")

    def reporter(_: Sequence[Child]) -> Reporter:
        return QuietReporter()

    async def when_up(cells: Sequence[Child]) -> int | None:
        urls = {child.process.instance: child.url for child in cells}
        try:
            await asyncio.to_thread(Exchange(urls, click.echo).run)
        except (CheckFailed, http.Unreachable) as error:
            click.echo(f"cellmesh: the demo failed: {error}", err=True)
            return 1
        click.echo()
        for name, url in sorted(urls.items()):
            click.echo(f"{name}: {url}   API documentation: {url}/docs")
        if not stay:
            return 0
        click.echo(f"\nThe cells stay up, with their messages in {place['data_dir']}. Ctrl-C stops them.")
        sys.stdout.flush()
        return None

    ctx.exit(run(plan, reporter, when_up))


class QuietReporter(Reporter):
    """Shows what the demo does, and of the processes only what goes wrong; their lines when one has failed."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[tuple[str, str]] = []
        self._up = False

    def event(self, kind: str, child: Child, **details: Any) -> None:
        """Show ends that nobody asked for."""
        if kind in {"exited", "failed", "restarting"}:
            self._tell_lines()
            super().event(kind, child, **details)
        elif kind == "ready":
            self.say(f"{child.name} is ready at {child.url}")

    def mesh(self, kind: str, text: str, **details: Any) -> None:
        """Show the rest of what happens."""
        self._up = self._up or kind == "up"
        if kind in {"failed", "incomplete"}:
            self._tell_lines()
        if kind != "up":
            super().mesh(kind, text, **details)

    def line(self, name: str, text: str) -> None:
        """Keep what is written while nothing is wrong; show warnings and errors."""
        if any(level in text for level in (" WARNING ", " ERROR ", " CRITICAL ", "Traceback")):
            super().line(name, text)
        elif not self._up:
            self._lines = [*self._lines, (name, text)][-50:]

    def _tell_lines(self) -> None:
        lines, self._lines = self._lines, []
        for name, text in lines:
            super().line(name, text)


class Exchange:
    """The exchange of messages, with each answer checked.

    Args:
        urls: instances of the cells alpha and pure, and where they are.
        say: prints a line.

    """

    def __init__(self, urls: dict[str, str], say: Callable[[str], Any]) -> None:
        self._urls = urls
        self._alpha = urls["alpha-0"]
        self._pure = urls["pure-0"]
        self._say = say

    def run(self) -> None:
        """Send, look, answer, look.

        Raises:
            CheckFailed: an answer is not what it should be.
            Unreachable: there is none.

        """
        self._title("alpha sends a message to pure, found through discovery")
        text = {"text": "Hello from Alpha!"}
        sent = self._post(f"{self._alpha}/send", {"to_cell": "pure", "message_type": "ping", "payload": text})
        receiver = self._check_delivered(sent, "pure")
        self._title("pure has it in its inbox, on disk")
        self._check_stored(receiver, "alpha", sent["message_id"], "ping", text)

        self._title("pure answers, by posting to alpha itself")
        reply = {"reply": "Got your message!"}
        # An inbox knows a message by its id; a fixed one would be a repeat in the next run.
        message_id = f"test-from-pure-{time.time_ns() // 1_000_000:x}"
        received = self._post(
            f"{self._alpha}/message",
            {"from_cell": "pure", "to_cell": "alpha", "message_id": message_id, "payload": reply},
        )
        self._check("alpha's receipt", received, status="received", message_id=message_id, acknowledged=True)
        self._title("alpha has it in its inbox")
        self._check_stored(self._alpha, "pure", message_id, "general", reply)

        self._title("pure sends to alpha through discovery as well")
        sent = self._post(f"{self._pure}/send", {"to_cell": "alpha", "message_type": "event", "payload": reply})
        receiver = self._check_delivered(sent, "alpha")
        self._check_stored(receiver, "pure", sent["message_id"], "event", reply)
        self._say("\nBoth directions work.")

    def _post(self, url: str, body: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps(body)
        self._say(f"$ curl -X POST {url} -H 'Content-Type: application/json' -d {shlex.quote(text)}")
        answer = http.request("POST", url, who="the cell", body=body, timeout=20)
        self._show(answer.body)
        if answer.status != 200 or not isinstance(answer.body, dict):
            raise CheckFailed(f"POST {url} answered {answer.status} {answer.error}")
        return answer.body

    def _check_delivered(self, sent: dict[str, Any], to_cell: str) -> str:
        """Check the answer of a /send; return the URL of the instance that has the message."""
        where = f"the answer of /send to {to_cell}"
        self._check(where, sent, status="delivered", to_cell=to_cell)
        self._check(where, sent.get("response"), acknowledged=True, cell_id=to_cell)
        if not isinstance(sent.get("message_id"), str):
            raise CheckFailed(f"{where}: no message_id")
        receiver = self._urls.get(sent["response"].get("instance"), "")
        # By port: a cell that listens on all addresses tells others another one than us.
        if not receiver or not str(sent.get("target_url")).endswith(f"{receiver[receiver.rindex(':') :]}/message"):
            raise CheckFailed(f"{where}: target_url is {sent.get('target_url')!r}, no address of {to_cell}")
        return receiver

    def _check_stored(self, url: str, sender: str, message_id: str, kind: str, payload: dict[str, Any]) -> None:
        path = f"{url}/messages?limit=1&from_cell={sender}"
        self._say(f"$ curl '{path}'")
        page = http.get(path, who="the cell")
        self._show(page)
        messages = page.get("messages")
        newest = messages[-1] if isinstance(messages, list) and messages else None
        where = f"the newest message from {sender} at {url}"
        self._check(where, newest, message_id=message_id, from_cell=sender, message_type=kind, payload=payload)

    def _check(self, where: str, found: Any, **wanted: Any) -> None:
        for field, value in wanted.items():
            if not isinstance(found, dict) or found.get(field) != value:
                seen = found.get(field) if isinstance(found, dict) else found
                raise CheckFailed(f"{where}: {field} is {safe(repr(seen))[:200]}, not {value!r}")

    def _title(self, text: str) -> None:
        self._say(f"\n== {text}")

    def _show(self, body: Any) -> None:
        for line in json.dumps(body, indent=2, ensure_ascii=False).splitlines():
            self._say(safe(line))
