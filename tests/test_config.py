"""Settings: defaults, file, environment and options in that order; every mistake is an error of one line."""

from __future__ import annotations

import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kekbridge.config import Settings, default_data_dir, dotted_names, find_config_file, load_settings
from kekbridge.errors import ConfigError
from kekbridge.model import Mode
from tests.paths import ROOT

EXAMPLE = ROOT / "config.example.toml"
DATA = ROOT / "tests" / "data"


def written(directory: Path, text: str) -> Path:
    file = directory / "config.toml"
    file.write_text(text, encoding="utf-8")
    return file


def setting(values: Any, name: str) -> Any:
    """The value of a dotted name in nested mappings or settings."""
    for part in name.split("."):
        values = values[part] if isinstance(values, dict) else getattr(values, part)
    return values


def complaint(file: Path | None = None, environment: dict[str, str] | None = None, **overrides: Any) -> str:
    """The error message of an invalid configuration."""
    with pytest.raises(ConfigError) as raised:
        load_settings(file, environment=environment or {}, overrides=overrides)
    assert raised.value.exit_code == 2
    assert "\n" not in raised.value.message
    return raised.value.message


# --------------------------------------------------------------------------------------------------------- example file


@pytest.mark.parametrize("name", dotted_names())
def test_example_names_every_setting_with_its_default(name: str) -> None:
    """config.example.toml documents every setting and equals the defaults: copying it changes nothing."""
    example = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"), parse_float=Decimal)
    loaded = load_settings(EXAMPLE, environment={})
    assert setting(example, name) is not None
    assert setting(loaded, name) == setting(Settings(), name)


def test_example_has_no_setting_that_does_not_exist() -> None:
    """Nothing in the example is obsolete: its keys are exactly the known ones."""
    example = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    found = {f"{name}.{inner}" for name, part in example.items() if isinstance(part, dict) for inner in part}
    found |= {name for name, part in example.items() if not isinstance(part, dict)}
    assert found == set(dotted_names())


def test_example_explains_every_section() -> None:
    """Each section opens with a comment, and so does the file."""
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    sections = [number for number, line in enumerate(lines) if line.startswith("[")]
    assert lines[0].startswith("# ")
    assert all(lines[number + 1].startswith("# ") for number in sections)


# -------------------------------------------------------------------------------------------------------- earlier versions


def test_a_settings_file_of_0_1_is_read() -> None:
    """Each of its settings is accepted and keeps its value; the file has all of them, none with its default."""
    file = DATA / "config-0.1.toml"
    old = tomllib.loads(file.read_text(encoding="utf-8"), parse_float=Decimal)
    sections = {name: part for name, part in old.items() if isinstance(part, dict)}
    names = ["mode"] + [f"{name}.{inner}" for name, part in sections.items() for inner in part if inner != "templates"]
    loaded = load_settings(file, environment={})
    assert len(names) == 84
    for name in [*names, "notify.templates"]:
        found, written_there = setting(loaded, name), setting(old, name)
        assert found == (tuple(written_there) if isinstance(written_there, list) else type(found)(written_there))
        assert found != setting(Settings(), name)


# ------------------------------------------------------------------------------------------------------------- layers


def test_defaults_are_paper_on_loopback() -> None:
    """The defaults are safe: paper mode, loopback, no trusted proxy."""
    settings = load_settings(environment={})
    assert settings.mode is Mode.PAPER
    assert settings.server.host == "127.0.0.1"
    assert not settings.server.behind_proxy


def test_each_layer_wins_over_the_one_before(tmp_path: Path) -> None:
    """Options win over the environment, the environment over the file, the file over the defaults."""
    file = written(tmp_path, "[server]\nport = 1001\nhost = '127.0.0.2'\nmax_connections = 50\n")
    environment = {"KEKBRIDGE_SERVER_PORT": "1002", "KEKBRIDGE_SERVER_HOST": "127.0.0.3", "PATH": "/bin"}
    settings = load_settings(file, environment=environment, overrides={"server.port": 1003, "server.host": None})
    assert settings.server.port == 1003
    assert settings.server.host == "127.0.0.3"
    assert settings.server.max_connections == 50
    assert settings.server.idle_timeout_s == Settings().server.idle_timeout_s


