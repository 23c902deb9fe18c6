"""The message on the wire: what is taken, what is refused and how that is said."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellmesh.protocol.deduplication import dedupe_key, fingerprint
from cellmesh.protocol.messages import (
    CellMessage,
    Checked,
    Identity,
    accept,
    decode_batch,
    decode_legacy,
    decode_message,
    encode,
)
from cellmesh.protocol.problems import CODES, Problem
from cellmesh.protocol.sends import decode_send

HERE = Identity("pure", "default", "pure-0", "uid-1")
NAN = b"NaN"


def fixed() -> str:
    """Return the id of messages that come without one."""
    return "made"


def message(**fields: Any) -> bytes:
    """Return a good message with these fields changed."""
    return json.dumps({"message_id": "m", "from_cell": "alpha", "payload": {}} | fields).encode()


def with_payload(payload: bytes) -> bytes:
    """Return a message with this payload, as text."""
    return b'{"message_id":"m","from_cell":"alpha","payload":' + payload + b"}"


def take(body: bytes) -> Checked:
    """Decode and check a message as ``POST /message`` does."""
    return accept(decode_message(body, fixed), HERE)


def refused(body: bytes) -> Problem:
    """Return the problem that a message is refused with."""
    with pytest.raises(Problem) as caught:
        take(body)
    return caught.value


def nested(depth: int) -> bytes:
    """Return an object ``depth`` levels deep."""
    return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
payloads = st.dictionaries(texts, values, max_size=5)
spaces = st.sampled_from(["", " ", "\n\t ", "\r\n"])


@given(
    payload=payloads,
    indent=st.none() | st.integers(0, 3),
    ascii_only=st.booleans(),
    fields=st.fixed_dictionaries(
        {"message_id": texts, "from_cell": texts},
        optional={
            "to_cell": texts,
            "message_type": texts,
            "priority": st.sampled_from(["low", "normal", "high", "critical"]),
            "ttl": st.integers(0, 1000) | st.floats(0, 1000),
            "acknowledged": st.booleans(),
            "reply_to": texts,
            "conversation_id": texts,
            "tracestate": texts,
            "to_uid": texts,
            "ttl_remaining": st.floats(0, 1000),
        },
    ),
)
def test_a_message_survives_the_wire_with_the_text_of_its_payload(
    payload: dict, indent: int | None, ascii_only: bool, fields: dict
) -> None:
    """Expect every field back after decoding and encoding, and the payload as the text it was."""
    text = json.dumps(payload, indent=indent, ensure_ascii=ascii_only).encode()
    rest = json.dumps(fields, ensure_ascii=ascii_only).encode()
    body = rest[:-1] + b',"payload":' + text + b"}"
    first = decode_message(body, fixed)
    again = decode_message(encode(first), fixed)
    assert bytes(again.payload) == text
    assert json.loads(encode(again)) == json.loads(body)


@given(payload=payloads, before=spaces, after=spaces)
def test_what_is_stored_of_a_payload_is_its_text(payload: dict, before: str, after: str) -> None:
    """Expect the same JSON value, whatever surrounds it."""
    text = json.dumps(payload)
    assert json.loads(take(with_payload((before + text + after).encode())).payload) == payload


bodies = (
    st.binary(max_size=200)
    | values.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(
        st.sampled_from([*CellMessage.__struct_fields__, "content", "metadata", "type", "timeout", "mode"]), values
    ).map(lambda value: json.dumps(value).encode())
    | st.tuples(payloads, st.integers(0, 60)).map(lambda pair: message(payload=pair[0])[: pair[1]])
    | st.tuples(st.binary(max_size=8), st.integers(0, 50)).map(
        lambda pair: message()[: pair[1]] + pair[0] + message()[pair[1] :]
    )
)


@settings(max_examples=500)
@given(body=bodies)
def test_no_bytes_break_the_decoding_of_a_message(body: bytes) -> None:
    """Expect a checked message or a problem that says which field, never another exception."""
    try:
        checked = take(body)
    except Problem as problem:
        assert problem.code in CODES  # noqa: PT017 - one of two outcomes
        assert problem.message.startswith(f"{problem.field or 'body'}: ")  # noqa: PT017
        json.dumps(problem.body())
    else:
        assert isinstance(json.loads(checked.payload), dict)


@settings(max_examples=300)
@given(body=bodies)
def test_no_bytes_break_the_decoding_of_the_legacy_form(body: bytes) -> None:
    """Expect a checked message or a problem."""
    try:
        accept(decode_legacy(body, fixed), HERE)
    except Problem as problem:
        assert problem.message.startswith(f"{problem.field or 'body'}: ")  # noqa: PT017


@settings(max_examples=300)
@given(body=bodies)
def test_no_bytes_break_the_decoding_of_a_send(body: bytes) -> None:
    """Expect a request or a problem."""
    try:
        assert json.loads(decode_send(body).payload) is not None
    except Problem as problem:
        assert problem.message.startswith(f"{problem.field or 'body'}: ")  # noqa: PT017


@settings(max_examples=300)
@given(body=bodies, items=st.lists(bodies, max_size=4))
def test_no_bytes_break_the_decoding_of_a_batch(body: bytes, items: list[bytes]) -> None:
    """Expect a list of messages and problems, or one problem, for the bytes alone and as items."""
    for whole in (body, b"[" + b",".join(items) + b"]"):
        try:
            decoded = decode_batch(whole, fixed)
        except Problem as problem:
            assert problem.code in {"malformed_json", "invalid_field"}  # noqa: PT017
        else:
            assert all(isinstance(item, CellMessage | Problem) for item in decoded)


def test_a_bad_item_of_a_batch_harms_no_other() -> None:
    """Expect the messages around it, and its problem in its place."""
    batch = b"[" + b",".join([message(message_id="a"), b'{"from_cell":1}', message(message_id="c")]) + b"]"
    first, second, third = decode_batch(batch, fixed)
    assert isinstance(first, CellMessage)
    assert isinstance(second, Problem)
    assert isinstance(third, CellMessage)
    assert (first.message_id, third.message_id) == ("a", "c")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"message_id": ""}, "message_id"),
        ({"message_id": "x" * 257}, "message_id"),
        ({"message_id": 7}, "message_id"),
        ({"message_id": None}, "message_id"),
        ({"from_cell": ""}, "from_cell"),
        ({"from_cell": ["alpha"]}, "from_cell"),
        ({"to_cell": 1}, "to_cell"),
        ({"message_type": ""}, "message_type"),
        ({"message_type": {}}, "message_type"),
        ({"payload": None}, "payload"),
        ({"payload": "text"}, "payload"),
        ({"payload": []}, "payload"),
        ({"payload": 1}, "payload"),
        ({"payload": True}, "payload"),
        ({"timestamp": "tomorrow"}, "timestamp"),
        ({"timestamp": 1700000000}, "timestamp"),
        ({"priority": "HIGH"}, "priority"),
        ({"priority": 3}, "priority"),
        ({"ttl": -1}, "ttl"),
        ({"ttl": "60"}, "ttl"),
        ({"ttl": True}, "ttl"),
        ({"ttl": 10**400}, "ttl"),
        ({"ttl": 315_360_001}, "ttl"),
        ({"acknowledged": "yes"}, "acknowledged"),
        ({"reply_to": ""}, "reply_to"),
        ({"conversation_id": 1}, "conversation_id"),
        ({"traceparent": []}, "traceparent"),
        ({"tracestate": "x" * 1025}, "tracestate"),
        ({"ttl_remaining": -0.1}, "ttl_remaining"),
        ({"from_namespace": 1}, "from_namespace"),
        ({"from_instance": False}, "from_instance"),
    ],
)
def test_a_wrong_field_is_named(fields: dict, field: str) -> None:
    """Expect ``invalid_field`` with the field's name, in the member and in the text."""
    problem = refused(message(**fields))
    assert (problem.code, problem.field) == ("invalid_field", field)
    assert problem.message.startswith(f"{field}: ")


