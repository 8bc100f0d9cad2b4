"""`kekbridge doctor`: every fault is found and has a fix; a sound installation has none; checking changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kekbridge.config import Settings, load_settings
from kekbridge.model.check import Check
from kekbridge.ops.doctor import examine, machine
from kekbridge.ops.expiry import not_after
from kekbridge.store.connections import FILE_NAME
from tests.cli.processes import Served, bare_environment, serving
from tests.paths import DATA
from tests.system.forked import run_cli
from tests.system.harness import call, wait_until

TLS = DATA / "tls"
NOW = datetime(2026, 11, 22, 18, tzinfo=UTC)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory with one webhook, created by the command line."""
    directory = tmp_path / "data"
    run_cli("webhook", "create", "w", data_dir=directory)
    return directory


@pytest.fixture
def checks(data_dir: Path) -> Callable[..., dict[str, Check]]:
    """Runs the checks with these settings; returns them by name."""

    def by_name(**overrides: object) -> dict[str, Check]:
        settings = load_settings(environment={}, overrides={"vault.backend": "key_file", **overrides})
        return {check.name: check for check in examine(settings, data_dir, clock=lambda: datetime.now(UTC))}

    return by_name


def test_a_good_paper_installation_has_nothing_broken(checks: Callable[..., dict[str, Check]]) -> None:
    """Only the daemon, which does not run, is not ok."""
    found = checks()
    assert {name for name, check in found.items() if check.level != "ok"} == {"daemon"}


def test_every_fault_has_a_fix(checks: Callable[..., dict[str, Check]], data_dir: Path) -> None:
    """Each line that is not ok has a fix."""
    careless = ("--no-require-signature", "--no-require-timestamp", "--key-in-path")
    run_cli("webhook", "create", "open", *careless, data_dir=data_dir)
    run_cli("halt", "--reason", "storm", data_dir=data_dir)
    data_dir.chmod(0o755)
    unlimited = dict.fromkeys(("risk.rate_per_minute", "risk.rate_per_hour", "risk.rate_per_day"), 0)
    found = checks(**{"server.behind_proxy": True, "server.public_url": "https://x.test:8443"}, **unlimited)
    faulty = {name for name, check in found.items() if check.level != "ok"}
    assert faulty >= {
        "data",
        "signatures",
        "timestamps",
        "keys in URLs",
        "rates",
        "trading",
        "proxy",
        "public url",
        "daemon",
    }
    assert all(found[name].fix for name in faulty)
    assert "open" in found["signatures"].text
    assert "storm" in found["trading"].text
    assert "8443" in found["public url"].text


def test_live_mode_without_key_is_broken(checks: Callable[..., dict[str, Check]]) -> None:
    """What would stop `serve` from starting is broken here, with its fix; the paper vault does not count."""
    found = checks(**{"mode": "live", "vault.backend": "auto", "exchange.account_id": "0x" + "1" * 64})
    assert found["vault"].level == "broken"
    assert found["exchange"].level == "warning"
    assert found["limits"].level == "warning"
    assert checks(mode="live")["exchange"].level == "broken"


def test_a_missing_master_key_is_broken_and_none_is_created(
    checks: Callable[..., dict[str, Check]], data_dir: Path
) -> None:
    """Without its key no stored webhook can be opened; a check must not hide that by creating another."""
    shutil.rmtree(data_dir / "vault")
    assert checks()["vault"].level == "broken"
    assert not (data_dir / "vault" / "master-key").exists()


