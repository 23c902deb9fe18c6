"""YAML files to plain data, one ``Document`` for each object.

A manifest may come from anywhere, so what YAML allows and JSON does not is refused here with its line:
duplicate keys, keys that are no strings, tags, cycles, and anchors that unfold to more than the file is worth.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

#: Largest file read; a Kubernetes API server takes no larger request either.
MAX_BYTES = 3 * 1024 * 1024
#: Most values of one document, aliases unfolded.
MAX_NODES = 100_000


@dataclass(frozen=True)
class Document:
    """One object of a manifest file, and where it stands."""

    source: str
    position: str
    data: Any

    @property
    def directory(self) -> Path:
        """Where its file is; of standard input the current directory."""
        return Path.cwd() if self.source == STANDARD_INPUT else Path(self.source).absolute().parent

    @property
    def where(self) -> str:
        """File, position and name, for messages."""
        return f"{self.source}: {self.position} ({describe(self.data)})"


#: What standard input is called.
STANDARD_INPUT = "standard input"


class FileFault(Exception):  # noqa: N818 - it is collected, not raised to the user
    """A file cannot be read as YAML; the text names file and line."""


def describe(data: Any) -> str:
    """Return kind and name of an object as far as it has them, safe to print."""
    if not isinstance(data, dict):
        return "not an object"
    kind = data.get("kind")
    metadata = data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    shown = [text[:80] if text.isprintable() else ascii(text)[:80] for text in (kind, name) if isinstance(text, str)]
    return " ".join(shown) or "no kind"


def read_documents(paths: Sequence[str]) -> tuple[list[Document], list[str]]:
    """Read every object of the files, ``-`` being standard input; return them and the faults of whole files."""
    documents: list[Document] = []
    faults: list[str] = []
    for path in paths:
        source = STANDARD_INPUT if path == "-" else path
        try:
            text = _read(path, source)
            found = list(_documents(text, source))
        except FileFault as fault:
            faults.append(str(fault))
            continue
        if not found:
            faults.append(f"{source}: holds no object; write a Cell into it")
        documents += found
    return documents, faults


def _read(path: str, source: str) -> str:
    try:
        if path == "-":
            raw = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise FileFault(f"{source}: cannot be read ({error.strerror or error})") from None
    if len(raw) > MAX_BYTES:
        raise FileFault(f"{source}: larger than {MAX_BYTES} bytes; split it")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileFault(f"{source}: not UTF-8 (byte {error.start}); save it as UTF-8") from None


def _documents(text: str, source: str) -> Iterator[Document]:
    for number, data in enumerate(_parse(text, source), start=1):
        position = f"document {number}"
        if data is None:
            continue  # `---` with nothing behind it; kubectl skips it too
        if isinstance(data, dict) and data.get("kind") in {"List", "CellList"} and "items" in data:
            items = data["items"]
            if not isinstance(items, list):
                raise FileFault(f"{source}: {position} ({data['kind']}): items: must be a list")
            for index, item in enumerate(items, start=1):
                yield Document(source, f"{position} item {index}", item)
            continue
        yield Document(source, position, data)


def _parse(text: str, source: str) -> Iterator[Any]:
    try:
        loader = yaml.SafeLoader(text)
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                continue
            _check_node(node, {})
            data = loader.construct_document(node)
            _check_value(data, "")
            yield data
    except FileFault as fault:
        raise FileFault(f"{source}: {fault}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise FileFault(f"{source}: {line}not valid YAML: {problem}") from None
    except RecursionError:
        raise FileFault(f"{source}: nested too deeply") from None
    except yaml.YAMLError as error:
        raise FileFault(f"{source}: not valid YAML: {' '.join(str(error).split())[:200]}") from None
    except (ValueError, KeyError, AttributeError, TypeError, ArithmeticError) as error:
        # PyYAML raises these bare for a value that contradicts its tag, such as `!!int abc` or 2026-99-99.
        raise FileFault(
            f"{source}: a value is not of the type it is written as ({str(error)[:120]}); quote it"
        ) from None


def _check_node(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """Return how many values a node unfolds to, before anything is unfolded.

    Merge keys and aliases make PyYAML's own work exponential ("billion laughs"), so this looks at the
    graph: every node is visited once and its size remembered.
    """
    known = sizes.get(id(node), 0)
    if known is None:
        raise FileFault(f"line {_line(node)}: an anchor holds itself; write the values out")
    if known:
        return known
    sizes[id(node)] = None
    total = 1
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise FileFault(f"line {_line(key)}: a key must be a string")
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise FileFault(f"line {_line(key)}: {ascii(key.value)[:80]} is there twice; remove one")
            seen.add(key.value)
            total += _check_node(value, sizes)
    elif isinstance(node, yaml.SequenceNode):
        total += sum(_check_node(value, sizes) for value in node.value)
    if total > MAX_NODES:
        raise FileFault(f"line {_line(node)}: more than {MAX_NODES} values, anchors unfolded; write less")
    sizes[id(node)] = total
    return total


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _check_value(value: Any, path: str) -> None:
    """Refuse what has no form in JSON."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise FileFault(f"{path or 'the object'}: the key {ascii(key)[:80]} is not a string; quote it")
            _check_value(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_value(item, f"{path}[{index}]")
    elif isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise FileFault(f"{ascii(path)[1:-1]}: not Unicode text (half of a surrogate pair)")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise FileFault(f"{path}: {value} is no number that JSON has")
    elif value is not None and not isinstance(value, (bool, int)):
        raise FileFault(f"{ascii(path)[1:-1]}: {ascii(str(value))[:80]} is read as a {type(value).__name__}; quote it")
