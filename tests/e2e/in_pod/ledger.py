"""Has a cell send numbered, sealed messages until SIGTERM; prints one line of JSON for each attempt.

Runs in the client pod with nothing but Python. It asks discovery where the sending cell is, posts to ``/send`` of
its instances, and sends each message again with the same id until it is acknowledged; after SIGTERM it begins no
new one, and ends when what it had begun is acknowledged or 60 seconds have passed.
"""

import argparse
import hashlib
import http.client
import itertools
import json
import signal
import sys
import threading
import time
import urllib.parse
import urllib.request
from typing import Any

#: Seconds after SIGTERM in which unacknowledged messages are still sent again.
LAST = 60
stopping = threading.Event()
numbers = itertools.count()
printing = threading.Lock()


def seal(run: str, number: int) -> str:
    """Return the hash that a message of this run and number carries."""
    return hashlib.sha256(f"{run} {number}".encode()).hexdigest()


class Entries:
    """Where the sending cell's instances are."""

    def __init__(self, mesh: str, cell: str) -> None:
        self._url = f"{mesh}/peers?{urllib.parse.urlencode({'cell_id': cell})}"
        self._found: list[tuple[str, int]] = []
        self._turn = itertools.count()

    def look(self) -> None:
        """Ask discovery; what was known stays if it does not answer or knows none."""
        try:
            with urllib.request.urlopen(self._url, timeout=2) as answer:
                found = [(peer["ip"], peer["port"]) for peer in json.load(answer)["peers"]]
        except (OSError, ValueError):
            return
        self._found = found or self._found

    def choose(self) -> tuple[str, int]:
        """Return an instance's address."""
        while not self._found:
            self.look()
            time.sleep(0.05)
        return self._found[next(self._turn) % len(self._found)]


def attempt(connection: http.client.HTTPConnection, body: bytes, timeout: float) -> dict[str, Any]:
    """Post once; return what came of it."""
    try:
        connection.timeout = timeout
        connection.request("POST", "/send", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        connection.close()
        return {"status": 0, "code": type(error).__name__}
    response = said.get("response") or {}
    return {
        "status": answer.status,
        "code": said.get("code", ""),
        "origin": said.get("origin", ""),
        "retry_after": answer.headers.get("Retry-After"),
        "maybe_delivered": said.get("maybe_delivered"),
        "instance": response.get("instance", ""),
        "acknowledged": response.get("acknowledged") is True,
        "url": said.get("target_url", ""),
    }


def client(options: argparse.Namespace, entries: Entries, give_up: list[float]) -> None:
    """Send one message after the other."""
    connection: http.client.HTTPConnection | None = None
    while not stopping.is_set():
        number = next(numbers)
        message = {
            "to_cell": options.to,
            "message_id": f"{options.run}-{number}",
            "message_type": "ledger",
            "ttl": 0,
            "timeout": options.timeout,
            "payload": {"run": options.run, "number": number, "seal": seal(options.run, number)},
        }
        body = json.dumps(message).encode()
        while time.monotonic() < give_up[0]:
            if connection is None or connection.sock is None:
                connection = http.client.HTTPConnection(*entries.choose())
            began = time.time()
            line = attempt(connection, body, options.timeout + 5)
            line |= {"number": number, "began": began, "ended": time.time(), "entry": connection.host}
            with printing:
                print(json.dumps(line), flush=True)
            if line["status"] == 200:
                break
            if line["status"] == 0 or (line["origin"] == "self" and line["code"] == "draining"):
                connection.close()
                connection = None
                entries.look()
            time.sleep(0.05)
        time.sleep(options.pause)


def main() -> int:
    """Read the command line and run the clients."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True, help="name of this run, in ids and payloads")
    parser.add_argument("--mesh", required=True, help="base URL of the mesh in discovery")
    parser.add_argument("--entry", required=True, help="the cell that sends")
    parser.add_argument("--to", required=True, help="the cell that receives")
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between two messages of a client")
    parser.add_argument("--timeout", type=float, default=10.0, help="of each /send, seconds")
    options = parser.parse_args()
    entries = Entries(options.mesh, options.entry)
    give_up = [float("inf")]

    def stop(*_: object) -> None:
        give_up[0] = time.monotonic() + LAST
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    threads = [threading.Thread(target=client, args=(options, entries, give_up)) for _ in range(options.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"sent": next(numbers)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
