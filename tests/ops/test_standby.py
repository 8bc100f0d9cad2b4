"""A standby gets secrets and settings sealed, keeps them in its own vault, and does not trade until it has taken over."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kekbridge.config import load_settings
from kekbridge.errors import ConfigError, NotFound, VaultError
from kekbridge.model import Mode
from kekbridge.ops import exchange_keys, standby
from kekbridge.ops.standby import GenerateStandbyKey, OpenSealed, SealForStandby, ShowStandbyRequest
from kekbridge.ops.standby_record import FILE, read_record, require_no_standby
from kekbridge.vault import MASTER_KEY, master_key, orderly_secret
from kekbridge.vault.standby import OTHER_MASTER_KEY, STANDBY_KEY, seal
from tests.ops.operating import ACCOUNT, Desk, MemoryVault

OWN: dict[str, Any] = {
    "exchange.account_id": ACCOUNT,
    "replica.url": "s3://bucket/bridge",
    "risk.max_notional": "5000",
    "risk.allowed_symbols": ["BTC"],
    "server.public_url": "https://bridge.example.com",
    "vault.secrets_dir": "/run/secrets",
    "log.level": "debug",
    "backup.dir": "/mnt/disk",
}


def desk_of(directory: Path, mode: Mode = Mode.LIVE, **settings: Any) -> Desk:
    desk = Desk(directory, mode=mode, vault=MemoryVault())
    named = {name.replace("__", "."): value for name, value in settings.items()}
    desk.settings = load_settings(environment={}, overrides={"mode": mode.value, **named})
    return desk


@pytest.fixture
def trading(tmp_path: Path) -> Desk:
    """The machine that trades."""
    desk = desk_of(tmp_path / "one", **{name.replace(".", "__"): value for name, value in OWN.items()})
    master_key(desk.vault)
    desk.secrets.set(orderly_secret(ACCOUNT), exchange_keys.new_secret().encode())
    desk.secrets.set("notify-urls", b"json://example.com")
    desk.secrets.set("replica-access-key-id", b"AKIA")
    return desk


@pytest.fixture
def second(tmp_path: Path) -> Desk:
    """The machine that is to be its standby."""
    return desk_of(tmp_path / "two")


async def sealed_for(trading: Desk, second: Desk) -> str:
    word = (await ShowStandbyRequest().run(second))["request"]
    return (await SealForStandby(request=word).run(trading))["sealed"]


async def test_secrets_and_settings_reach_the_standby(trading: Desk, second: Desk) -> None:
    """Both master keys are in its vault, the record names the machine, and settings of one machine are not taken along."""
    sealed = await sealed_for(trading, second)
    own_master = master_key(second.vault)
    shown = await OpenSealed(sealed=sealed, store=False).run(second)
    assert read_record(second.data_dir) is None
    assert second.secrets.get(OTHER_MASTER_KEY) is None
    assert await OpenSealed(sealed=sealed, store=True).run(second) == shown
    assert second.secrets.get(OTHER_MASTER_KEY) == trading.secrets.get(MASTER_KEY)
    assert second.secrets.get(MASTER_KEY) == own_master
    assert second.secrets.get("notify-urls") == b"json://example.com"
    assert second.secrets.get("replica-access-key-id") == b"AKIA"
    assert second.secrets.get(orderly_secret(ACCOUNT)) is None
    place = shown["settings"].pop("replica.url")
    assert place.startswith("s3://bucket/bridge-")
    assert shown["settings"] == {
        "mode": "live",
        "exchange.account_id": ACCOUNT,
        "risk.max_notional": "5000",
        "risk.allowed_symbols": ["BTC"],
        "server.public_url": "https://bridge.example.com",
    }
    record = read_record(second.data_dir)
    assert record is not None
    assert (record.account_id, record.mode, record.replica_url) == (ACCOUNT, Mode.LIVE, OWN["replica.url"])


async def test_no_secret_is_in_a_plain_file(trading: Desk, second: Desk) -> None:
    """Neither the record nor the sealed text shows a key, and no operation shows one in its repr."""
    sealed = await sealed_for(trading, second)
    await OpenSealed(sealed=sealed, store=True).run(second)
    secrets = [value for desk in (trading, second) for value in desk.secrets.secrets.values()]
    written = (
        (second.data_dir / FILE).read_bytes() + sealed.encode() + repr(OpenSealed(sealed=sealed, store=True)).encode()
    )
    assert not any(secret in written or secret.hex().encode() in written for secret in secrets)


async def test_a_standby_does_not_trade(trading: Desk, second: Desk) -> None:
    """`serve` refuses its data directory until it has taken over, from the moment that anything was stored."""
    require_no_standby(second.data_dir)
    await OpenSealed(sealed=await sealed_for(trading, second), store=True).run(second)
    with pytest.raises(ConfigError, match="kekbridge takeover"):
        require_no_standby(second.data_dir)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"replica__url": ""}, "replica.url"),
        ({"mode": Mode.PAPER}, "paper"),
        ({"exchange__account_id": "0x" + "2" * 64}, "no Orderly key"),
    ],
)
async def test_what_cannot_be_taken_over_is_not_sealed(
    tmp_path: Path, trading: Desk, second: Desk, changes: dict[str, Any], word: str
) -> None:
    """Without a copy of the database or a key that could be removed, the machine that trades says what is missing."""
    given = {name.replace(".", "__"): value for name, value in OWN.items()} | changes
    desk = desk_of(tmp_path / "one", **given)
    desk.secrets, desk.vault = trading.secrets, trading.vault
    with pytest.raises((ConfigError, NotFound), match=word):
        await sealed_for(desk, second)


async def test_both_machines_must_not_have_the_same_key(trading: Desk, second: Desk) -> None:
    """A copied exchange key could not remove the other one."""
    second.secrets.set(orderly_secret(ACCOUNT), trading.secrets.secrets[orderly_secret(ACCOUNT)])
    with pytest.raises(ConfigError, match="the very key"):
        await OpenSealed(sealed=await sealed_for(trading, second), store=True).run(second)
    assert read_record(second.data_dir) is None


async def test_a_plain_vault_takes_nothing(tmp_path: Path) -> None:
    """Keys that can trade are never kept unencrypted."""
    desk = Desk(tmp_path / "two", mode=Mode.LIVE, vault=MemoryVault(is_plain=True))
    with pytest.raises(VaultError, match="paper mode only"):
        await ShowStandbyRequest().run(desk)


@pytest.mark.parametrize("content", [b"{}", b"no JSON", json.dumps({"madeAt": 1}).encode()])
async def test_a_bundle_of_another_version(second: Desk, content: bytes) -> None:
    """It opens, and cannot be read: an error that names the versions, not a traceback."""
    word = (await ShowStandbyRequest().run(second))["request"]
    with pytest.raises(VaultError, match="another version"):
        await OpenSealed(sealed=seal(word, content), store=True).run(second)


async def test_the_word_stays_the_same(second: Desk) -> None:
    """A second call prints the word again, so that what was sealed meanwhile can be opened."""
    first = await ShowStandbyRequest().run(second)
    assert await ShowStandbyRequest().run(second) == first
    assert len(second.secrets.secrets[STANDBY_KEY]) == 32


async def test_a_key_is_generated_once(second: Desk) -> None:
    """Until it is registered, further calls name the same one."""
    first = await GenerateStandbyKey(mode=Mode.LIVE, account_id=ACCOUNT).run(second)
    assert first["state"] == "pending"
    assert await GenerateStandbyKey(mode=Mode.LIVE, account_id=ACCOUNT).run(second) == first


async def test_doctor_says_what_a_standby_lacks(trading: Desk, second: Desk) -> None:
    """One line, with the next command; ready once it has settings, the other master key and a key of its own."""
    assert standby.checks(second.settings, second.data_dir, second.vault) == ()
    await OpenSealed(sealed=await sealed_for(trading, second), store=True).run(second)

    def found() -> tuple[str, str]:
        (check,) = standby.checks(second.settings, second.data_dir, second.vault)
        return check.level, check.text + check.fix

    assert "another mode or account" in found()[1]
    second.settings = load_settings(environment={}, overrides={"mode": "live", "exchange.account_id": ACCOUNT})
    assert "keys register" in found()[1]
    second.secrets.set(orderly_secret(ACCOUNT), b"ed25519:x")
    assert found()[0] == "ok"
    second.secrets.delete(OTHER_MASTER_KEY)
    level, text = found()
    assert level == "broken"
    assert "replica prepare" in text


NOW = datetime(2026, 11, 29, 15, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("others", "host", "place"),
    [
        ("s3://bucket/bridge", "vps2", "s3://bucket/bridge-vps2-20261129T153000Z"),
        ("s3://bucket", "vps2", "s3://bucket/vps2-20261129T153000Z"),
        ("s3://bucket/", "vps2", "s3://bucket/vps2-20261129T153000Z"),
        ("s3://bucket/vps1-20250101T000000Z", "vps2", "s3://bucket/vps2-20261129T153000Z"),
        ("file:///mnt/bridge-vps.1-20250101T000000Z", "vps2", "file:///mnt/bridge-vps2-20261129T153000Z"),
        ("sftp://me@host/a/b/", "my_host/x", "sftp://me@host/a/b-myhostx-20261129T153000Z"),
        ("s3://bucket/bridge-x", "---", "s3://bucket/bridge-x-standby-20261129T153000Z"),
    ],
)
def test_a_place_of_its_own(others: str, host: str, place: str) -> None:
    """Beside the other machine's, never the same, and no longer with each takeover; in the same bucket."""
    assert standby.own_replica_url(others, host, NOW) == place
    load_settings(environment={}, overrides={"replica.url": place})
