"""Posts messages to one address until it refuses the connection; prints one line of JSON for each.

    knock.py ADDRESS PORT CELL

Says how long an instance that is about to go still answers, and what. Ends after a minute at the latest.
"""

import http.client
import json
import sys
import time
from typing import Any

#: Seconds between two messages.
PAUSE = 0.05


def knock(address: str, port: int, body: bytes) -> dict[str, Any]:
    """Post once on a connection of its own."""
    connection = http.client.HTTPConnection(address, port, timeout=5)
    try:
        connection.request("POST", "/message", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return {"status": answer.status, "code": json.loads(answer.read()).get("code", "")}
    except (OSError, http.client.HTTPException, ValueError) as error:
        return {"status": 0, "code": type(error).__name__}
    finally:
        connection.close()


def main(address: str, port: int, cell: str) -> None:
    """Knock until nobody is there."""
    end = time.time() + 60
    while time.time() < end:
        began = time.time()
        message = {"message_id": f"knock-{began}", "from_cell": "knock", "to_cell": cell, "payload": {}}
        found = knock(address, port, json.dumps(message).encode()) | {"began": began}
        print(json.dumps(found), flush=True)
        if found["status"] == 0:
            return
        time.sleep(PAUSE)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
