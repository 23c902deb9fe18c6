"""Writes the last words of an instance to where Kubernetes reads them; elsewhere there is no such place."""

from __future__ import annotations

import logging
from pathlib import Path

from cellmesh.protocol.last_words import LastWords
from cellmesh.protocol.messages import encode

log = logging.getLogger(__name__)

#: Kubernetes' default terminationMessagePath: there in a container of a pod, and nowhere else.
TERMINATION_LOG = Path("/dev/termination-log")


def write(remaining: int, unsent: int, path: Path = TERMINATION_LOG) -> None:
    """Say what this instance leaves behind; the reconciler puts it into the Cell's status.

    Zeros too: they take back what an earlier life has said. It is a help for people, so that nothing fails with it.

    Args:
        remaining: messages in the inbox that are neither handled nor handed over.
        unsent: messages in the outbox.
        path: the file, which is written only if it is there.

    """
    try:
        with path.open("r+b") as file:
            file.write(encode(LastWords(remaining=remaining, unsent=unsent)))
            file.truncate()
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("what is left behind could not be written to %s: %s", path, error.strerror)