@pytest.mark.parametrize("field", ["message_id", "from_cell", "payload"])
def test_a_missing_field_is_named(field: str) -> None:
    """Expect it said to be absent."""
    fields = json.loads(message())
    del fields[field]
    problem = refused(json.dumps(fields).encode())
    assert (problem.code, problem.field) == ("invalid_field", field)
    assert "absent" in problem.message


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"to_cell": "alpha"}, "to_cell"),
        ({"to_namespace": "other"}, "to_namespace"),
        ({"to_instance": "pure-1"}, "to_instance"),
        ({"to_uid": "uid-2"}, "to_uid"),
    ],
)
def test_a_message_for_another_is_misdirected(fields: dict, field: str) -> None:
    """Expect the code that sends the sender to look again."""
    problem = refused(message(**fields))
    assert (problem.code, problem.field) == ("misdirected", field)


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"{", b"nul", b"{]", message()[:-1], message() + b"x", b"'a'", b"\xef\xbb\xbf" + message(), b"{'a':1}"],
)
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    """Expect 400, not 422."""
    assert refused(body).http_status == 400


@pytest.mark.parametrize("body", [b"null", b"[]", b"1", b'"text"', b"true", b"[" * 1000])
def test_what_is_not_an_object_is_refused(body: bytes) -> None:
    """Expect the body named."""
    problem = refused(body)
    assert problem.message.startswith("body: ")


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80"])
@pytest.mark.parametrize("where", ["key", "text", "payload", "unknown"])
def test_text_that_is_not_utf8_is_refused_wherever_it_stands(bad: bytes, where: str) -> None:
    """Expect 400 for it in a field, a payload, a key and a field that is not read."""
    body = {
        "key": b'{"message_id":"m","from_cell":"a","payload":{"' + bad + b'":1}}',
        "text": b'{"message_id":"' + bad + b'","from_cell":"a","payload":{}}',
        "payload": with_payload(b'{"t":"' + bad + b'"}'),
        "unknown": b'{"message_id":"m","from_cell":"a","payload":{},"unread":"' + bad + b'"}',
    }[where]
    problem = refused(body)
    assert (problem.code, "UTF-8" in problem.message) == ("malformed_json", True)


