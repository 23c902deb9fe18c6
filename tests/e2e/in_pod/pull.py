"""Prints what has been added to the files of a ledger: one JSON object, of the new whole lines by file.

pull.py DIRECTORY OFFSETS, where OFFSETS is JSON: of each file, how many bytes are known already.
"""

import json
import sys
from pathlib import Path

#: Bytes of one file that are given at once.
MOST = 8 * 1024 * 1024


def main(directory: str, offsets: str) -> None:
    """Print it."""
    known = json.loads(offsets)
    found = {}
    for path in sorted(Path(directory).glob("*.ledger")):
        with path.open("rb") as file:
            file.seek(known.get(path.name, 0))
            data = file.read(MOST)
        found[path.name] = data[: data.rfind(b"\n") + 1].decode()
    print(json.dumps({name: text for name, text in found.items() if text}))


if __name__ == "__main__":
    main(*sys.argv[1:])
