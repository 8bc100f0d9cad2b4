"""Unusable settings are found before anything is created, by `serve` and by `config check` alike."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from kekbridge.config import load_settings
from kekbridge.daemon.preflight import check_settings, settings_changed_since_0_1
from kekbridge.errors import ConfigError
from tests.cli.processes import DEADLINE_S, KEKBRIDGE, bare_environment
from tests.paths import ROOT

DATA = ROOT / "tests" / "data"
WRONG = {
    "public without TLS": ({"server.host": "0.0.0.0"}, "tls.cert"),  # noqa: S104 - refused
    "half a certificate": ({"tls.cert": "/nowhere/cert.pem"}, "tls.key is not set"),
    "no such certificate": ({"tls.cert": "/nowhere/c.pem", "tls.key": "/nowhere/k.pem"}, "cannot be read"),
    "a wildcard": ({"tls.domain": "*.example.com"}, "expected a name"),
    "a domain and files": ({"tls.domain": "a.example.com", "tls.cert": "c.pem", "tls.key": "k.pem"}, "not both"),
    "a proxy that is no address": ({"server.trusted_proxies": "caddy"}, "server.trusted_proxies"),
    "an unknown list": ({"auth.allowed_addresses": "tradingvew"}, "auth.allowed_addresses"),
    "no fingerprint": ({"auth.client_certificates": "ab:cd"}, "client_certificates"),
    "an unencrypted exchange": ({"mode": "live", "exchange.base_url": "http://api.example"}, "exchange.base_url"),
    "no header": (
        {"auth.client_certificates": "0" * 64, "auth.client_certificate_header": ""},
        "client_certificate_header",
    ),
    "a public admin listener": ({"admin.host": "192.0.2.1"}, "SSH tunnel"),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_mistake_is_one_line_with_its_setting(name: str) -> None:
    """It has what was found, what was expected and the fix, without opening a vault, a store or a port."""
    overrides, expected = WRONG[name]
    with pytest.raises(ConfigError, match=expected.replace(".", r"\.")) as caught:
        check_settings(load_settings(environment={}, overrides=overrides))
    assert "\n" not in caught.value.message


def test_the_defaults_pass_and_an_unused_admin_host_is_not_checked() -> None:
    """Settings of what is disabled are not checked."""
    check_settings(load_settings(environment={}))
    check_settings(load_settings(environment={}, overrides={"admin.enabled": False, "admin.host": "192.0.2.1"}))
    check_settings(load_settings(environment={}, overrides={"admin.in_container": True, "admin.host": "192.0.2.1"}))


def test_a_setting_of_0_1_with_a_narrower_meaning_is_named() -> None:
    """Pinned client certificates are looked for in one header, where version 0.1 had two: a line until the header is set."""
    pinned = {"auth.client_certificates": "0" * 64}
    (line,) = settings_changed_since_0_1(load_settings(environment={}, overrides=pinned))
    assert "auth.client_certificate_header" in line
    chosen = pinned | {"auth.client_certificate_header": "X-Client-Certificate-SHA256"}
    assert settings_changed_since_0_1(load_settings(environment={}, overrides=chosen)) == []
    assert settings_changed_since_0_1(load_settings(DATA / "config-0.1.toml", environment={})) == [line]
    assert settings_changed_since_0_1(load_settings(environment={})) == []


@pytest.mark.parametrize("command", [("serve",), ("config", "check")])
def test_an_unusable_setting_is_exit_code_2_and_one_line(tmp_path: Path, command: tuple[str, ...]) -> None:
    """A public address without TLS: one line with three fixes, and neither a data directory nor a log line is written."""
    environment = bare_environment(tmp_path / "data") | {"KEKBRIDGE_SERVER_HOST": "0.0.0.0"}  # noqa: S104 - refused
    done = subprocess.run(
        [*KEKBRIDGE, *command], env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    for fix in ("tls.cert", "--domain", "behind_proxy", "127.0.0.1"):
        assert fix in done.stderr
    assert os.listdir(tmp_path) == []
