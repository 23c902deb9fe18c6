"""The table of a chart's values, made of the comments in its values.yaml; pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import yaml

_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][A-Za-z0-9]*):(?:\s|$)")


@dataclass(frozen=True)
class Value:
    """One value: its path with dots, its default, and the comment above it."""

    path: str
    default: Any
    text: str


def values(source: str) -> list[Value]:
    """Return every value that bears a comment, in the file's order.

    A key without a comment groups those below it; what is below a key with a comment belongs to its default.
    """
    defaults = yaml.safe_load(source)
    found: list[Value] = []
    path: list[str] = []
    comment: list[str] = []
    for line in source.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.lstrip("#").strip())
            continue
        key = _KEY.match(line)
        if key is not None:
            del path[len(key["indent"]) // 2 :]
            path.append(key["key"])
            name = ".".join(path)
            if comment and not _inside(name, found):
                found.append(Value(name, _look(defaults, path), " ".join(comment)))
        comment = []
    return found


def undocumented(source: str) -> list[str]:
    """Return the paths of values that neither bear a comment nor are below a key that does."""
    found = values(source)
    return [path for path in _leaves(yaml.safe_load(source)) if not _inside(path, found)]


def table(source: str) -> str:
    """Return the values as a Markdown table."""
    rows = ["| value | default | what it does |", "|---|---|---|"]
    for value in values(source):
        default = json.dumps(value.default, separators=(", ", ": "))
        rows.append(f"| `{value.path}` | `{default}` | {value.text.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def _inside(path: str, found: list[Value]) -> bool:
    return any(path == value.path or path.startswith(value.path + ".") for value in found)


def _look(tree: Any, path: list[str]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _leaves(tree: dict[str, Any], above: str = "") -> list[str]:
    paths: list[str] = []
    for key, value in tree.items():
        path = f"{above}{key}"
        paths += _leaves(value, f"{path}.") if isinstance(value, dict) and value else [path]
    return paths
