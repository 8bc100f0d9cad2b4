"""`kekbridge webhook`: credentials printed only on request, limits stored exactly as typed, keys rotated with a grace period."""

from __future__ import annotations

import io
import json
import re
import stat
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kekbridge.config import Vault, load_settings
from kekbridge.errors import ConfigError
from kekbridge.model import LimitBreach, Limits, Mode, RateLimits, WebhookSettings
from kekbridge.model.webhooks import WEBHOOK_PATH
from kekbridge.risk.drawdown import next_midnight
from kekbridge.store import settings
from kekbridge.store import webhooks as stored
from kekbridge.store.database import Database
from kekbridge.vault import Sealer, master_key, open_vault
from kekbridge.webhooks import registry
from kekbridge.webhooks.options import ROWS, apply, text_of
from tests.cli.processes import bare_environment, starting
from tests.fresh_database import put_database
from tests.system.harness import call, wait_until

ULID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")


@pytest.fixture(autouse=True)
def new_database(data_dir: Path) -> None:
    """As if another command had run before."""
    put_database(data_dir)


def stored_settings(data_dir: Path, name: str) -> WebhookSettings:
    """Read the settings as the daemon does."""
    with Database.open(data_dir, create=False).snapshot() as connection:
        return stored.find(connection, name).settings


def test_create_prints_everything_a_sender_needs(run: Any, data_dir: Path) -> None:
    """`create --json` is one object with id, name, URL and both credentials; keys of paper mode have their own prefix."""
    result = run("webhook", "create", "first", "--json")
    assert result.code == 0
    created = result.data
    assert ULID.fullmatch(created["id"])
    assert created["name"] == "first"
    assert created["enabled"] is True
    assert created["webhookUrl"] == "http://127.0.0.1:8080/api/webhooks/tradingview"
    assert re.fullmatch(r"wh_test_[A-Za-z0-9]{20,}", created["apiKey"])
    assert re.fullmatch(r"whs_[A-Za-z0-9]{20,}", created["apiSecret"])
    assert created["settings"]["requireSignature"] is True
    assert result.err == ""


def test_every_command_about_a_webhook_says_what_it_accepts_now(run: Any, data_dir: Path) -> None:
    """Closed by a limit or by hand it is not called enabled, and the fix is named; also in JSON."""
    run("webhook", "create", "btc")
    now = datetime.now(UTC)
    tomorrow = next_midnight(now)
    breach = LimitBreach(
        scope="webhook", rule="daily_limit", reason="daily limit of 100.00 USDC used up", until=tomorrow
    )
    with Database.open(data_dir).transaction() as connection:
        settings.close_for_breach(connection, breach, webhook_id=stored.find(connection, "btc").id, now=now)
    until = f"exits only until {tomorrow.astimezone():%H:%M} (daily limit)"
    for arguments in (
        ("show", "btc"),
        ("show", "btc", "--secret"),
        ("edit", "btc", "--max-order-size", "1"),
        ("rotate", "btc"),
        ("enable", "btc"),
    ):
        shown = run("webhook", *arguments)
        assert until in shown.out, arguments
        assert "raise --daily-limit (`kekbridge webhook edit btc`)" in " ".join((shown.out + shown.err).split())
        data = run("webhook", *arguments, "--json").data
        assert (data["trading"]["state"], data["trading"]["scope"]) == ("exits_only", data["id"])
    run("halt", "--reason", "storm")
    assert "halted (storm)" in run("webhook", "show", "btc", "--secret").out
    assert run("webhook", "disable", "btc").out == "webhook btc: disabled\n"


