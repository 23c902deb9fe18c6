"""A TCP forwarder in front of the API server, whose connections tests can cut or freeze."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from typing import Self


class Wire:
    """Forward a port of 127.0.0.1 to another; ``with Wire(port) as wire`` and connect to ``wire.port``.

    Args:
        target: port to forward to.

    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._refusing = False
        self._frozen = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="wire", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._thread.join()
        self._drop_all()
        self._listener.close()
        self._selector.close()

    def cut(self) -> None:
        """Reset every connection, and every new one until ``mend``."""
        self._refusing = True
        with self._lock:
            self._drop_all()

    def freeze(self) -> None:
        """Keep connections open and pass nothing on, as a network does that has lost the other side."""
        self._frozen = True

    def mend(self) -> None:
        """Forward again; what a frozen connection held back goes on its way."""
        self._refusing = self._frozen = False

    def _run(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select(0.02):
                with self._lock:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif not self._frozen and isinstance(key.fileobj, socket.socket):
                        self._forward(key.fileobj)
            if self._frozen:
                threading.Event().wait(0.02)  # readable sockets that nobody reads would spin

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        if self._refusing:
            _reset(near)
            return
        try:
            far = socket.create_connection(("127.0.0.1", self._target), timeout=5)
        except OSError:
            _reset(near)
            return
        for one, other in ((near, far), (far, near)):
            one.settimeout(5)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, source: socket.socket) -> None:
        if source not in self._pairs:
            return  # dropped by cut() meanwhile
        try:
            data = source.recv(65536)
            if data:
                self._pairs[source].sendall(data)
                return
        except OSError:
            pass
        self._drop(source)

    def _drop(self, one: socket.socket) -> None:
        for end in (one, self._pairs.pop(one)):
            self._pairs.pop(end, None)
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(end)
            _reset(end)

    def _drop_all(self) -> None:
        while self._pairs:
            self._drop(next(iter(self._pairs)))


def _reset(connection: socket.socket) -> None:
    """Close with a reset, so that the other side knows at once."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
