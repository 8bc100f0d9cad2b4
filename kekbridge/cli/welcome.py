"""What `serve` says once everything listens: where, how secrets are kept, a message to paste, a curl line to try.

On the first start it creates the webhook `default`. In paper mode the message and the line are shown at every start, since paper
credentials are worthless elsewhere; in live and testnet mode nothing of a webhook is printed: stdout may end up in a journal.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from ulid import ULID

from kekbridge.alerts import template
from kekbridge.cli import render
from kekbridge.cli.context import CliContext, now, open_sealer, opened
from kekbridge.cli.send import curl_line
from kekbridge.model import Mode, Webhook, WebhookSettings
from kekbridge.store import webhooks as stored
from kekbridge.webhooks import registry
from kekbridge.webhooks.registry import Credentials

if TYPE_CHECKING:
    from kekbridge.daemon.app import StartupInfo

FIRST_SYMBOL = "BTCUSDT.P"
FIRST_QUANTITY = "0.001"


class Welcome:
    """The greeting of one start."""

    def __init__(self, workspace: CliContext) -> None:
        self._workspace = workspace

    def say(self, started: StartupInfo, *, as_json: bool) -> None:
        """Create what a first start creates, then print; flushed, since somebody waits for it."""
        webhook, credentials = self._first_webhook(started)
        if as_json:
            render.as_json(_as_data(started, webhook, credentials))
        else:
            _print(started, webhook, credentials)
        sys.stdout.flush()

    def _first_webhook(self, started: StartupInfo) -> tuple[Webhook | None, Credentials | None]:
        """The webhook to show: the new one, else the first enabled one; credentials in paper mode only."""
        with opened(self._workspace) as database:
            sealer = open_sealer(self._workspace, database)
            with database.transaction() as connection:
                registry.save_addresses(connection, started.webhook_url, started.mode, local_url=started.url, now=now())
                found = stored.list_all(connection)
                if not found:
                    return registry.create(
                        connection,
                        sealer,
                        name=registry.FIRST_NAME,
                        settings=WebhookSettings(),
                        mode=started.mode,
                        now=now(),
                    )
                enabled = next((webhook for webhook in found if webhook.enabled), None)
                if enabled is None or started.mode is not Mode.PAPER:
                    return enabled, None
                return enabled, registry.credentials_of(connection, sealer, enabled, now=now())


def _as_data(started: StartupInfo, webhook: Webhook | None, credentials: Credentials | None) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "mode": started.mode,
        "url": started.url,
        "webhookUrl": started.webhook_url,
        "paperUrl": started.paper_url,
        "dataDir": str(started.data_dir),
        "vault": started.vault,
    }
    if started.checks:
        shown["checks"] = [dataclasses.asdict(check) for check in started.checks]
    if webhook is not None and credentials is not None and started.mode is Mode.PAPER:
        shown["webhook"] = {
            "name": webhook.name,
            "id": webhook.id,
            "apiKey": credentials.api_key,
            "apiSecret": credentials.api_secret,
        }
    return shown


def _print(started: StartupInfo, webhook: Webhook | None, credentials: Credentials | None) -> None:
    render.pairs(
        [
            ("mode", _MODES[started.mode]),
            ("secrets", started.vault),
            ("data", str(started.data_dir)),
            ("webhook URL", started.webhook_url),
            *([("paper exchange", started.paper_url)] if started.paper_url else []),
        ]
    )
    for check in started.checks:
        fix = f" ({check.fix})" if check.fix else ""
        render.line(f"{check.level:<8}  {check.name}: {check.text}{fix}")
    if webhook is None:
        render.line("\nNo webhook is enabled. Create one:  kekbridge webhook create NAME")
    elif credentials is None or started.mode is not Mode.PAPER:
        render.line(f"\nThe message for TradingView (webhook {webhook.name}):  kekbridge template {webhook.name}")
    else:
        _print_trial(started, webhook, credentials)
    render.line("\nReady. Ctrl-C stops.")


def _print_trial(started: StartupInfo, webhook: Webhook, credentials: Credentials) -> None:
    """A message for TradingView and a line for a shell; each on one line, since people copy them."""
    message = template.build(
        "strategy", api_key=credentials.api_key, api_secret=credentials.api_secret, profile=webhook.settings.profile
    ).message
    order = {
        "apiKey": credentials.api_key,
        # A new id at every start: pasted twice the line answers "duplicate", and after a restart it trades again.
        "alertId": f"first-order-{str(ULID())[-6:].lower()}",
        "action": "buy",
        "symbol": FIRST_SYMBOL,
        "quantity": FIRST_QUANTITY,
    }
    render.line(
        f"\nTo paste into a TradingView strategy alert (webhook {webhook.name}; for other alerts: kekbridge template --help):\n"
    )
    render.line(message)
    render.line("\nTo try it now, paste into another terminal; it buys on paper and answers with the fill:\n")
    render.line(curl_line(started.webhook_url, order, credentials.api_secret))


_MODES = {
    Mode.PAPER: "paper: orders go to an exchange in the box, no money is at risk",
    Mode.TESTNET: "testnet: orders go to Orderly's testnet",
    Mode.LIVE: "LIVE: orders trade real money",
}