def test_times_of_keys_are_in_the_zone_that_the_heading_names(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's zone, or UTC with --utc."""
    created = run("webhook", "create", "btc", "--json").data
    at = datetime.fromisoformat(created["createdAt"])
    local = at.astimezone()
    assert f"CREATED ({local:%Z})" in run("webhook", "show", "btc").out
    assert f"{local:%Y-%m-%d %H:%M:%S}" in run("webhook", "show", "btc").out
    shown = run("webhook", "show", "btc", "--utc").out
    assert "CREATED (UTC)" in shown
    assert f"{at:%Y-%m-%d %H:%M:%S}" in shown


def test_credentials_are_stored_sealed_and_found_by_the_daemon(run: Any, data_dir: Path) -> None:
    """The daemon finds the key by its keyed hash and opens the secret; no file contains either in plain text."""
    created = run("webhook", "create", "first", "--json").data
    settings = load_settings()
    sealer = Sealer(master_key(open_vault(settings.vault, data_dir, Mode.PAPER)))
    with Database.open(data_dir).snapshot() as connection:
        found = stored.find_by_lookup(connection, sealer.lookup(created["apiKey"]), datetime.now(UTC))
    assert found is not None
    assert found[0].id == created["id"]
    assert sealer.open(found[1].sealed_secret).decode() == created["apiSecret"]
    for file in data_dir.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert created["apiSecret"].encode() not in content
            assert created["apiKey"].encode() not in content


def test_data_is_for_its_owner_only(run: Any, data_dir: Path) -> None:
    """The first command that writes creates directory and database with private permissions, whatever the umask."""
    run("webhook", "create", "first")
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((data_dir / "kekbridge.db").stat().st_mode) == 0o600


def test_every_option_is_stored_exactly(run: Any, data_dir: Path) -> None:
    """Every option sets its setting to exactly what was typed, and no other."""
    result = run(
        *("webhook", "create", "all", "--json", "--allowed-symbols", "BTC,eth,PERP_1000PEPE_USDC,EURUSD"),
        *(
            "--min-order-size",
            "0.002",
            "--max-order-size",
            "1.5",
            "--max-position-size",
            "3",
            "--max-notional",
            "50000.25",
        ),
        *("--daily-limit", "10000", "--daily-orders", "40", "--max-leverage", "5", "--leverage-policy", "lower"),
        *("--max-open-positions", "3", "--require-stop-loss", "--max-stop-distance", "5%", "--max-slippage", "0.5%"),
        *(
            "--max-daily-loss",
            "500",
            "--max-drawdown",
            "20%",
            "--cooldown",
            "5m",
            "--trading-hours",
            "Mon-Fri 07:00-22:00 UTC",
        ),
        *("--rate-per-minute", "20", "--rate-per-hour", "200", "--rate-per-day", "2000", "--follow", "position"),
        *("--rescale-units", "--max-timestamp-age", "30s", "--no-require-signature", "--no-require-timestamp"),
        *("--default", "quantity=0.01", "--default", "orderType=market", "--lock", "symbol=BTCUSDT.P"),
        *("--alias", "GOLD=XAU", "--allow-address", "tradingview", "--allow-address", "10.0.0.0/8"),
        *("--expect-alert-every", "25h", "--alert-expires", "2099-01-31"),
    )
    assert result.code == 0, result.err
    assert stored_settings(data_dir, "all") == WebhookSettings(
        limits=Limits(
            allowed_symbols=("PERP_BTC_USDC", "PERP_ETH_USDC", "PERP_1000PEPE_USDC", "PERP_EURUSD_USDC"),
            min_order_size=Decimal("0.002"),
            max_order_size=Decimal("1.5"),
            max_position_size=Decimal(3),
            max_notional=Decimal("50000.25"),
            daily_limit=Decimal(10_000),
            daily_orders=40,
            max_leverage=Decimal(5),
            leverage_policy="lower",
            max_open_positions=3,
            require_stop_loss=True,
            max_stop_distance=Decimal("0.05"),
            max_slippage=Decimal("0.005"),
            max_daily_loss=Decimal(500),
            max_drawdown=Decimal("0.2"),
            cooldown_s=300,
            trading_hours="Mon-Fri 07:00-22:00 UTC",
        ),
        rates=RateLimits(per_minute=20, per_hour=200, per_day=2000),
        require_signature=False,
        require_timestamp=False,
        max_timestamp_age_s=30,
        follow="position",
        rescale_units=True,
        defaults={"quantity": "0.01", "orderType": "market"},
        locked={"symbol": "BTCUSDT.P"},
        aliases={"GOLD": "PERP_XAU_USDC"},
        allowed_addresses=("tradingview", "10.0.0.0/8"),
        expect_alert_every_s=90_000,
        alert_expires_at=datetime(2099, 1, 31, tzinfo=UTC),
    )
    shown = [line.split() for line in run("webhook", "show", "all").out.splitlines()]
    for typed in (
        ["cooldown", "5m"],
        ["max-timestamp-age", "30s"],
        ["expect-alert-every", "25h"],
        ["max-drawdown", "20%"],
    ):
        assert typed in shown
    limits = result.data["settings"]["limits"]
    assert limits["maxNotional"] == "50000.25"
    assert limits["allowedSymbols"][0] == "PERP_BTC_USDC"


def test_without_options_the_settings_are_the_defaults(run: Any, data_dir: Path) -> None:
    """Settings without an option have the model's defaults: signature required, safe limits."""
    run("webhook", "create", "plain")
    assert stored_settings(data_dir, "plain") == WebhookSettings()


@pytest.mark.parametrize("row", ROWS, ids=[row.option for row in ROWS])
def test_every_option_of_the_table_has_its_setting(row: Any) -> None:
    """Every row of the table names an existing field."""
    settings = WebhookSettings()
    assert hasattr(getattr(settings, row.part) if row.part else settings, row.field)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--max-order-size", "1k"), "--max-order-size: found '1k', expected a positive decimal number"),
        (("--max-order-size", "0"), "--max-order-size"),
        (("--allowed-symbols", "BTCUSDT"), "write the base (BTC)"),
        (("--allowed-symbols", "BTCUSD"), "write the base (BTC)"),
        (("--allowed-symbols", "BTC-PERP"), "write the base (BTC)"),
        (("--max-leverage", "101"), "a number from 1 to 100"),
        (("--leverage-policy", "raise"), "refuse or lower"),
        (("--follow", "me"), "signal or position"),
        (("--max-slippage", "5"), "a number without %; write 5%"),
        (("--max-slippage", "0.5"), "write 0.5% or 50%"),
        (("--max-drawdown", "0.2"), "write 0.2% or 20%"),
        (("--max-daily-loss", "5%"), "a positive amount in USDC such as 500"),
        (("--daily-limit", "0"), "write none for no limit"),
        (("--default", "quantity=0,01"), "--default quantity=0,01: found '0,01'"),
        (("--default", "stopLoss=2"), "write stopLoss=2% for a distance"),
        (("--trading-hours", "Mon-Fri 9-17"), "found 'Mon-Fri 9-17'"),
        (("--cooldown", "soon"), "a duration"),
        (("--allow-address", "example.com"), "--allow-address"),
        (("--default", "quantity"), "name=value"),
        (("--lock", "quantty=1"), "did you mean quantity?"),
        (("--lock", "apiKey=1"), "is not a field of an order"),
        (("--default", "quantity=1", "--lock", "quantity=2"), "keep one of the two"),
        (("--min-order-size", "2", "--max-order-size", "1"), "--min-order-size 2 is larger than --max-order-size 1"),
        (("--rate-per-minute", "700"), "--rate-per-minute 700 is larger than --rate-per-hour 600"),
        (("--rate-per-minute", "none"), "--rate-per-minute: found 'none'"),
        (("--trading-hours", "always"), "trading hours"),
        (("--profile", "nobody"), "--profile"),
        (("--alert-expires", "2020-01-01"), "--alert-expires: found '2020-01-01', expected a duration from now"),
    ],
)
def test_a_wrong_limit_is_refused_in_one_line(
    run: Any, data_dir: Path, arguments: tuple[str, ...], expected: str
) -> None:
    """An invalid value is refused with its option's name and exit code 2; nothing is created."""
    result = run("webhook", "create", "bad", *arguments)
    assert result.code == 2
    assert expected in result.err
    assert result.err.count("\n") == 1
    assert run("webhook", "list", "--json").code in (0, 3)
    if data_dir.exists():
        assert run("webhook", "list", "--json").data == []


