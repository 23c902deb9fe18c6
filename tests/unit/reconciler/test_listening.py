"""What is said of an address that cannot be listened on."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from cellmesh_operator.listening import listen_error


@pytest.mark.parametrize(
    ("error", "wrong", "advice"),
    [
        (OSError(errno.EADDRINUSE, "x"), "port 80 on h is in use", "--port or X_PORT"),
        (OSError(errno.EACCES, "x"), "needs privileges", "--port or X_PORT"),
        (OSError(errno.EADDRNOTAVAIL, "x"), "'h' is no address of this machine", "--host or X_HOST"),
        (socket.gaierror(socket.EAI_NONAME, "x"), "'h' is no address of this machine", "--host or X_HOST"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "open files", "--host and --port"),
    ],
)
def test_the_fault_and_the_way_out_are_named(error: OSError, wrong: str, advice: str) -> None:
    """Expect what is wrong, and the option and the variable that choose another address."""
    text = str(listen_error("h", 80, error, prefix="X_"))
    assert wrong in text
    assert text.endswith(advice)