def test_environment_lists_numbers_and_booleans() -> None:
    """A variable is text: lists are split at commas, decimals stay exact, booleans are words."""
    settings = load_settings(
        environment={
            "KEKBRIDGE_SERVER_TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8",
            "KEKBRIDGE_RISK_MAX_NOTIONAL": "1234567.123456789012345678",
            "KEKBRIDGE_SERVER_BEHIND_PROXY": "true",
            "KEKBRIDGE_MODE": "testnet",
        }
    )
    assert settings.server.trusted_proxies == ("127.0.0.1", "10.0.0.0/8")
    assert settings.risk.max_notional == Decimal("1234567.123456789012345678")
    assert settings.server.behind_proxy
    assert settings.mode is Mode.TESTNET


def test_decimals_of_the_file_are_exact(tmp_path: Path) -> None:
    """Money never passes through a float, not even in a settings file."""
    file = written(tmp_path, "[risk]\nmax_notional = 0.1234567890123456789\n")
    assert load_settings(file, environment={}).risk.max_notional == Decimal("0.1234567890123456789")


def test_settings_cannot_be_changed_once_loaded() -> None:
    """Settings are frozen: the daemon cannot change a limit unnoticed."""
    settings = load_settings(environment={})
    with pytest.raises(ValidationError):
        settings.server.port = 1


def test_path_variables_are_not_settings() -> None:
    """KEKBRIDGE_CONFIG and KEKBRIDGE_DATA_DIR are read elsewhere and are not reported as unknown settings."""
    environment = {"KEKBRIDGE_CONFIG": "/nowhere.toml", "KEKBRIDGE_DATA_DIR": "/nowhere"}
    assert load_settings(environment=environment) == Settings()


# ------------------------------------------------------------------------------------------------------------ mistakes


def test_unknown_setting_names_the_nearest_one(tmp_path: Path) -> None:
    """A misspelt setting is an error with a suggestion, never ignored: a limit that is not read does not protect."""
    message = complaint(written(tmp_path, "[risk]\nmax_leverge = 3\n"))
    assert "risk.max_leverge" in message
    assert "did you mean risk.max_leverage?" in message


def test_unknown_section_points_to_the_list_of_settings(tmp_path: Path) -> None:
    """A name that resembles nothing points at the list of settings."""
    assert "kekbridge config show" in complaint(written(tmp_path, "[zzzzzzzzzzzz]\nq = 1\n"))


def test_unknown_variable_names_the_nearest_one() -> None:
    """The same rule applies to the environment."""
    message = complaint(environment={"KEKBRIDGE_SERVER_PROT": "1"})
    assert "KEKBRIDGE_SERVER_PROT" in message
    assert "did you mean KEKBRIDGE_SERVER_PORT?" in message


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("[server]\nport = 70000\n", "server.port", "found 70000, expected a whole number from 0 to 65535"),
        ("[server]\nport = 'abc'\n", "server.port", "found 'abc', expected a whole number from 0 to 65535"),
        ("mode = 'real'\n", "mode", "found 'real', expected 'paper', 'testnet' or 'live'"),
        ("[queue]\nmax_age_s = 0\n", "queue.max_age_s", "found 0, expected a whole number from 1 to 3600"),
        ("[risk]\nmax_drawdown = 1.5\n", "risk.max_drawdown", "found 1.5, expected a number from 0 to 1"),
        ("[risk]\nmax_notional = nan\n", "risk.max_notional", "found NaN, expected a number of at least 0"),
        ("[paper]\nbalance = 0\n", "paper.balance", "found 0, expected a number above 0"),
        ("[paper]\nprices = 'guess'\n", "paper.prices", "found 'guess', expected 'live' or 'static'"),
        ("[server]\nbehind_proxy = 'perhaps'\n", "server.behind_proxy", "found 'perhaps', expected true or false"),
        ("[server]\nhost = 5\n", "server.host", "found 5, expected a text in quotes"),
        ("[server]\nrespond_within_s = 3.5\n", "server.respond_within_s", "found 3.5, expected a number from 0 to 2.5"),
        ("[server]\nidle_timeout_s = 0\n", "server.idle_timeout_s", "expected a number above 0 and up to 86400"),
        ("[auth]\nallowed_addresses = [5]\n", "auth.allowed_addresses", "found 5, expected a text in quotes"),
        ("[auth]\nallowed_addresses = 5\n", "auth.allowed_addresses", 'found 5, expected a list such as ["a", "b"]'),
        ("[notify]\ntemplates = 5\n", "notify.templates", "found 5, expected a table of names and values"),
        ("server = 5\n", "server", "found 5, expected a section: write [server], and its settings below it"),
    ],
)
def test_wrong_value_names_setting_file_and_expectation(tmp_path: Path, text: str, name: str, words: str) -> None:
    """A wrong value is refused in one line of our own words: the setting, the file, what was found and what is expected."""
    file = written(tmp_path, text)
    message = complaint(file)
    assert message.startswith(f"setting {name} in {file}: ")
    assert message.endswith(words)


