"""Where messages are pushed to: the URL of a Cell's handler."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_PORT: Final = "[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
_URL: Final = re.compile(rf"http://([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:({_PORT}))?(/[!$-~]*)?")


def is_handler_url(text: str) -> bool:
    """Tell whether messages can be pushed to a URL; the Cell's schema has the same rule."""
    return _URL.fullmatch(text) is not None


def handler_url(handler: Mapping[str, Any] | None) -> str:
    """Return the URL that a Cell's ``spec.handler`` stands for; empty where there is none.

    A port is that of a container of the same pod, or of a program on the same machine.
    """
    if handler is None:
        return ""
    if handler.get("port") is None:
        return str(handler.get("url") or "")
    return f"http://127.0.0.1:{handler['port']}{handler.get('path') or '/'}"
