"""The table of operator operations: everything that a command, a script or a web page may change, and what needs the daemon's vault.

The daemon serves it at the control socket (daemon/control.py); commands run a row themselves while no daemon runs (cli/control.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from kekbridge.formatting import to_jsonable
from kekbridge.ops import backup_operations, checklist, message_trial, standby, takeover, web_token
from kekbridge.ops import key_registration as registration
from kekbridge.ops import notify_settings as notify
from kekbridge.ops import read_operations as read
from kekbridge.ops import trading_operations as trading
from kekbridge.ops import vault_operations as vault
from kekbridge.ops import webhook_operations as webhook
from kekbridge.ops.operation import Operation, OperatorContext
from kekbridge.ops.replay import ReplayAlert

_ROWS: Final[tuple[type[Operation], ...]] = (
    trading.Halt,
    trading.ExitsOnly,
    trading.Resume,
    trading.ListHeldExits,
    trading.NoteLostOrdersShown,
    trading.Flatten,
    trading.Close,
    trading.FindMarket,
    trading.Cancel,
    trading.ShowState,
    trading.Examine,
    trading.ListLockouts,
    trading.LiftLockout,
    trading.RunJob,
    trading.RecordBackup,
    webhook.CreateWebhook,
    webhook.ListWebhooks,
    webhook.ShowWebhook,
    webhook.ShowCredentials,
    webhook.MakeTemplate,
    webhook.EditWebhook,
    webhook.RotateWebhook,
    webhook.RevokeWebhookKey,
    webhook.EnableWebhook,
    webhook.DisableWebhook,
    webhook.DeleteWebhook,
    webhook.SendAlert,
    message_trial.TryMessage,
    webhook.TryOrder,
    ReplayAlert,
    web_token.ShowWebAccess,
    web_token.MakeSignInLink,
    web_token.RotateWebToken,
    read.Select,
    read.ShowSettings,
    vault.SetChannels,
    vault.ChangeChannels,
    vault.ListChannels,
    vault.TryChannels,
    notify.ListEvents,
    notify.SetLevel,
    notify.ShowQuietHours,
    notify.SetQuietHours,
    vault.StoreReplicaKeys,
    vault.ShowVault,
    vault.ShowBackupKey,
    vault.ShowRecoveryCode,
    backup_operations.ShowBackups,
    checklist.DismissChecklist,
    vault.ShowVenue,
    vault.AddKey,
    vault.GenerateKey,
    vault.ShowPendingKey,
    registration.PrepareKey,
    registration.RegisterKey,
    registration.DiscardPendingKey,
    vault.ListKeys,
    vault.ShowKey,
    vault.CheckKey,
    vault.ShowOwnAddress,
    vault.RestrictKey,
    vault.RemoveKey,
    standby.ShowStandbyRequest,
    standby.SealForStandby,
    standby.OpenSealed,
    standby.GenerateStandbyKey,
    takeover.Takeover,
)

#: Every operation by its name.
OPERATIONS: Final[dict[str, type[Operation]]] = {row.operation: row for row in _ROWS}


class Operations:
    """Runs operations on one context: the daemon's, or a command's while no daemon runs."""

    def __init__(
        self, context: OperatorContext, *, on_operation: Callable[[str], Awaitable[None]] | None = None
    ) -> None:
        """`on_operation` is awaited with the name of each operation that wrote, after its commit and before its result is returned."""
        self._context = context
        self._on_operation = on_operation

    async def run(self, operation: Operation) -> Any:
        """Run one operation; return its result as JSON types. Raises KekbridgeError."""
        try:
            return to_jsonable(await operation.run(self._context))
        finally:
            # Also after a failure: what it had stored before must be seen.
            if operation.writes and self._on_operation is not None:
                await self._on_operation(operation.operation)
