"""Settings and command line of the reconciler."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from cellmesh_operator.errors import SettingsError
from cellmesh_operator.reconciler.__main__ import main
from cellmesh_operator.reconciler.settings import PREFIX, Settings, unknown

URL = {PREFIX + "DISCOVERY_URL": "http://discovery.system:8001/"}


def test_with_discovery_alone_the_rest_has_defaults() -> None:
    """Expect the whole cluster, five Cells at a time, an image of this version."""
    settings = Settings.from_environ(URL)
    assert (settings.namespaces, settings.scopes, settings.max_concurrent) == ((), (None,), 5)
    assert settings.cell_image.startswith("cellmesh-cell:")
    assert settings.build.discovery_url == "http://discovery.system:8001"


def test_namespaces_are_a_list_without_repetitions() -> None:
    """Expect each once, in order."""
    settings = Settings.from_environ({**URL, PREFIX + "NAMESPACES": "b, a,,b"})
    assert settings.scopes == ("b", "a")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DISCOVERY_URL", "discovery:8001"),
        ("DISCOVERY_URL", "ftp://discovery"),
        ("DISCOVERY_URL", "http://u:p@discovery"),
        ("MAX_CONCURRENT", "0"),
        ("WORKERS", "x"),
        ("RESYNC", "0.5"),
        ("RESYNC", "nan"),
        ("PORT", "70000"),
        ("IMAGE_PULL_POLICY", "Sometimes"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(name: str, value: str) -> None:
    """Expect an error that names the variable."""
    with pytest.raises(SettingsError, match=PREFIX + name):
        Settings.from_environ({**URL, PREFIX + name: value})


def test_discovery_has_to_be_given() -> None:
    """Expect the error to say what is lacking."""
    with pytest.raises(SettingsError, match="base URL of discovery"):
        Settings.from_environ({})


def test_misspelt_variables_are_reported_and_service_links_are_not() -> None:
    """Expect only the one that nobody else writes."""
    environ = {
        **URL,
        PREFIX + "NAMESPACE": "a",
        PREFIX + "PORT": "tcp://10.0.0.1:8080",
        PREFIX + "SERVICE_HOST": "10.0.0.1",
    }
    assert unknown(environ) == [PREFIX + "NAMESPACE"]
    assert Settings.from_environ(environ).port == 8080


def test_help_names_the_options() -> None:
    """Expect `--help` to answer without an API server."""
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert "--discovery-url" in result.output


def test_a_wrong_setting_ends_with_one_line_and_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect no stack trace."""
    monkeypatch.delenv(PREFIX + "DISCOVERY_URL", raising=False)
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 2
    assert result.output.startswith("reconciler: ")
    assert len(result.output.splitlines()) == 1
