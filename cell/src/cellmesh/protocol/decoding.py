"""JSON from outside to typed values, with errors that name the field.

msgspec does the work; this module turns its errors into problems of ours and adds the three checks it
does not make: the whole text is UTF-8, raw payloads are one finite JSON object, and nesting is bounded.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from cellmesh.protocol.problems import Problem, invalid

#: Deepest nesting of a payload, the payload's own object included (design: the wire).
MAX_DEPTH = 64

T = TypeVar("T")

_decode_any = msgspec.json.Decoder().decode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>[^`]*)`")


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode one JSON text.

    Raises:
        Problem: ``malformed_json`` (400) when the text is not JSON in UTF-8 (RFC 8259),
            ``invalid_field`` (422) when a field is missing or of the wrong type or range.

    """
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise Problem(
                "malformed_json", f"body: not UTF-8 (byte {error.start}); send JSON encoded as UTF-8"
            ) from None
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem("malformed_json", f"body: {error}; send one JSON value") from None
    except RecursionError:
        raise Problem("malformed_json", f"body: nested too deeply; at most {MAX_DEPTH} levels") from None


def _invalid(error: msgspec.ValidationError) -> Problem:
    text = str(error)
    path = ""
    match = _PATH.search(text)
    if match:
        path = match["path"].strip(".")
        text = text[: match.start()]
    missing = _MISSING.search(text)
    if missing:
        field = f"{path}.{missing['field']}" if path else missing["field"]
        return invalid(field, "required and absent; send it")
    unknown = _UNKNOWN.search(text)
    if unknown:
        # A name may be anything, the empty string included.
        name = unknown["field"][:100] or '""'
        return invalid(f"{path}.{name}" if path else name, "no such field; remove it")
    return invalid(path or "body", _plain(text))


#: msgspec's names for types, and JSON's.
_JSON_NAMES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "raw": "value"}


def _plain(text: str) -> str:
    """Say what msgspec says in the words of JSON."""
    if text.startswith("Invalid enum value"):
        return f"{text.partition('value ')[2]} is none of the values allowed here; see the API documentation"
    text = re.sub(r"\b(str|int|float|bool|raw)\b", lambda match: _JSON_NAMES[match[0]], text.replace("`", ""))
    return text[:1].lower() + text[1:]


def check_object(field: str, raw: bytes) -> Any:
    """Check that raw JSON text is one object, at most ``MAX_DEPTH`` deep, with finite numbers; return it decoded.

    The text has been checked to be UTF-8 as part of the body it came in.

    Raises:
        Problem: ``invalid_field`` naming ``field``.

    """
    try:
        value = _decode_any(raw)
    except RecursionError:
        raise invalid(field, f"nested too deeply; at most {MAX_DEPTH} levels") from None
    except msgspec.ValidationError:
        raise invalid(field, "holds a number that is not finite or too long; send it as a string") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(field, f"not valid JSON ({error})") from None
    if type(value) is not dict:
        raise invalid(field, f"must be a JSON object, got {_name(value)}")
    # Counting brackets, those in strings included, bounds the depth from above at the speed of memchr.
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise invalid(field, f"nested too deeply; at most {MAX_DEPTH} levels")
    return value


def canonical(value: Any) -> bytes:
    """Return the JSON text of a decoded value in one canonical form: keys sorted, no white space."""
    return _encode_sorted(value)


def _depth(value: Any) -> int:
    deepest = 0
    level = [value]
    while level:
        deepest += 1
        below: list[Any] = []
        for item in level:
            children = item.values() if isinstance(item, dict) else item
            below.extend(child for child in children if isinstance(child, (dict, list)))
        level = below
    return deepest


def _name(value: Any) -> str:
    if value is None:
        return "null"
    return {list: "array", str: "string", bool: "boolean"}.get(type(value), "number")
