"""What to say of an address that cannot be listened on."""

from __future__ import annotations

import errno
import socket

from cellmesh_operator.errors import ListenError


def listen_error(host: str, port: int, error: OSError, *, prefix: str) -> ListenError:
    """Return the error that says what is wrong and what to do.

    Args:
        host: the address or name.
        port: the port.
        error: what the system said.
        prefix: what the variables of the program's settings begin with.

    """
    where = f"port {port} on {host}"
    if error.errno == errno.EADDRINUSE:
        text = f"{where} is in use; stop the other program, or choose another with --port or {prefix}PORT"
    elif error.errno == errno.EACCES:
        text = f"{where} needs privileges; choose one above 1023 with --port or {prefix}PORT"
    elif isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        text = f"{host!r} is no address of this machine; choose another with --host or {prefix}HOST"
    else:
        text = f"cannot listen on {where}: {error.strerror}; choose another with --host and --port"
    return ListenError(text)