@pytest.mark.parametrize("name", ["", "a b", "ü", "a" * 65, "a/b", "a\n"])
def test_invalid_names_are_refused(run: Any, name: str) -> None:
    """A name has 1 to 64 plain characters, since it is used in logs, options and JSON."""
    result = run("webhook", "create", name)
    assert result.code == 2
    assert "1 to 64 letters" in result.err


def test_names_are_unique(run: Any) -> None:
    """A second webhook of the same name is refused; the first one keeps its key."""
    first = run("webhook", "create", "same", "--json").data
    again = run("webhook", "create", "same", "--json")
    assert again.code == 2
    assert again.err.count("\n") == 1
    assert "same" in again.err
    assert run("webhook", "show", "same", "--secret", "--json").data["apiKey"] == first["apiKey"]


def test_show_prints_the_secret_only_on_request(run: Any) -> None:
    """Credentials are shown again only with --secret."""
    created = run("webhook", "create", "one", "--json").data
    without_secret = run("webhook", "show", "one", "--json")
    assert "apiSecret" not in without_secret.data
    assert (
        created["apiSecret"]
        not in without_secret.out + run("webhook", "show", "one").out + run("webhook", "list", "--json").out
    )
    with_secret = run("webhook", "show", "one", "--secret", "--json").data
    assert (with_secret["apiKey"], with_secret["apiSecret"]) == (created["apiKey"], created["apiSecret"])
    assert created["apiSecret"] in run("webhook", "show", created["id"], "--secret").out


