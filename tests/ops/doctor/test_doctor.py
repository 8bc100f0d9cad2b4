"""`kekbridge doctor`: each fault is found, named and given a fix; a good installation has none; nothing is changed by looking."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kekbridge.config import Settings, load_settings
from kekbridge.model.check import Check
from kekbridge.ops.doctor import examine, machine
from kekbridge.ops.expiry import not_after
from kekbridge.store.connections import FILE_NAME
from tests.cli.processes import Served, bare_environment, starting
from tests.paths import DATA
from tests.system.harness import call, run_cli, wait_until

TLS = DATA / "tls"
NOW = datetime(2026, 11, 22, 18, tzinfo=UTC)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory with one webhook, made by the command line."""
    directory = tmp_path / "data"
    run_cli("webhook", "create", "w", data_dir=directory)
    return directory


@pytest.fixture
def look(data_dir: Path) -> Callable[..., dict[str, Check]]:
    """Examine with these settings; the checks by name."""

    def by_name(**overrides: object) -> dict[str, Check]:
        settings = load_settings(environment={}, overrides={"vault.backend": "key_file", **overrides})
        return {check.name: check for check in examine(settings, data_dir, clock=lambda: datetime.now(UTC))}

    return by_name


def test_a_good_paper_installation_has_nothing_broken(look: Callable[..., dict[str, Check]]) -> None:
    """Only the daemon that does not run is told of."""
    found = look()
    assert {name for name, check in found.items() if check.level != "ok"} == {"daemon"}


def test_every_trouble_has_a_fix(look: Callable[..., dict[str, Check]], data_dir: Path) -> None:
    """A line that is not ok says what to do."""
    run_cli("webhook", "create", "open", "--no-require-signature", "--no-require-timestamp", data_dir=data_dir)
    run_cli("halt", "--reason", "storm", data_dir=data_dir)
    data_dir.chmod(0o755)
    unlimited = dict.fromkeys(("risk.rate_per_minute", "risk.rate_per_hour", "risk.rate_per_day"), 0)
    found = look(**{"server.behind_proxy": True, "server.public_url": "https://x.test:8443"}, **unlimited)
    troubled = {name for name, check in found.items() if check.level != "ok"}
    assert troubled >= {"data", "signatures", "timestamps", "rates", "trading", "proxy", "public url", "daemon"}
    assert all(found[name].fix for name in troubled)
    assert "open" in found["signatures"].text
    assert "storm" in found["trading"].text
    assert "8443" in found["public url"].text


def test_live_without_key_is_broken_and_paper_secrets_do_not_count(look: Callable[..., dict[str, Check]]) -> None:
    """What would make `serve` refuse to start is broken here, with the way out."""
    found = look(**{"mode": "live", "vault.backend": "auto", "exchange.account_id": "0x" + "1" * 64})
    assert found["vault"].level == "broken"
    assert found["exchange"].level == "warning"
    assert found["limits"].level == "warning"
    assert look(mode="live")["exchange"].level == "broken"


def test_a_missing_master_key_is_broken_and_none_is_made(look: Callable[..., dict[str, Check]], data_dir: Path) -> None:
    """Without its key no stored webhook opens again; looking must not hide that by making another."""
    shutil.rmtree(data_dir / "vault")
    assert look()["vault"].level == "broken"
    assert not (data_dir / "vault" / "master-key").exists()


def test_a_damaged_database_is_broken(look: Callable[..., dict[str, Check]], data_dir: Path) -> None:
    """Overwritten pages are noticed before the daemon stumbles over them."""
    path = data_dir / FILE_NAME
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(size // 4))
    assert look()["database"].level == "broken"


def test_a_wrong_setting_is_one_broken_line(tmp_path: Path) -> None:
    """Settings that cannot be read are told as every other fault, with exit code 1 and JSON for scripts."""
    file = tmp_path / "c.toml"
    file.write_text('mode = "papr"\n')
    printed = run_cli("doctor", "--config", str(file), "--json", data_dir=tmp_path, check=False)
    told = json.loads(printed)
    assert told["ok"] is False
    assert [check["level"] for check in told["checks"]] == ["broken"]


def test_certificates_end_is_read_from_the_file() -> None:
    """The end of validity is the one that openssl prints for this file; garbage is an error, not a date."""
    pem = (TLS / "first.pem").read_text()
    assert not_after(pem) == datetime(2126, 10, 29, 16, 48, 42, tzinfo=UTC)
    for broken in ("", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"):
        with pytest.raises(ValueError, match="certificate"):
            not_after(broken)


@pytest.mark.parametrize(("left", "level"), [(-1, "broken"), (3, "warning"), (60, "ok")])
def test_certificates_are_told_of_before_they_expire(left: int, level: str) -> None:
    """Two weeks ahead a warning, after the end broken."""
    assert machine.expiry_check("certificate", "x", NOW + timedelta(days=left), NOW).level == level


def test_an_allowlist_behind_an_unnamed_proxy_is_broken() -> None:
    """Everybody would appear with the proxy's address, so nobody could pass."""
    settings = load_settings(
        environment={}, overrides={"server.behind_proxy": True, "auth.allowed_addresses": "tradingview"}
    )
    (check,) = machine.proxy(settings)
    assert check.level == "broken"
    assert machine.proxy(Settings()) == []


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A running paper bridge."""
    with starting(bare_environment(tmp_path / "served")) as start:
        yield start("serve", "--json")


def test_a_running_bridge_is_asked_and_a_message_loops_through(served: Served) -> None:
    """Beside a daemon on a port of its own choice doctor finds it, and walks through the public URL back to it."""
    url = json.loads(served.line(lambda text: True))["url"]
    wait_until(lambda: call(url + "/readyz")["streamLive"])
    served.environment["KEKBRIDGE_SERVER_PUBLIC_URL"] = url
    # TradingView knows ports 80 and 443 only; on this machine itself another is taken as it is.
    found = {check["name"]: check for check in served.data("doctor")["checks"]}
    assert found["daemon"]["level"] == found["stream"]["level"] == found["loop"]["level"] == "ok"
    assert found["dns"]["level"] == "warning"  # 127.0.0.1 is nothing that TradingView reaches
    assert found["public url"]["level"] == "warning"  # plain HTTP
    # The message truly came in; refused requests are written in groups, a moment later.
    wait_until(lambda: "api_key_missing" in served.run("logs", "--json").stdout)


def test_a_url_that_leads_elsewhere_is_broken(served: Served) -> None:
    """An answer that is not ours, or none, ends the walk."""
    paper = json.loads(served.line(lambda text: True))["paperUrl"]
    for url in (paper, "http://127.0.0.1:1"):
        served.environment["KEKBRIDGE_SERVER_PUBLIC_URL"] = url
        done = served.run("doctor", "--json")
        found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
        assert found["loop"]["level"] == "broken"
        assert done.returncode == 1
