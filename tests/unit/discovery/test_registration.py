"""What a registration may be, and what it is given back as."""

import json

import pytest

from cellmesh.protocol.problems import Problem
from cellmesh_operator.discovery.registration import parse_heartbeat, parse_registration


def given_back(body: str, mesh: str = "default") -> dict:
    """Return the peer that a registration becomes."""
    return json.loads(parse_registration(body.encode(), mesh).encoded("2026-01-31T12:00:00.000Z"))


WRONG = [
    ("{", "malformed_json", None),
    ("", "malformed_json", None),
    ('{"cell_id":"a","port":1,"ip":"h","x":nul}', "malformed_json", None),
    ("[]", "invalid_field", "body"),
    ("null", "invalid_field", "body"),
    ('{"port":1,"ip":"h"}', "invalid_field", "cell_id"),
    ('{"cell_id":"a","ip":"h"}', "invalid_field", "port"),
    ('{"cell_id":"a","port":null,"ip":"h"}', "invalid_field", "port"),
    ('{"cell_id":"a","port":"80","ip":"h"}', "invalid_field", "port"),
    ('{"cell_id":"a","port":true,"ip":"h"}', "invalid_field", "port"),
    ('{"cell_id":"a","port":80.5,"ip":"h"}', "invalid_field", "port"),
    ('{"cell_id":"a","port":0,"ip":"h"}', "invalid_field", "port"),
    ('{"cell_id":"a","port":65536,"ip":"h"}', "invalid_field", "port"),
    ('{"cell_id":"a b","port":1,"ip":"h"}', "invalid_field", "cell_id"),
    ('{"cell_id":"a\\n","port":1,"ip":"h"}', "invalid_field", "cell_id"),
    ('{"cell_id":"' + "a" * 64 + '","port":1,"ip":"h"}', "invalid_field", "cell_id"),
    ('{"cell_id":7,"port":1,"ip":"h"}', "invalid_field", "cell_id"),
    ('{"cell_id":"a","port":1}', "invalid_field", "ip"),
    ('{"cell_id":"a","port":1,"ip":null,"hostname":null}', "invalid_field", "ip"),
    ('{"cell_id":"a","port":1,"ip":""}', "invalid_field", "ip"),
    ('{"cell_id":"a","port":1,"ip":"h/path"}', "invalid_field", "ip"),
    ('{"cell_id":"a","port":1,"ip":"h","hostname":"x\\r\\nEvil: 1"}', "invalid_field", "hostname"),
    ('{"cell_id":"a","port":1,"ip":"h","services":"s"}', "invalid_field", "services"),
    ('{"cell_id":"a","port":1,"ip":"h","services":["s",1]}', "invalid_field", "services[1]"),
    ('{"cell_id":"a","port":1,"ip":"h","type":3}', "invalid_field", "type"),
    ('{"cell_id":"a","port":1,"ip":"h","instance":""}', "invalid_field", "instance"),
    ('{"cell_id":"a","port":1,"ip":"h","namespace":"other"}', "invalid_field", "namespace"),
    ('{"cell_id":"a","port":1,"ip":"h","namespace":"default\\n"}', "invalid_field", "namespace"),
    ('{"cell_id":"a","port":1,"ip":"h","namespace":["default"]}', "invalid_field", "namespace"),
    ('{"cell_id":"a","port":1,"ip":"h","x":1e999}', "invalid_field", "body"),
    ('{"cell_id":"a","port":1,"ip":"h","x":' + "[" * 80 + "]" * 80 + "}", "invalid_field", "body"),
]


@pytest.mark.parametrize(("body", "code", "field"), WRONG)
def test_a_wrong_registration_is_refused_naming_the_field(body: str, code: str, field: str | None) -> None:
    """Expect the problem's code, and the field in its own member and in its text."""
    with pytest.raises(Problem) as caught:
        parse_registration(body.encode(), "default")
    assert (caught.value.code, caught.value.field) == (code, field)
    assert (field or "body") in caught.value.message