def test_edit_changes_only_what_is_named(run: Any, data_dir: Path) -> None:
    """Other settings stay; `none` removes a limit; a new name replaces the old one."""
    run("webhook", "create", "one", "--max-order-size", "2", "--max-notional", "1000", "--default", "quantity=1")
    result = run("webhook", "edit", "one", "--max-notional", "none", "--require-stop-loss", "--name", "two", "--json")
    assert result.code == 0
    assert result.data["name"] == "two"
    settings = stored_settings(data_dir, "two")
    assert settings.limits == Limits(max_order_size=Decimal(2), max_notional=None, require_stop_loss=True)
    assert settings.defaults == {"quantity": "1"}
    assert run("webhook", "show", "one").code == 3


def test_edit_without_an_option_is_refused(run: Any) -> None:
    """A command that would change nothing is wrong usage."""
    run("webhook", "create", "one")
    assert run("webhook", "edit", "one").code == 2


def test_edit_is_all_or_nothing(run: Any, data_dir: Path) -> None:
    """A refused edit changes nothing, not even its valid options."""
    run("webhook", "create", "one", "--max-order-size", "2")
    assert run("webhook", "edit", "one", "--max-notional", "5", "--min-order-size", "3").code == 2
    assert run("webhook", "edit", "one", "--max-notional", "5", "--name", "not a name").code == 2
    assert stored_settings(data_dir, "one").limits == Limits(max_order_size=Decimal(2))


def test_enable_and_disable(run: Any) -> None:
    """The state is stored and shown in the list."""
    run("webhook", "create", "one")
    assert run("webhook", "disable", "one", "--json").data["enabled"] is False
    assert "disabled" in run("webhook", "list").out
    assert run("webhook", "enable", "one", "--json").data["enabled"] is True


