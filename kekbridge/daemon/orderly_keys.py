"""The keys of an account at Orderly, for operations: calls and checks signed with a secret that does not leave this process."""

from __future__ import annotations

from kekbridge.config import Settings
from kekbridge.exchange.orderly.client import OrderlyExchange
from kekbridge.exchange.orderly.key_management import NO_ACCOUNT, KeyManagement
from kekbridge.exchange.orderly.signing import Signer
from kekbridge.model import Mode
from kekbridge.model.check import Check
from kekbridge.ops.exchange_keys import new_secret


class OrderlyKeys:
    """Implements ops.operation.ExchangeKeys."""

    def __init__(self, settings: Settings, paper_url: str | None = None) -> None:
        """`paper_url`: address of the embedded paper exchange, if it runs."""
        self._settings = settings
        self._paper_url = paper_url

    def public_key(self, secret: str) -> str:
        """The public key of a secret. Raises VaultError for a malformed one, without quoting it."""
        return Signer(NO_ACCOUNT, secret).orderly_key

    def calls(self, mode: Mode, account_id: str, secret: str) -> KeyManagement:
        """Calls signed with an account's key. Raises ConfigError for a malformed account id."""
        signer = Signer(account_id, secret)
        return KeyManagement(
            mode.value, self._base_url(mode), signer, timeout_s=self._settings.exchange.request_timeout_s
        )

    def wallet_calls(self, mode: Mode) -> KeyManagement:
        """Calls that no exchange key signs."""
        return self.calls(mode, NO_ACCOUNT, new_secret())

    async def checks(self, mode: Mode, account_id: str, secret: str) -> tuple[Check, ...]:
        """Check the key with the exchange: reachable, clock, key, scopes, expiry, addresses, account, markets."""
        exchange = OrderlyExchange(
            mode.value, self._base_url(mode), Signer(account_id, secret), self._settings.exchange
        )
        try:
            return await exchange.checks()
        finally:
            await exchange.close()

    def _base_url(self, mode: Mode) -> str:
        """exchange.base_url belongs to the configured mode; other venues are at their published addresses (empty)."""
        configured = self._settings.exchange.base_url if mode is self._settings.mode else ""
        return configured or (self._paper_url or "" if mode is Mode.PAPER else "")