@pytest.mark.parametrize("text", [rb"\ud800", rb"\udc00", rb"\ud800\ud800", rb"\ud83dx", rb"\udc00\ud800"])
def test_a_lone_surrogate_is_refused(text: bytes) -> None:
    """Expect no message stored with text that cannot be encoded."""
    assert refused(with_payload(b'{"t":"' + text + b'"}')).http_status in {400, 422}
    assert refused(b'{"message_id":"' + text + b'","from_cell":"a","payload":{}}').http_status in {400, 422}


def test_a_surrogate_pair_is_one_character() -> None:
    """Expect it taken."""
    assert json.loads(take(with_payload(rb'{"t":"\ud83d\ude00"}')).payload) == {"t": "\U0001f600"}


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"1e400", b"9" * 5000, NAN, b"Infinity", b"-Infinity"])
def test_a_number_that_is_not_finite_is_refused(number: bytes) -> None:
    """Expect it refused in a payload, deep in it, and as a field."""
    for body in (
        with_payload(b'{"n":' + number + b"}"),
        with_payload(b'{"a":[{"n":' + number + b"}]}"),
        b'{"message_id":"m","from_cell":"a","payload":{},"ttl":' + number + b"}",
    ):
        assert refused(body).http_status in {400, 422}


@pytest.mark.parametrize(
    "number", [b"1e308", b"-0", b"5e-324", b"18446744073709551615", b"123456789012345678901234567890"]
)
def test_a_large_finite_number_keeps_its_text(number: bytes) -> None:
    """Expect the digits as they came."""
    assert take(with_payload(b'{"n":' + number + b"}")).payload == b'{"n":' + number + b"}"


def test_depth_64_is_taken_and_65_refused() -> None:
    """Expect the bound where the contract puts it, the payload's own object included."""
    assert take(with_payload(nested(64)))
    assert refused(with_payload(nested(65))).field == "payload"


def test_arrays_count_as_levels_too() -> None:
    """Expect an object with 63 arrays in each other taken, and 64 refused."""
    assert take(with_payload(b'{"a":' + b"[" * 63 + b"]" * 63 + b"}"))
    assert refused(with_payload(b'{"a":' + b"[" * 64 + b"]" * 64 + b"}")).field == "payload"


def test_brackets_in_text_are_no_levels() -> None:
    """Expect a flat payload full of brackets taken."""
    assert take(with_payload(b'{"a":"' + b"[{" * 500 + b'"}'))


def test_many_objects_beside_each_other_are_no_levels() -> None:
    """Expect a wide payload taken."""
    assert take(with_payload(b'{"a":[' + b",".join([b"{}"] * 500) + b"]}"))


@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_nesting_without_end_is_refused(depth: int) -> None:
    """Expect a problem, not a broken stack."""
    for body in (with_payload(nested(depth)), with_payload(b"[" * depth + b"]" * depth), b"[" * depth):
        assert refused(body).http_status in {400, 422}


def test_of_duplicate_keys_the_last_wins() -> None:
    """Expect it for fields and for the payload as a whole."""
    body = b'{"message_id":"a","message_id":"b","from_cell":"x","from_cell":"y","payload":{"n":1},"payload":{"n":2}}'
    checked = take(body)
    assert (checked.message_id, checked.from_cell, checked.payload) == ("b", "y", b'{"n":2}')


def test_duplicate_keys_in_a_payload_count_as_the_last_one_when_messages_are_compared() -> None:
    """Expect two texts of one value to be the same message."""
    twice = take(with_payload(b'{"n":1,"n":2}'))
    once = take(with_payload(b'{ "n" : 2 }'))
    assert twice.fingerprint == once.fingerprint


def test_the_order_of_keys_does_not_make_another_message() -> None:
    """Expect equal fingerprints."""
    assert (
        take(with_payload(b'{"a":1,"b":{"c":2,"d":3}}')).fingerprint
        == take(with_payload(b'{"b":{"d":3,"c":2},"a":1}')).fingerprint
    )


@given(one=payloads, other=payloads)
def test_another_payload_makes_another_message(one: dict, other: dict) -> None:
    """Expect fingerprints equal exactly when the payloads' JSON values are."""
    same = msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted")
    assert (fingerprint("c", "t", one) == fingerprint("c", "t", other)) is same


