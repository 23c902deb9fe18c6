"""What becomes of the watches, seen from their requests: listed anew, connected, lost.

kopf itself tells none of this: it lists again after a gap without a word, and it logs each attempt alone. Called in
kopf's thread; what is read elsewhere are plain values.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from yarl import URL

from cellmesh_operator.kube.client import path
from cellmesh_operator.naming import CELLS, Resource
from cellmesh_operator.reconciler.store import KINDS

#: A kind in a namespace; None stands for all namespaces.
Stream = tuple[Resource, str | None]

_log = logging.getLogger("cellmesh_operator.reconciler.looking")
#: Status codes of a request that is simply followed by another: a list after a gap, a new login.
_ORDINARY: Final = {401, 410}


class Streams:
    """The watches of all kinds in all scopes.

    Args:
        scopes: the namespaces; None stands for all.
        listed: called when a kind has been listed anew, in kopf's thread.

    """

    def __init__(self, scopes: Sequence[str | None], listed: Callable[[Stream], None]) -> None:
        self._listed = listed
        self._by_path: dict[str, Stream] = {path(kind, scope): (kind, scope) for kind in KINDS for scope in scopes}
        self._base = ""
        self._faults: dict[Stream, str] = {}
        self._heard: set[Stream] = set()
        self._watched: set[Stream] = set()

    def at(self, server: str) -> None:
        """Take note of the API server's address, whose path, if it has one, is before that of every request."""
        self._base = URL(server).path.rstrip("/")

    @property
    def all_watched(self) -> bool:
        """Whether each watch has been connected at least once since the beginning."""
        return len(self._watched) == len(self._by_path)

    @property
    def silent(self) -> set[Stream]:
        """The watches of which nothing was heard since the beginning, neither good nor bad."""
        return set(self._by_path.values()) - self._heard - set(self._faults)

    def begin(self) -> None:
        """Take note that watching begins, for the first time or anew."""
        # What was wrong before says nothing of a watch that is not begun any more.
        self._faults.clear()
        self._heard.clear()
        self._watched.clear()

    @property
    def faults(self) -> dict[Stream, str]:
        """The watches that are not connected, and why."""
        return dict(self._faults)

    @property
    def undefined(self) -> bool:
        """Whether the API server does not know Cells any more."""
        return any(stream[0] == CELLS and text.startswith("404") for stream, text in self.faults.items())

    def answered(self, url: URL, status: int) -> None:
        """Take note of an answer's beginning."""
        stream = self._by_path.get(url.path.removeprefix(self._base))
        if stream is None or status in _ORDINARY:
            return
        if status >= 400:
            self._fault(stream, _refusal(stream, status))
            return
        self._heard.add(stream)
        if self._faults.pop(stream, None) is not None:
            _log.info("watching %s again", _name(stream))
        if "watch" in url.query:
            self._watched.add(stream)
        elif "continue" not in url.query:
            self._listed(stream)

    def failed(self, url: URL, error: BaseException) -> None:
        """Take note of a request that had no answer."""
        stream = self._by_path.get(url.path.removeprefix(self._base))
        if stream is not None:
            self._fault(stream, str(error) or type(error).__name__)

    def _fault(self, stream: Stream, text: str) -> None:
        if self._faults.get(stream) is None:
            _log.warning("cannot watch %s: %s; trying again until it works", _name(stream), text)
        self._faults[stream] = text


def _name(stream: Stream) -> str:
    kind, scope = stream
    return f"{kind.plural} in {scope}" if scope else kind.plural


def _refusal(stream: Stream, status: int) -> str:
    if status == 403:
        return f"403, the service account may not list and watch {_name(stream)}"
    if status == 404:
        return f"404, {stream[0].plural} are not served by this API server"
    return str(status)
