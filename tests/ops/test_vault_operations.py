"""Operations on the vault: secrets go in and never come out; the exchange key is never kept in the clear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kekbridge.errors import ConfigError, NotFound, VaultError
from kekbridge.model import Mode
from kekbridge.model.check import Check
from kekbridge.ops import exchange_keys
from kekbridge.ops.notifier import NOTIFY_URLS
from kekbridge.ops.operations import Operations
from kekbridge.ops.vault_operations import (
    AddKey,
    CheckKey,
    GenerateKey,
    ListChannels,
    RemoveKey,
    RestrictKey,
    SetChannels,
    ShowKey,
    ShowPendingKey,
    ShowVault,
    TryChannels,
)
from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ORDERLY_KEY
from kekbridge.store import journal
from tests.ops.operating import ACCOUNT, Desk, MemoryVault

SECRET = exchange_keys.new_secret()
KEY = exchange_keys.public_key(SECRET)
VENUE: dict[str, Any] = {"mode": Mode.TESTNET, "account_id": ACCOUNT}
NAME = f"orderly-secret:{ACCOUNT}"


async def kinds(desk: Desk) -> list[str]:
    return [event.kind for event in await desk.database.read(journal.list_events)]


async def test_a_key_is_stored_recorded_and_removed(desk: Desk) -> None:
    """The vault holds the secret, the history its public key; removing it revokes it at the exchange first."""
    run = Operations(desk).run
    added = await run(AddKey(**VENUE, secret=SECRET))
    assert (added["orderlyKey"], desk.secrets.secrets[NAME]) == (KEY, SECRET.encode())
    assert SECRET not in str(added)
    assert (await run(ShowVault()))["names"] == [NAME]
    assert await run(ShowKey(**VENUE)) == {"orderlyKey": KEY}
    assert await run(CheckKey(**VENUE)) == []
    removed = await run(RemoveKey(**VENUE))
    assert removed == {"orderlyKey": KEY, "removedAtExchange": True, "removedHere": True}
    assert desk.exchange.calls_made == [("remove", KEY)]
    assert NAME not in desk.secrets.secrets
    assert await kinds(desk) == ["orderly_key_added", "orderly_key_removed"]
    with pytest.raises(NotFound, match="keys add"):
        await run(ShowKey(**VENUE))


async def test_another_key_is_revoked_without_touching_ours(desk: Desk) -> None:
    """And `local` leaves the exchange alone."""
    run = Operations(desk).run
    await run(AddKey(**VENUE, secret=SECRET))
    assert (await run(RemoveKey(**VENUE, orderly_key="ed25519:other")))["removedHere"] is False
    assert NAME in desk.secrets.secrets
    assert (await run(RemoveKey(**VENUE, local=True)))["removedAtExchange"] is False
    assert desk.exchange.calls_made == [("remove", "ed25519:other")]


async def test_a_key_that_cannot_trade_is_not_stored(desk: Desk) -> None:
    """Unless it is forced; an exchange that cannot be reached is no reason."""
    run = Operations(desk).run
    desk.exchange.checked = (Check("scopes", "broken", "it may only read", "register another"),)
    with pytest.raises(ConfigError, match="it may only read; register another"):
        await run(AddKey(**VENUE, secret=SECRET))
    assert desk.secrets.secrets == {}
    await run(AddKey(**VENUE, secret=SECRET, force=True))
    desk.exchange.checked = (Check("exchange", "broken", "no answer"),)
    await run(AddKey(**VENUE, secret=exchange_keys.new_secret()))
    assert len(desk.secrets.secrets) == 1


async def test_an_exchange_key_is_never_kept_in_the_clear(tmp_path: Path) -> None:
    """A paper bridge with a plain key file refuses a key that can trade."""
    desk = Desk(tmp_path / "data", vault=MemoryVault(is_plain=True))
    run = Operations(desk).run
    for operation in (AddKey(**VENUE, secret=SECRET), GenerateKey(mode=Mode.LIVE)):
        with pytest.raises(VaultError, match="for paper mode only"):
            await run(operation)
    await desk.database.close()
    assert desk.secrets.secrets == {}


async def test_a_generated_key_is_pending(desk: Desk) -> None:
    """Until it is registered; a second one replaces it."""
    run = Operations(desk).run
    with pytest.raises(NotFound, match="keys generate"):
        await run(ShowPendingKey(**VENUE))
    await run(GenerateKey(mode=Mode.TESTNET))
    second = await run(GenerateKey(mode=Mode.TESTNET))
    assert await run(ShowPendingKey(**VENUE)) == {"orderlyKey": second["orderlyKey"], "isPending": True}
    assert set(desk.secrets.secrets) == {exchange_keys.PENDING}


async def test_the_paper_account_has_a_key_that_stays(desk: Desk) -> None:
    """A paper bridge trades with it: it is shown although no vault holds it, and cannot be removed."""
    run = Operations(desk).run
    paper: dict[str, Any] = {"mode": Mode.PAPER, "account_id": PAPER_ACCOUNT_ID}
    assert await run(ShowKey(**paper)) == {"orderlyKey": PAPER_ORDERLY_KEY}
    with pytest.raises(ConfigError, match="nothing was removed"):
        await run(RemoveKey(**paper))
    assert desk.exchange.calls_made == []


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        (RestrictKey(**VENUE, here=True), ("restrict", KEY, ("203.0.113.7",))),
        (
            RestrictKey(**VENUE, addresses=("203.0.113.9 - 203.0.113.12",)),
            ("restrict", KEY, ("203.0.113.9-203.0.113.12",)),
        ),
        (RestrictKey(**VENUE), ("allow", KEY)),
    ],
    ids=["here", "a range", "anywhere"],
)
async def test_a_key_is_restricted(desk: Desk, operation: RestrictKey, call: tuple[object, ...]) -> None:
    """To this machine, to the addresses given, or to none."""
    run = Operations(desk).run
    await run(AddKey(**VENUE, secret=SECRET))
    await run(operation)
    assert desk.exchange.calls_made == [call]


def test_a_wrong_address_is_refused_when_it_is_written_down() -> None:
    """Before a vault is opened."""
    with pytest.raises(ConfigError, match="'nowhere' is not an IP address"):
        RestrictKey(**VENUE, addresses=("nowhere",))


async def test_channels_are_replaced_and_never_shown(desk: Desk) -> None:
    """An empty text removes them; a wrong line changes nothing and is not quoted."""
    run = Operations(desk).run
    with pytest.raises(ConfigError, match="no channels yet"):
        await run(TryChannels())
    (name,) = await run(SetChannels(urls="json://127.0.0.1:1/TOKEN\n# a comment\n"))
    assert await run(ListChannels()) == [name]
    assert await run(TryChannels()) == {name: False}
    with pytest.raises(ConfigError) as refused:
        await run(SetChannels(urls="json://127.0.0.1:1/TOKEN\nnonsense TOKEN"))
    assert "line 2" in refused.value.message
    assert "TOKEN" not in refused.value.message + name
    assert NOTIFY_URLS in desk.secrets.secrets
    assert await run(SetChannels(urls="")) == []
    assert NOTIFY_URLS not in desk.secrets.secrets


@pytest.mark.parametrize(
    "operation", [AddKey(**VENUE, secret=SECRET), SetChannels(urls="json://TOKEN")], ids=["key", "channels"]
)
def test_parameters_that_are_secret_are_not_in_a_repr(operation: object) -> None:
    """A traceback or a debugger shows the operation without them."""
    assert SECRET not in repr(operation)
    assert "TOKEN" not in repr(operation)
