"""Settings of discovery."""

import pytest

from cellmesh_operator.discovery.settings import PREFIX, Settings, unknown
from cellmesh_operator.errors import SettingsError


def test_an_empty_environment_gives_the_defaults() -> None:
    """Expect a service on the loopback interface, port 8001."""
    settings = Settings.from_environ({})
    assert (settings.host, settings.port, settings.expiry, settings.settle) == ("127.0.0.1", 8001, 15.0, 6.0)
    assert (settings.default_mesh, settings.max_registrations) == ("default", 200)


def test_every_kind_of_value_is_read() -> None:
    """Expect text, whole numbers, seconds and lists."""
    settings = Settings.from_environ(
        {
            PREFIX + "DEFAULT_MESH": "m",
            PREFIX + "PORT": "0",
            PREFIX + "EXPIRY": "1.5",
            PREFIX + "ALLOWED_HOSTS": "a.example, b.example,",
            PREFIX + "SETTLE": "",
            PREFIX + "KUBERNETES": "True",
            PREFIX + "NAMESPACES": "team-a,team-b",
            PREFIX + "NAMESPACE": "cellmesh",
        }
    )
    assert (settings.kubernetes, settings.namespaces) == (True, ("team-a", "team-b"))
    assert (settings.default_mesh, settings.port, settings.expiry) == ("m", 0, 1.5)
    assert (settings.allowed_hosts, settings.settle) == (("a.example", "b.example"), 6.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "x"),
        ("PORT", "65536"),
        ("EXPIRY", "0"),
        ("EXPIRY", "nan"),
        ("SETTLE", "-1"),
        ("MAX_REGISTRATIONS", "0"),
        ("MAX_REGISTRATIONS", "1.5"),
        ("DEFAULT_MESH", "a.b"),
        ("LOG_LEVEL", "loud"),
        ("KUBERNETES", "perhaps"),
        ("NAMESPACES", "a.b"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(name: str, value: str) -> None:
    """Expect an error that names the variable and the value."""
    with pytest.raises(SettingsError, match=f"{PREFIX}{name}: .*{value}"):
        Settings.from_environ({PREFIX + name: value})


def test_kubernetes_needs_the_namespace_of_the_leases() -> None:
    """Expect the variable that is missing to be named."""
    with pytest.raises(SettingsError, match=f"{PREFIX}NAMESPACE: '' must be the namespace"):
        Settings.from_environ({PREFIX + "KUBERNETES": "1"})


def test_the_variable_that_kubernetes_writes_for_a_service_is_not_a_port() -> None:
    """Expect the default port beside a Service named cellmesh-discovery."""
    environ = {PREFIX + "PORT": "tcp://10.0.0.1:8001", PREFIX + "PORT_8001_TCP_ADDR": "10.0.0.1"}
    assert Settings.from_environ(environ).port == 8001
    assert unknown(environ) == []


def test_misspelt_variables_are_reported() -> None:
    """Expect the unknown one, not those of cells."""
    environ = {PREFIX + "PROT": "1", PREFIX + "URL": "http://h", "CELLMESH_CELL_ID": "a", PREFIX + "HOST": "h"}
    assert unknown(environ) == [PREFIX + "PROT"]
