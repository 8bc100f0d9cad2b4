"""The steps of a first visit are ticked by stored facts only."""

from __future__ import annotations

import pytest

from kekbridge.config import Settings, load_settings
from kekbridge.model import Limits, WebhookSettings
from kekbridge.ops.checklist import Checklist, DismissChecklist, read
from kekbridge.ops.webhook_operations import CreateWebhook, EditWebhook
from kekbridge.store import settings as stored
from tests.ops.operating import Desk
from tests.store.factories import new_alert
from tests.stored import book_on, store_alert


def steps(desk: Desk, configured: Settings | None = None) -> Checklist:
    with desk.database.snapshot() as connection:
        found = read(connection, configured or desk.settings)
    assert found is not None
    return found


async def test_limits_that_differ_from_the_defaults_are_set(desk: Desk) -> None:
    """Of a webhook or of the account; a new webhook's own defaults tick nothing."""
    assert not steps(desk).has_limits
    made = await CreateWebhook(name="main").run(desk)
    assert not steps(desk).has_limits
    assert steps(desk).webhook_id == made["id"]
    account = load_settings(environment={}, overrides={"risk.max_daily_loss": "500"})
    assert steps(desk, account).has_limits
    await EditWebhook(webhook="main", options={"max_order_size": "1"}).run(desk)
    assert steps(desk).has_limits
    assert Limits() == WebhookSettings().limits


@pytest.mark.parametrize(
    ("remote", "alert_id", "overrides", "is_connected"),
    [
        ("127.0.0.1", "a", {}, False),
        ("52.89.214.238", "a", {}, True),
        ("127.0.0.1", "a", {"server.behind_proxy": "true"}, True),
        ("127.0.0.1", "try-1", {"server.behind_proxy": "true"}, False),
        ("127.0.0.1", "a", {"server.behind_proxy": "true", "server.trusted_proxies": "127.0.0.1"}, False),
    ],
)
def test_an_alert_from_elsewhere_connects(
    desk: Desk, remote: str, alert_id: str, overrides: dict[str, str], is_connected: bool
) -> None:
    """Not one of this machine, unless a proxy hides who sent it and no command did."""
    with desk.database.transaction() as connection:
        store_alert(book_on(connection), new_alert(remote=remote, alert_id=alert_id))
    assert steps(desk, load_settings(environment={}, overrides=overrides)).is_connected is is_connected


async def test_a_channel_and_dismissal(desk: Desk) -> None:
    """A channel that the notifier has begun to serve counts. Dismissed, there is no list any more."""
    await desk.database.write(stored.set_value, "notified:json-1", 7, now=desk.clock())
    assert steps(desk).is_notified
    await DismissChecklist().run(desk)
    with desk.database.snapshot() as connection:
        assert read(connection, desk.settings) is None
