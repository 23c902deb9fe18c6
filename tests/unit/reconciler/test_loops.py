"""The event loop's repair."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
import threading

import pytest

from cellmesh_operator.loops import new_event_loop


def test_a_failed_tls_handshake_does_not_close_somebody_elses_descriptor() -> None:
    """Expect the number of a failed connection, given to a file meanwhile, to stay that file's."""
    listener = socket.create_server(("127.0.0.1", 0))

    def hang_up() -> None:
        connection, _ = listener.accept()
        connection.recv(1)
        connection.close()

    thread = threading.Thread(target=hang_up)
    thread.start()

    async def connect() -> int:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, listener.getsockname())
        number = sock.fileno()
        with pytest.raises(OSError):  # noqa: PT011 - reset or end of file, as it comes
            await loop.create_connection(
                asyncio.Protocol, sock=sock, ssl=ssl.create_default_context(), server_hostname="h"
            )
        assert sock.fileno() == -1
        return number

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        number = runner.run(connect())
        runner.run(asyncio.sleep(0))
        files = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]
        gc.collect()
        for file in files:
            os.fstat(file)
            os.close(file)
    thread.join()
    listener.close()
    assert number > 0