def test_text_that_is_not_utf_8_is_malformed() -> None:
    """Expect 400 for Latin-1."""
    with pytest.raises(Problem, match="UTF-8"):
        parse_registration('{"cell_id":"a","port":1,"ip":"h","type":"ü"}'.encode("latin-1"), "default")


def test_unknown_fields_come_back_as_the_very_text_they_were() -> None:
    """Expect numbers of any size and precision, null, and nested values unchanged."""
    extra = '"level":3.20,"big":123456789012345678901234567890,"none":null,"deep":{"a":[1.0,{}],"ü":"\\u00fc"}'
    registration = parse_registration(f'{{"cell_id":"a","port":1,"ip":"h",{extra}}}'.encode(), "default")
    assert extra.encode() in registration.encoded("t")


def test_a_field_whose_name_needs_escaping_comes_back() -> None:
    """Expect quotes and control characters in a name to survive."""
    assert given_back('{"cell_id":"a","port":1,"ip":"h","q\\"\\n":1}')['q"\n'] == 1


def test_null_in_an_optional_known_field_counts_as_absent() -> None:
    """Expect the field to be gone."""
    peer = given_back('{"cell_id":"a","port":1,"ip":"h","hostname":null,"services":null,"uid":null}')
    assert not {"hostname", "services", "uid"} & peer.keys()


def test_what_only_discovery_knows_is_set_by_it() -> None:
    """Expect last_seen, source and namespace to be discovery's, whatever was sent."""
    peer = given_back('{"cell_id":"a","port":1,"ip":"h","last_seen":17.5,"source":"pod"}', "m1")
    assert (peer["last_seen"], peer["source"], peer["namespace"]) == ("2026-01-31T12:00:00.000Z", "registered", "m1")


def test_the_last_of_repeated_fields_wins() -> None:
    """Expect one field in the peer, with the last value, which is the one that was checked."""
    text = parse_registration(b'{"cell_id":"a","port":1,"port":2,"ip":"h"}', "default").encoded("t")
    assert text.count(b'"port"') == 1
    assert json.loads(text)["port"] == 2


@pytest.mark.parametrize("host", ["10.0.0.7", "fe80::1%eth0", "20302eb1df3f", "my_app-1.example.org"])
def test_addresses_and_host_names_are_taken(host: str) -> None:
    """Expect IPv4, scoped IPv6, a container's name and names with underscores."""
    assert given_back(json.dumps({"cell_id": "a", "port": 1, "ip": host}))["ip"] == host


def test_a_port_that_is_an_integer_but_for_its_notation_is_taken() -> None:
    """Expect 8002.0 to be 8002, as JSON Schema has it."""
    assert parse_registration(b'{"cell_id":"a","port":8002.0,"ip":"h"}', "default").content.count(b'"port":8002,') == 1


def test_the_order_of_fields_does_not_change_the_digest() -> None:
    """Expect equal digests, so that a renewal in another order is no change."""
    one = parse_registration(b'{"cell_id":"a","port":1,"ip":"h"}', "default")
    two = parse_registration(b'{"ip":"h","port":1,"cell_id":"a","last_seen":"now"}', "default")
    assert one.digest == two.digest


def test_a_heartbeat_needs_only_the_cell() -> None:
    """Expect further fields, also known ones of wrong types, to be ignored."""
    beat = parse_heartbeat(b'{"cell_id":"pure","consciousness_level":3.3,"port":"x","services":7}')
    assert (beat.cell_id, beat.instance) == ("pure", None)


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b'{"cell_id":"a\\n"}', b'{"cell_id":"a","instance":5}', b'{"cell_id":1}']
)
def test_a_wrong_heartbeat_is_refused(body: bytes) -> None:
    """Expect 422."""
    with pytest.raises(Problem) as caught:
        parse_heartbeat(body)
    assert caught.value.http_status == 422