def test_a_damaged_database_is_broken(checks: Callable[..., dict[str, Check]], data_dir: Path) -> None:
    """Overwritten pages are found before the daemon reads them."""
    path = data_dir / FILE_NAME
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(size // 4))
    assert checks()["database"].level == "broken"


def test_a_wrong_setting_is_one_broken_line(tmp_path: Path) -> None:
    """Unreadable settings are reported like every other fault, also as JSON."""
    file = tmp_path / "c.toml"
    file.write_text('mode = "papr"\n')
    printed = run_cli("doctor", "--config", str(file), "--json", data_dir=tmp_path, check=False)
    report = json.loads(printed)
    assert report["ok"] is False
    assert [check["level"] for check in report["checks"]] == ["broken"]


def test_certificate_expiry_is_read_from_the_file() -> None:
    """The expiry is the one that openssl prints for this file; garbage is an error, not a date."""
    pem = (TLS / "first.pem").read_text()
    assert not_after(pem) == datetime(2126, 10, 29, 16, 48, 42, tzinfo=UTC)
    for broken in ("", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"):
        with pytest.raises(ValueError, match="certificate"):
            not_after(broken)


@pytest.mark.parametrize(("left", "level"), [(-1, "broken"), (3, "warning"), (60, "ok")])
def test_certificates_warn_before_they_expire(left: int, level: str) -> None:
    """A warning two weeks ahead, broken after expiry."""
    assert machine.expiry_check("certificate", "x", NOW + timedelta(days=left), NOW).level == level


def test_an_allowlist_behind_an_unnamed_proxy_is_broken() -> None:
    """Every sender would have the proxy's address and be refused."""
    settings = load_settings(
        environment={}, overrides={"server.behind_proxy": True, "auth.allowed_addresses": "tradingview"}
    )
    (check,) = machine.proxy(settings)
    assert check.level == "broken"
    assert machine.proxy(Settings()) == []


@pytest.mark.parametrize(
    ("overrides", "levels"),
    [
        ({"server.public_url": "https://bridge.example"}, ["warning"]),
        ({"server.public_url": "http://127.0.0.1:8080"}, []),
        ({"server.public_url": "https://bridge.example", "server.host": "192.0.2.1"}, []),
        (
            {
                "server.public_url": "https://bridge.example",
                "server.behind_proxy": True,
                "server.trusted_proxies": "127.0.0.1",
            },
            [],
        ),
    ],
)
def test_a_tunnel_that_is_not_named_is_a_warning(overrides: dict[str, object], levels: list[str]) -> None:
    """All senders would share its address, and with it the lockout and the budget of refusals."""
    settings = load_settings(environment={}, overrides=overrides)
    assert [check.level for check in machine.proxy(settings)] == levels


@contextmanager
def serving_at(data_dir: Path, public_url: str) -> Iterator[Served]:
    """A running paper bridge on a free port; `{port}` in its public address is that port, `{paper}` that of its paper exchange."""
    environment, (port, paper) = bare_environment(data_dir), free_ports(2)
    environment |= {
        "KEKBRIDGE_SERVER_PORT": str(port),
        "KEKBRIDGE_PAPER_PORT": str(paper),
        "KEKBRIDGE_SERVER_PUBLIC_URL": public_url.format(port=port, paper=paper),
    }
    with serving(environment) as bridge:
        yield bridge


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def test_a_running_bridge_is_checked_through_its_public_url(tmp_path: Path) -> None:
    """The daemon is found on its port, and a message through the public URL reaches it."""
    with serving_at(tmp_path / "served", "http://127.0.0.1:{port}") as served:
        url = json.loads(served.printed[0])["url"]
        wait_until(lambda: call(url + "/readyz")["streamLive"])
        # TradingView posts to ports 80 and 443 only; loopback addresses may have any port.
        found = {check["name"]: check for check in served.data("doctor")["checks"]}
        assert found["daemon"]["level"] == found["stream"]["level"] == found["loop"]["level"] == "ok"
        assert found["dns"]["level"] == "warning"  # TradingView cannot reach 127.0.0.1
        assert found["public url"]["level"] == "warning"  # plain HTTP
        # The message was received; rejected requests are stored in groups, a moment later.
        wait_until(lambda: "api_key_missing" in served.run("logs", "--json").stdout)


@pytest.mark.parametrize("public_url", ["http://127.0.0.1:{paper}", "http://127.0.0.1:1"])
def test_a_url_that_leads_elsewhere_is_broken(tmp_path: Path, public_url: str) -> None:
    """A response from another server, or none, is broken."""
    with serving_at(tmp_path / "served", public_url) as served:
        done = served.run("doctor", "--json")
        found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
        assert found["loop"]["level"] == "broken"
        assert done.returncode == 1


def test_a_domain_is_a_public_address(checks: Callable[..., dict[str, Check]]) -> None:
    """With tls.domain, which needs no server.public_url, the way to that name is checked."""
    found = checks(**{"tls.domain": "bridge.invalid"})["dns"]
    assert found.level == "broken"
    assert found.text.startswith("bridge.invalid has no address")


def test_settings_changed_since_the_start_are_pointed_at(tmp_path: Path) -> None:
    """A running bridge uses the settings of its start: a newer file is a warning, one that cannot be read is broken."""
    data_dir = tmp_path / "served"
    with serving(bare_environment(data_dir)) as served:
        assert served.data("doctor")["checks"][0]["text"] == "those of the running bridge, mode paper"
        (data_dir / "config.toml").write_text("[queue]\nconcurrency = 3\n")
        changed = served.data("doctor")["checks"][0]
        assert (changed["level"], "restart the bridge" in changed["fix"]) == ("warning", True)
        (data_dir / "config.toml").write_text("[queu]\n")
        checks = json.loads(served.run("doctor", "--json").stdout)["checks"]
        assert (checks[0]["name"], checks[0]["level"]) == ("settings", "broken")
        assert "daemon" in {check["name"] for check in checks}