def test_delete_asks_for_confirmation(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is deleted without a yes; --yes skips the question."""
    run("webhook", "create", "one")
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert run("webhook", "delete", "one").code == 1
    assert len(run("webhook", "list", "--json").data) == 1
    assert run("webhook", "delete", "one", "--yes", "--json").data["deleted"] is True
    assert run("webhook", "list", "--json").data == []


@pytest.mark.parametrize("verb", ["show", "enable", "disable", "delete"])
def test_an_unknown_name_is_exit_code_3(run: Any, verb: str) -> None:
    """Scripts can distinguish "no such webhook" from wrong usage."""
    run("webhook", "create", "one")
    assert run("webhook", verb, "nobody").code == 3


def test_url_is_the_public_one_if_set(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """TradingView needs the address that is reachable from outside."""
    monkeypatch.setenv("KEKBRIDGE_SERVER_PUBLIC_URL", "https://bridge.example.com/")
    created = run("webhook", "create", "one", "--json").data
    assert created["webhookUrl"] == "https://bridge.example.com/api/webhooks/tradingview"


def test_url_follows_the_running_daemon(tmp_path: Path) -> None:
    """Commands without --port use the port of the running daemon, and the configured one when none runs."""
    with starting(bare_environment(tmp_path / "data")) as start:
        bridge = start("serve", "--json")
        url = json.loads(bridge.line(lambda text: text.startswith("{")))["webhookUrl"]
        assert bridge.data("webhook", "create", "two")["webhookUrl"] == url
        assert bridge.data("webhook", "list")[0]["webhookUrl"] == url
        assert bridge.stop() == 0
        assert bridge.data("webhook", "show", "two")["webhookUrl"] == url.replace(url.split("/")[2], "127.0.0.1:0")


def test_mode_follows_the_last_daemon_unless_configured(run: Any, data_dir: Path) -> None:
    """Keys have a prefix for their mode; commands without --mode use the mode of the last daemon."""
    run("webhook", "create", "one")
    with Database.open(data_dir).transaction() as connection:
        assert registry.mode_of(connection, Mode.PAPER, is_explicit=False) is Mode.PAPER
        registry.save_addresses(connection, "http://h/", Mode.LIVE, now=datetime.now(UTC))
        assert registry.mode_of(connection, Mode.PAPER, is_explicit=False) is Mode.LIVE
        assert registry.mode_of(connection, Mode.PAPER, is_explicit=True) is Mode.PAPER
    # Live mode accepts no key file: the command refuses as the daemon does, instead of sealing a secret that the daemon cannot open.
    assert "paper mode only" in run("webhook", "create", "two").err


def test_another_master_key_is_refused(run: Any, data_dir: Path) -> None:
    """A command that finds another vault than the daemon's must not seal secrets that the daemon cannot open."""
    run("webhook", "create", "one")
    keys = [
        file for file in data_dir.rglob("*") if file.is_file() and "key" in file.name.lower() and "db" not in file.name
    ]
    assert keys
    for file in keys:
        file.unlink()
    result = run("webhook", "create", "two")
    assert result.code == 2
    assert "master key" in result.err
    assert len(run("webhook", "list", "--json").data) == 1


def test_options_apply_to_given_settings() -> None:
    """`apply` changes the given settings and keeps the others; an empty list is no change."""
    before = WebhookSettings(defaults={"quantity": "1"}, allowed_addresses=("10.0.0.0/8",))
    assert apply({"default": [], "max_notional": None}, before) == before
    assert apply({"default": ["none"], "allow_address": ["none"]}, before) == WebhookSettings()
    with pytest.raises(ConfigError, match="--alias"):
        apply({"alias": ["GOLD=XAUUSDT"]}, before)


def test_a_settings_text_reads_back_unchanged() -> None:
    """The text that the web page shows for a setting is valid input for it and gives the same value."""
    given = {
        row.parameter: ["quantity=1"] if row.is_many else True if row.parser is None else text
        for row in ROWS
        for text in [EVERY.get(row.parameter, "7")]
    }
    given |= {"lock": ["price=1"], "alias": ["GOLD=XAUT"], "allow_address": ["tradingview", "10.0.0.0/8"]}
    settings = apply(given, WebhookSettings())
    written = {row.parameter: text_of(row, settings) for row in ROWS}
    again: dict[str, object] = {
        row.parameter: written[row.parameter].splitlines()
        if row.is_many
        else written[row.parameter] == "yes"
        if row.parser is None
        else written[row.parameter]
        for row in ROWS
    }
    assert apply(again, WebhookSettings()) == settings
    assert text_of(next(row for row in ROWS if row.field == "max_order_size"), WebhookSettings()) == ""


def test_the_default_largest_order_is_a_value(run: Any, data_dir: Path) -> None:
    """1,000 coins are 65 million USDC of BTC and nothing of a coin worth a cent; a webhook's own limits stay."""
    run("webhook", "create", "one")
    limits = stored_settings(data_dir, "one").limits
    assert (limits.max_notional, limits.max_order_size) == (Decimal(10_000), None)
    run("webhook", "create", "two", "--max-order-size", "1000", "--max-notional", "none")
    limits = stored_settings(data_dir, "two").limits
    assert (limits.max_notional, limits.max_order_size) == (None, Decimal(1000))
    listed = run("webhook", "list").out
    assert "10,000 USDC" in listed
    assert "1000" in listed


def test_a_key_in_the_url_is_shown_and_warned_of(run: Any) -> None:
    """The URL with the key is a secret: printed only where the key is, with what it costs."""
    created = run("webhook", "create", "one", "--key-in-path", "--no-require-signature")
    key = next(line.split()[-1] for line in created.out.splitlines() if line.strip().startswith("apiKey"))
    assert f"/api/webhooks/tradingview/{key}" in created.out
    assert "is now a secret" in created.err
    shown = run("webhook", "show", "one").out
    assert key not in shown
    secret = run("webhook", "show", "one", "--secret", "--json").data
    assert secret["webhookUrlWithKey"].endswith(f"/{key}")
    assert "is now a secret" in run("webhook", "edit", "one", "--key-in-path").err
    assert "webhookUrlWithKey" not in run("webhook", "create", "two", "--json").data


EVERY = {
    "allowed_symbols": "BTC,ETH",
    "leverage_policy": "lower",
    "max_stop_distance": "5%",
    "max_slippage": "0.5%",
    "max_drawdown": "12.5%",
    "cooldown": "90s",
    "trading_hours": "Mon-Fri 07:00-22:00 UTC",
    "max_timestamp_age": "2m",
    "follow": "position",
    "profile": "traderspost",
    "expect_alert_every": "25h",
    "alert_expires": "2099-01-31",
}


def is_valid(data_dir: Path, api_key: str, at: datetime) -> bool:
    """Return whether the daemon's lookup finds the key at that time."""
    sealer = Sealer(master_key(open_vault(Vault(backend="key_file"), data_dir, Mode.PAPER)))
    with Database.open(data_dir, create=False).snapshot() as connection:
        return stored.find_by_lookup(connection, sealer.lookup(api_key), at) is not None


def test_both_pairs_are_valid_during_the_grace_period(run: Any, data_dir: Path) -> None:
    """The new pair is valid at once, the old one until exactly the end of the grace period."""
    old = run("webhook", "create", "main", "--json").data
    new = run("webhook", "rotate", "main", "--grace", "2h", "--json").data
    assert new["apiKey"] != old["apiKey"]
    assert new["apiSecret"] != old["apiSecret"]
    (replaced,) = new["replaced"]
    end = datetime.fromisoformat(replaced["expiresAt"])
    assert timedelta(hours=1, minutes=59) < end - datetime.now(UTC) <= timedelta(hours=2)
    assert is_valid(data_dir, old["apiKey"], end - timedelta(seconds=1))
    assert not is_valid(data_dir, old["apiKey"], end)
    assert is_valid(data_dir, new["apiKey"], end + timedelta(days=4000))


def test_no_grace_revokes_the_old_pair_at_once(run: Any, data_dir: Path) -> None:
    """`--grace 0` is for a leaked key; it also revokes pairs in their grace period."""
    keys = [run("webhook", "create", "main", "--json").data, run("webhook", "rotate", "main", "--json").data]
    keys.append(run("webhook", "rotate", "main", "--grace", "0", "--json").data)
    now = datetime.now(UTC)
    assert [is_valid(data_dir, one["apiKey"], now) for one in keys] == [False, False, True]
    assert [key["state"] for key in run("webhook", "show", "main", "--json").data["keys"]] == [
        "ended",
        "ended",
        "valid",
    ]


def test_a_second_rotation_does_not_extend_the_first_grace_period(run: Any) -> None:
    """A key keeps its earlier expiry."""
    run("webhook", "create", "main")
    first = run("webhook", "rotate", "main", "--grace", "1h", "--json").data["replaced"][0]
    again = run("webhook", "rotate", "main", "--grace", "7d", "--json").data["replaced"]
    assert again[0] == first
    shown = run("webhook", "show", "main", "--json").data["keys"]
    assert shown[0]["expiresAt"] == first["expiresAt"]
    assert [key["state"] for key in shown] == ["ending", "ending", "valid"]


def warnings_of(done: Any) -> list[str]:
    return [line.removeprefix("warning: ") for line in done.err.splitlines() if line.startswith("warning: ")]


def test_a_template_warns_of_what_its_webhook_refuses(run: Any) -> None:
    """Limits of webhook and account, and the trading state; stdout stays the message alone, and the exit code 0."""
    run("webhook", "create", "main", "--max-order-size", "0.05", "--allowed-symbols", "BTC", "--require-stop-loss")
    bad = run("template", "main", "--kind", "indicator", "--symbol", "ETHUSDT.P", "--quantity", "1")
    assert (bad.code, bad.out.count("\n")) == (0, 1)
    assert [text.split(";")[-1].strip() for text in warnings_of(bad)] == [
        "use one of them, or extend --allowed-symbols",
        "add --stop-loss 2%",
        "use --quantity 0.05",
    ]
    good = (
        "template",
        "main",
        "--kind",
        "indicator",
        "--symbol",
        "BTCUSDT.P",
        "--quantity",
        "0.05",
        "--stop-loss",
        "2%",
    )
    assert warnings_of(run(*good)) == []
    assert run(*good, "--json").data["problems"] == []
    run("exits-only", "--reason", "news")
    (state,) = warnings_of(run(*good))
    assert state == "exits only (news): entries are denied; `kekbridge resume`"
    run("halt")
    (state,) = warnings_of(run(*good))
    assert state == "halted (by hand): every alert is refused; `kekbridge resume`"
    run("webhook", "disable", "main")
    (state,) = warnings_of(run(*good))
    assert state == "the webhook is disabled and refuses every alert; `kekbridge webhook enable main`"


@pytest.mark.parametrize("kind", ["strategy", "indicator", "pine", "ping"])
def test_a_template_ends_with_three_lines_of_what_to_click(run: Any, kind: str) -> None:
    """Condition, message and webhook URL, in the order of TradingView's dialog."""
    run("webhook", "create", "main")
    done = run("template", "main", "--kind", kind)
    head, *steps = done.err.splitlines()[-4:]
    assert head == "In TradingView:"
    assert [step[:5] for step in steps] == ["  1. ", "  2. ", "  3. "]
    assert "Condition" in steps[0]
    assert "Message" in steps[1]
    assert "Webhook URL" in steps[2]
    assert "http://127.0.0.1:8080" + WEBHOOK_PATH in steps[2]
    if kind != "pine":
        assert run("template", "main", "--kind", kind, "--json").data["steps"] == [step[5:] for step in steps]


def test_a_stop_that_is_required_later_is_pointed_out(run: Any) -> None:
    """Messages that were pasted before have none."""
    run("webhook", "create", "main")
    edited = run("webhook", "edit", "main", "--require-stop-loss")
    assert "kekbridge template main --stop-loss 2%" in edited.err
    assert "--stop-loss" not in run("webhook", "edit", "main", "--no-require-stop-loss").err


def test_a_message_in_a_file_is_for_its_owner_only(run: Any, tmp_path: Path) -> None:
    """It holds a key: mode 0600, also if an earlier message was there with another mode; stdout stays empty."""
    run("webhook", "create", "main")
    file = tmp_path / "alert.json"
    assert run("template", "main", "--output", str(file)).code == 0
    file.chmod(0o644)
    done = run("template", "main", "--kind", "ping", "--output", str(file))
    assert (done.code, done.out) == (0, "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text())["action"] == "ping"
    refused = run("template", "main", "--output", str(tmp_path / "none" / "alert.json"))
    assert (refused.code, "cannot be written" in refused.err) == (2, True)


@pytest.mark.parametrize("kind", ["ping", "position", "pine"])
def test_only_an_earlier_message_is_replaced(run: Any, tmp_path: Path, kind: str) -> None:
    """A file of the trader's that happens to have the name is left as it is; what the command wrote before, or an empty file, is not."""
    run("webhook", "create", "main")
    file = tmp_path / "alert"
    file.touch()
    assert [run("template", "main", "--kind", kind, "--output", str(file)).code for _ in range(2)] == [0, 0]
    file.write_text('strategy("mine")\n' + file.read_text())
    before = file.read_text()
    refused = run("template", "main", "--kind", kind, "--output", str(file))
    assert (refused.code, refused.err.count("\n"), "name another file" in refused.err) == (2, 1, True)
    assert file.read_text() == before


def test_a_template_in_json_names_the_file_it_wrote(run: Any, tmp_path: Path) -> None:
    """--json changes what is printed, not what is done: --output writes the same message; without it `file` is null."""
    run("webhook", "create", "main")
    file = tmp_path / "alert.json"
    printed = run("template", "main", "--kind", "ping", "--output", str(file), "--json").data
    assert (printed["file"], printed["message"] + "\n") == (str(file), file.read_text())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert run("template", "main", "--json").data["file"] is None
    refused = run("template", "main", "--output", str(tmp_path / "none" / "alert.json"), "--json")
    assert (refused.code, "cannot be written" in refused.err) == (2, True)


def test_templates_use_the_newest_pair(run: Any) -> None:
    """After a rotation the template contains the new key; the old secret is no longer shown."""
    run("webhook", "create", "main")
    new = run("webhook", "rotate", "main", "--json").data
    assert json.loads(run("template", "main").out)["apiKey"] == new["apiKey"]
    assert run("webhook", "show", "main", "--secret", "--json").data["apiSecret"] == new["apiSecret"]


def test_show_lists_keys_for_people(run: Any) -> None:
    """Prefix, creation, last use and expiry of each key; never the key itself."""
    created = run("webhook", "create", "main", "--json").data
    run("webhook", "rotate", "main", "--grace", "7d")
    shown = run("webhook", "show", "main").out
    assert created["apiKey"][: registry.KEY_PREFIX_LENGTH] + "…" in shown
    assert created["apiKey"] not in shown
    assert "LAST USED" in shown
    assert "never" in shown
    assert "in 6 d 23 h" in shown or "in 7 d" in shown


def test_rotate_prints_when_the_old_key_expires(run: Any) -> None:
    """Credentials on stdout; the old key's expiry and the next command on stderr."""
    run("webhook", "create", "main")
    result = run("webhook", "rotate", "main", "--grace", "0")
    assert "whs_" in result.out
    assert "is revoked" in result.err
    assert "kekbridge template main" in result.err


@pytest.mark.parametrize(("arguments", "code"), [(("nobody",), 3), (("main", "--grace", "soon"), 2)])
def test_rotate_with_wrong_arguments(run: Any, arguments: tuple[str, ...], code: int) -> None:
    """An unknown name is exit code 3, an unreadable duration 2; nothing is rotated."""
    run("webhook", "create", "main")
    result = run("webhook", "rotate", *arguments)
    assert result.code == code
    assert result.err.count("\n") == 1
    assert len(run("webhook", "show", "main", "--json").data["keys"]) == 1


def test_list_marks_webhooks_without_signature(run: Any) -> None:
    """The list marks webhooks that require no signature, and names the command to change that."""
    run("webhook", "create", "safe")
    run("webhook", "create", "open", "--no-require-signature")
    result = run("webhook", "list")
    lines = {line.split()[0]: line for line in result.out.splitlines()}
    assert "NO SIGNATURE" in lines["open"]
    assert "NO SIGNATURE" not in lines["safe"]
    assert "--require-signature" in result.err
    assert run("webhook", "edit", "open", "--require-signature").code == 0
    assert "--require-signature" not in run("webhook", "list").err


def test_a_running_daemon_accepts_both_pairs_and_records_their_use(tmp_path: Path) -> None:
    """After a rotation a running daemon accepts both keys, treats a revoked one as unknown, and `show` lists their last use."""
    with starting(bare_environment(tmp_path / "data")) as start:
        bridge = start("serve", "--json")
        first = json.loads(bridge.line(lambda text: text.startswith("{")))
        url = first["url"] + WEBHOOK_PATH
        name = first["webhook"]["name"]
        bridge.data("webhook", "edit", name, "--no-require-signature")

        def ping(api_key: str) -> dict[str, Any]:
            stamp = datetime.now(UTC).isoformat()
            response: dict[str, Any] = call(url, {"apiKey": api_key, "action": "ping", "timestamp": stamp})
            return response

        old, new = first["webhook"]["apiKey"], bridge.data("webhook", "rotate", name, "--grace", "1h")["apiKey"]
        assert [key["lastUsedAt"] for key in bridge.data("webhook", "show", name)["keys"]] == [None, None]
        assert ping(old)["success"] is True
        assert ping(new)["success"] is True
        wait_until(
            lambda: all(key["lastUsedAt"] for key in bridge.data("webhook", "show", name)["keys"]),
            what="the last use of both keys",
        )
        bridge.data("webhook", "rotate", name, "--grace", "0")
        unknown = ping("wh_test_" + "x" * 43)
        assert ping(old) == unknown
        assert ping(new) == unknown
        assert unknown["code"] == "unauthorized"


def test_check_explains_a_message_and_sends_nothing(run: Any, tmp_path: Path) -> None:
    """Format, fields, order and what is missing; exit code 1 if it would be refused. It needs no data directory."""
    file = tmp_path / "alert.json"
    file.write_text('{"ticker":"{{ticker}}","action":"buy","quantity":1,"stopLoss":{"percent":5},"interval":"15"}')
    result = run("webhook", "check", str(file))
    assert result.code == 0
    for text in ("traderspost", "buy 1 coins of BTCUSDT.P; stop loss 5%", "passed over", "the key", "{{ticker}}"):
        assert text in result.out
    data = run("webhook", "check", str(file), "--json").data
    assert (data["likelyProfile"], data["error"], data["orders"]) == (
        "traderspost",
        None,
        ["buy 1 coins of BTCUSDT.P; stop loss 5%"],
    )
    file.write_text('{"action":"buy","symbol":"BTC","quantity":1,"sl":5}')
    refused = run("webhook", "check", str(file))
    assert refused.code == 1
    assert "did you mean stopLoss?" in refused.out


def test_check_reads_as_a_webhook_does(run: Any, tmp_path: Path) -> None:
    """Its profile and defaults; an unknown webhook, profile or file is wrong usage."""
    file = tmp_path / "alert.txt"
    file.write_text("ENTER-LONG_Bybit_BTCUSDT_bot_15M_a")
    run("webhook", "create", "wt", "--profile", "wundertrading", "--default", "quantity=0.1")
    assert run("webhook", "check", str(file)).code == 1
    assert "buy 0.1 coins of BTCUSDT" in run("webhook", "check", str(file), "--webhook", "wt").out
    assert run("webhook", "check", str(file), "--webhook", "none").code == 3
    assert run("webhook", "check", str(file), "--profile", "none").code == 2
    assert run("webhook", "check", str(tmp_path / "none")).code == 2
    file.write_bytes(b"x" * 70_000)
    assert run("webhook", "check", str(file)).code == 2