@given(first=st.tuples(texts, texts, texts), second=st.tuples(texts, texts, texts))
def test_a_key_belongs_to_one_sender_and_id(first: tuple[str, str, str], second: tuple[str, str, str]) -> None:
    """Expect keys equal only for the same namespace, cell and id."""
    if "\0" not in "".join(first + second):
        assert (dedupe_key(*first) == dedupe_key(*second)) is (first == second)


def test_unknown_fields_of_a_message_are_ignored() -> None:
    """Expect messages of newer or richer programs taken."""
    assert take(message(hops=3, consciousness_level=0.7)).message_id == "m"


def test_an_unknown_field_of_a_send_is_named() -> None:
    """Expect a misspelt option refused, as it would silently have no effect."""
    with pytest.raises(Problem) as caught:
        decode_send(b'{"to_cell":"pure","time_out":3}')
    assert caught.value.field == "time_out"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"to_cell": ""}, "to_cell"),
        ({"to_cell": None}, "to_cell"),
        ({"payload": [1]}, "payload"),
        ({"payload": "x"}, "payload"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": 301}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": "10"}, "timeout"),
        ({"mode": "later"}, "mode"),
        ({"ttl": -1}, "ttl"),
        ({"priority": "urgent"}, "priority"),
        ({"message_id": ""}, "message_id"),
        ({"timestamp": "now"}, "timestamp"),
        ({"to_instance": 1}, "to_instance"),
    ],
)
def test_a_wrong_field_of_a_send_is_named(fields: dict, field: str) -> None:
    """Expect ``invalid_field`` with the field's name."""
    with pytest.raises(Problem) as caught:
        decode_send(json.dumps({"to_cell": "pure"} | fields).encode())
    assert (caught.value.code, caught.value.field) == ("invalid_field", field)


@pytest.mark.parametrize("body", [b'{"to_cell":"pure"}', b'{"to_cell":"pure","payload":null}'])
def test_a_send_without_a_payload_sends_an_empty_one(body: bytes) -> None:
    """Expect an empty object."""
    assert bytes(decode_send(body).payload) == b"{}"


@pytest.mark.parametrize(
    ("body", "payload", "kind"),
    [
        ({"content": "hi"}, {"content": "hi"}, "general"),
        ({"content": None}, {"content": None}, "general"),
        ({"content": [1, 2]}, {"content": [1, 2]}, "general"),
        ({"content": "hi", "type": "t"}, {"content": "hi"}, "t"),
        ({"content": "hi", "type": "t", "message_type": "m"}, {"content": "hi"}, "m"),
        ({"content": "hi", "metadata": {"a": 1}}, {"content": "hi", "metadata": {"a": 1}}, "general"),
        ({"content": "hi", "metadata": None}, {"content": "hi"}, "general"),
    ],
)
def test_the_legacy_form_becomes_a_message(body: dict, payload: dict, kind: str) -> None:
    """Expect its content, and metadata if there is any, as the payload."""
    checked = take(json.dumps({"from_cell": "old"} | body).encode())
    assert (json.loads(checked.payload), checked.message_type, checked.message_id) == (payload, kind, "made")


def test_a_body_with_content_and_payload_is_the_current_form() -> None:
    """Expect the payload taken and content ignored."""
    assert take(message(content="old", payload={"new": 1})).payload == b'{"new": 1}'


def test_a_legacy_message_keeps_the_id_it_brings() -> None:
    """Expect a retry of an old program to be recognised."""
    assert take(b'{"from_cell":"old","content":1,"message_id":"mine"}').message_id == "mine"


def test_deep_content_counts_with_the_payload_around_it() -> None:
    """Expect 63 levels of content taken and 64 refused."""
    assert take(b'{"from_cell":"old","content":' + nested(63) + b"}")
    assert refused(b'{"from_cell":"old","content":' + nested(64) + b"}").code == "invalid_field"


@pytest.mark.parametrize(
    ("ttl", "remaining", "lifetime"),
    [(None, None, 60), (0, None, 0), (5, None, 5), (60, 10, 10), (10, 60, 10), (0, 10, 0), (None, 0.5, 0.5)],
)
def test_what_is_left_of_the_ttl_counts(ttl: float | None, remaining: float | None, lifetime: float) -> None:
    """Expect the smaller of ``ttl`` and ``ttl_remaining``; 0 never expires."""
    assert take(message(ttl=ttl, ttl_remaining=remaining)).lifetime == lifetime


def test_what_is_absent_has_the_defaults_of_the_contract() -> None:
    """Expect type general, priority normal, ttl 60, this cell as the receiver."""
    checked = take(message())
    assert (checked.message_type, checked.priority, checked.ttl, checked.to_cell) == ("general", "normal", 60, "pure")
