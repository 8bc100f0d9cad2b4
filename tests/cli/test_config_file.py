"""Settings are written into a file that keeps its comments, and never a file that could not be read again."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.cli.config_file import new_text, save, with_settings
from kekbridge.config import Settings, load_settings
from kekbridge.documents import example_text
from kekbridge.errors import ConfigError
from tests.paths import ROOT


def test_a_new_file_is_the_example_with_its_defaults_commented_out() -> None:
    """It changes nothing, explains everything, and uncommenting any line gives the example's setting."""
    assert example_text() == (ROOT / "config.example.toml").read_text(encoding="utf-8")
    example, new = example_text().splitlines(), new_text().splitlines()
    assert not any(value for section in tomllib.loads(new_text()).values() for value in section.values())
    assert [line for line in new if line.startswith("[")] == [line for line in example if line.startswith("[")]
    assert [line.removeprefix("# ") for line in new] == [line.removeprefix("# ") for line in example]


def test_settings_replace_their_own_lines_only(tmp_path: Path) -> None:
    """Commented or not, in any section, at any time: comments and other settings stay; the file is private."""
    path = tmp_path / "new" / "config.toml"
    save(
        path, {"tls.domain": "", "mode": "testnet", "server.port": 9100, "server.trusted_proxies": ["127.0.0.1", "::1"]}
    )
    first = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    settings = load_settings(path, environment={})
    assert (settings.mode.value, settings.server.port, settings.server.trusted_proxies) == (
        "testnet",
        9100,
        ("127.0.0.1", "::1"),
    )
    changed = [line for line in first.splitlines() if line not in new_text().splitlines()]
    assert changed == ['mode = "testnet"', "port = 9100", 'trusted_proxies = ["127.0.0.1", "::1"]']
    assert len(first.splitlines()) == len(new_text().splitlines())
    save(path, {"server.port": 9101, "admin.port": 9002})
    assert path.read_text() == first.replace("port = 9100", "port = 9101").replace("# port = 8081", "port = 9002")


def test_a_file_of_ones_own_keeps_its_form(tmp_path: Path) -> None:
    """Lists over several lines are replaced as a whole; a missing setting or section is added where it belongs."""
    path = tmp_path / "config.toml"
    path.write_text(
        '# mine\n[server]\ntrusted_proxies = [\n  "10.0.0.1",  # old\n]\nport = 1  # one\n\n[risk]\nmax_leverage = 3\n'
    )
    path.chmod(0o640)
    changes = {"server.trusted_proxies": ["::1"], "mode": "live", "server.public_url": "https://x", "tls.domain": 'a"b'}
    save(path, {key: value for key, value in changes.items() if key != "tls.domain"})
    assert path.read_text() == (
        '# mine\nmode = "live"\n[server]\ntrusted_proxies = ["::1"]\nport = 1  # one\npublic_url = "https://x"\n\n'
        "[risk]\nmax_leverage = 3\n"
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert with_settings("", {"tls.domain": 'a"b'}) == '\n[tls]\ndomain = "a\\"b"\n'


@given(st.text(st.characters(exclude_categories=["Cs"])), st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_every_value_is_read_back(text: str, items: list[str]) -> None:
    """Quotes, controls and other letters survive."""
    if "\x7f" in text or any("\x7f" in item for item in items):
        return  # TOML has no place for it unescaped, and no setting needs it
    found = tomllib.loads(with_settings("[notify]\nmute = []\n", {"notify.least": text, "notify.mute": items}))
    assert found["notify"] == {"least": text, "mute": items}


@pytest.mark.parametrize("before", ["[risk]\nmax_leverage = 3\n", "[riks]\n", "= 3"])
def test_a_wrong_setting_leaves_the_file_as_it_was(tmp_path: Path, before: str) -> None:
    """The file is read as `serve` would before it is replaced; the error names the file, nothing else is left."""
    path = tmp_path / "config.toml"
    path.write_text(before)
    with pytest.raises(ConfigError) as raised:
        save(path, {"server.port": 123_456})
    assert str(path) in raised.value.message or "server.port" in raised.value.message
    assert ".new" not in raised.value.message
    assert (path.read_text(), list(tmp_path.iterdir())) == (before, [path])
    assert Settings().server.port == 8080