def test_a_wrong_value_that_looks_like_a_secret_is_not_quoted(tmp_path: Path) -> None:
    """A key that was pasted into the wrong place shows in no terminal and no journal of systemd."""
    message = complaint(written(tmp_path, "mode = 'whs_abcdefghijklmnopqrstuvwxyz0123456789'\n"))
    assert "abcdefghijkl" not in message
    assert "found 'whs_…'" in message


def test_wrong_value_from_the_environment_is_refused() -> None:
    """The environment is checked like the file."""
    assert "server.port" in complaint(environment={"KEKBRIDGE_SERVER_PORT": "-1"})


def test_broken_toml_names_line_and_column(tmp_path: Path) -> None:
    """A file that is not TOML is refused with the position of the mistake."""
    message = complaint(written(tmp_path, "[server\nport = 1\n"))
    assert "not valid TOML" in message
    assert "line 1" in message


def test_value_where_a_section_belongs_is_refused(tmp_path: Path) -> None:
    """`server = 8080` in the file and a variable for server.port cannot both be meant."""
    message = complaint(written(tmp_path, "server = 8080\n"), environment={"KEKBRIDGE_SERVER_HOST": "::1"})
    assert "write [server] and host" in message


def test_binary_file_is_refused(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are one line, not a traceback."""
    file = tmp_path / "config.toml"
    file.write_bytes(b"\xff\xfe\x00")
    assert "not valid TOML" in complaint(file)


# ----------------------------------------------------------------------------------------------------------- where it is


def test_data_directory_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """KEKBRIDGE_DATA_DIR names the data directory; without it the platform's directory is used."""
    monkeypatch.setenv("KEKBRIDGE_DATA_DIR", str(tmp_path / "data"))
    assert default_data_dir() == tmp_path / "data"
    monkeypatch.delenv("KEKBRIDGE_DATA_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    assert default_data_dir().name == "kekbridge"


def test_config_file_named_by_option_or_environment_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named file that does not exist is an error: the defaults would silently remove limits."""
    monkeypatch.delenv("KEKBRIDGE_CONFIG", raising=False)
    with pytest.raises(ConfigError):
        find_config_file(tmp_path / "missing.toml", tmp_path)
    monkeypatch.setenv("KEKBRIDGE_CONFIG", str(tmp_path / "missing.toml"))
    with pytest.raises(ConfigError):
        find_config_file(None, tmp_path)


def test_config_file_in_the_data_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a name, config.toml in the data directory is read if it is there; the option wins over it."""
    monkeypatch.delenv("KEKBRIDGE_CONFIG", raising=False)
    assert find_config_file(None, tmp_path) is None
    usual = written(tmp_path, "")
    assert find_config_file(None, tmp_path) == usual
    other = tmp_path / "other.toml"
    other.touch()
    assert find_config_file(other, tmp_path) == other


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (
            "notify.mute",
            "order_fillled",
            "setting notify.mute: 'order_fillled' is not an event; did you mean order_filled?",
        ),
        ("notify.templates", {"order_filled": "{sied}"}, "setting notify.templates: order_filled: {sied} is not known"),
        (
            "notify.levels",
            {"order_filled": "loud"},
            "setting notify.levels: order_filled: found 'loud', expected one of off",
        ),
        ("notify.levels", "order_filed=off", "setting notify.levels: 'order_filed' is not an event"),
        ("notify.quiet_hours", "22-7", "setting notify.quiet_hours: found '22-7', expected two times of day"),
        ("notify.zone", "Berlin", "setting notify.zone: found 'Berlin', expected a time zone such as Europe/Berlin"),
        ("backup.at", "25:00", "setting backup.at: found '25:00', expected a time of day in UTC"),
        ("notify.summary_at", "3:30", "setting notify.summary_at: found '3:30', expected a time of day"),
    ],
)
def test_templates_and_times_are_checked_on_load(name: str, value: object, expected: str) -> None:
    """A misspelt event or placeholder is found at the start, not when the message is due."""
    with pytest.raises(ConfigError) as caught:
        load_settings(environment={}, overrides={name: value})
    assert expected in str(caught.value)
