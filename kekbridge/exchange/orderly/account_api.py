"""Every REST call about the account, the key and the markets, as typed methods: what may be asked besides orders.

Same rules as rest.py, which it sends through. Calls: docs/internals/orderly.md sections 3, 4, 9 and 10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from kekbridge.exchange.base import FundingPayment, KeyInfo, Rejected, SubmitResult, Transfer
from kekbridge.exchange.orderly import parsing
from kekbridge.exchange.orderly.classify import Found, Missing
from kekbridge.exchange.orderly.orders_api import OrdersApi, rows_of
from kekbridge.exchange.orderly.rate_limiter import Endpoint
from kekbridge.log import get_logger
from kekbridge.model import Flow, MarginMode

log = get_logger("kekbridge.exchange.orderly.account_api")

# The exchange filters by the time of request; a deposit counts from its completion, hours later at worst.
_LONGEST_TRANSFER: Final = timedelta(days=1)
_USDC: Final = "USDC"
_ONE: Final = Decimal(1)


@dataclass(frozen=True, slots=True)
class SystemInfo:
    """`status` 0 is normal, 2 maintenance; the window is what is announced, if anything is."""

    is_maintenance: bool
    message: str
    starts_at: datetime | None = None
    ends_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose account it is: the wallet and the broker under which it was registered."""

    address: str
    broker_id: str


class AccountApi:
    """Account, key and market calls over one `Rest`."""

    def __init__(self, rest: OrdersApi) -> None:
        self._rest = rest

    # ------------------------------------------------------------------------------------------------------------- public

    async def system_info(self) -> SystemInfo:
        found = await self._rest.found(Endpoint.SYSTEM_INFO, "/v1/public/system_info", is_signed=False)
        return system_info_of(found.data)

    async def rules(self) -> list[Mapping[str, Any]]:
        """The rows of `/v1/public/info`: every symbol's trading rules."""
        return rows_of(await self._rest.found(Endpoint.PUBLIC, "/v1/public/info", is_signed=False))

    async def marks(self) -> dict[str, Decimal]:
        """Mark prices of all symbols; a null one means that there is none (section 4)."""
        rows = rows_of(await self._rest.found(Endpoint.PUBLIC, "/v1/public/futures", is_signed=False))
        return marks_of(rows, price="mark_price")

    async def owner(self, account_id: str) -> Owner | None:
        """The way to learn which broker an account belongs to (section 3)."""
        path = f"/v1/public/account?account_id={account_id}"
        answer = await self._rest.query(Endpoint.PUBLIC, path, is_signed=False)
        if isinstance(answer, Missing):
            return None
        return Owner(str(answer.data.get("address") or ""), str(answer.data.get("broker_id") or ""))

    async def key(self, account_id: str, orderly_key: str) -> KeyInfo | None:
        """Whether a key is registered for an account, its scopes and its expiry; unsigned, so it works with a broken key."""
        path = f"/v1/get_orderly_key?account_id={account_id}&orderly_key={orderly_key}"
        answer = await self._rest.query(Endpoint.PUBLIC, path, is_signed=False)
        return None if isinstance(answer, Missing) else key_info_of(answer.data)

    # ------------------------------------------------------------------------------------------------------------- signed

    async def positions(self) -> Found:
        """`/v1/positions` as it stands: totals and rows, with the exchange's time of making it."""
        return await self._rest.found(Endpoint.POSITIONS, "/v1/positions")

    async def client_info(self) -> Mapping[str, Any]:
        """Account settings: fee rates in basis points, maximum leverage. 10 calls a minute."""
        return (await self._rest.found(Endpoint.CLIENT_INFO, "/v1/client/info")).data

    async def keys(self) -> tuple[KeyInfo, ...]:
        """All keys of the account with their address rules. 10 calls a minute."""
        return tuple(
            key_info_of(row) for row in rows_of(await self._rest.found(Endpoint.KEY_INFO, "/v1/client/key_info"))
        )

    async def leverages(self) -> dict[str, Decimal]:
        """The cross leverage of every symbol for which the exchange tells one; empty where the call does not exist."""
        chosen: dict[str, Decimal] = {}
        for row in rows_of(await self._rest.query(Endpoint.LEVERAGE_GET, "/v1/client/leverages")):
            value = parsing.decimal_or_none(row.get("leverage"))
            if value is not None and str(row.get("margin_mode") or MarginMode.CROSS) == MarginMode.CROSS:
                chosen[str(row.get("symbol"))] = value
        return chosen

    async def set_leverage(self, symbol: str, leverage: int) -> SubmitResult:
        """Plural path first, the singular one where that does not exist (section 9). 5 calls a minute.

        The symbol is always named: without it every symbol's leverage would change.
        """
        body = {"symbol": symbol, "leverage": leverage, "margin_mode": MarginMode.CROSS.value}
        answer = await self._rest.command(Endpoint.LEVERAGE_SET, "POST", "/v1/client/leverages", body)
        if _is_missing_path(answer):
            answer = await self._rest.command(Endpoint.LEVERAGE_SET, "POST", "/v1/client/leverage", body)
        return answer

    async def transfers(self, since: datetime) -> tuple[Transfer, ...]:
        """Deposits and withdrawals of every token since a time (`GET /v1/asset/history`, section 10), oldest first, valued in USDC.

        A deposit counts once completed, a withdrawal from its request on, when the exchange takes it out of the account; a failed one
        never. The account's value holds other tokens at their index price. A token without one is left out, and told in the log.
        """
        path = f"/v1/asset/history?start_t={parsing.milliseconds(since - _LONGEST_TRANSFER)}&page=1&size=500"
        rows = rows_of(await self._rest.found(Endpoint.ASSET_HISTORY, path))
        prices = await self._token_prices({str(row.get("token") or _USDC) for row in rows})
        found = [transfer_of(row, prices) for row in rows]
        return tuple(sorted((one for one in found if one is not None), key=lambda one: one.flow.at))

    async def _token_prices(self, tokens: set[str]) -> dict[str, Decimal]:
        """USDC per token: its market's index price, and 1 for other dollars. Asks nothing while only USDC moved."""
        prices = {token: _ONE for token in tokens if "USD" in token}
        if tokens <= prices.keys():
            return prices
        rows = rows_of(await self._rest.found(Endpoint.PUBLIC, "/v1/public/futures", is_signed=False))
        indices = marks_of(rows, price="index_price")
        for token in sorted(tokens - prices.keys()):
            # Wrapped and staked coins have no market of their own: WETH, WBTC.
            price = indices.get(f"PERP_{token}_USDC") or indices.get(f"PERP_{token.removeprefix('W')}_USDC")
            if price is None:
                log.warning("transfer_not_valued", token=token)
            else:
                prices[token] = price
        return prices

    async def funding_payments(self, since: datetime) -> tuple[FundingPayment, ...]:
        """Funding paid and received since a time, as the exchange lists it (latest first, at most 500)."""
        path = f"/v1/funding_fee/history?start_t={parsing.milliseconds(since)}&page=1&size=500"
        payments = []
        for row in rows_of(await self._rest.found(Endpoint.FUNDING_HISTORY, path)):
            fee = parsing.decimal_or_none(row.get("funding_fee"))
            if fee is not None:
                payments.append(
                    FundingPayment(
                        symbol=str(row.get("symbol")),
                        fee=-abs(fee) if row.get("payment_type") == "Receive" else fee,
                        rate=parsing.decimal_or_none(row.get("funding_rate")),
                        mark_price=parsing.decimal_or_none(row.get("mark_price")),
                        status=str(row.get("status") or ""),
                        created_at=parsing.moment(row.get("created_time")),
                    )
                )
        return tuple(payments)


def transfer_of(row: Mapping[str, Any], prices: Mapping[str, Decimal]) -> Transfer | None:
    """From a row of the asset history; None for one that moved nothing, has no price, or cannot be read."""
    price = prices.get(str(row.get("token") or _USDC))
    amount, side = parsing.decimal_or_none(row.get("amount")), row.get("side")
    status = str(row.get("trans_status") or "").upper()
    is_deposit = side == "DEPOSIT"
    moment = parsing.moment(row.get("updated_time") if is_deposit else row.get("created_time"))
    if amount is None or price is None or moment is None or not row.get("id") or side not in ("DEPOSIT", "WITHDRAW"):
        return None
    if status == "FAILED" or (is_deposit and status != "COMPLETED"):
        return None
    value = amount * price
    return Transfer(str(row["id"]), Flow(moment, value if is_deposit else -value))


def system_info_of(data: Mapping[str, Any]) -> SystemInfo:
    """From `system_info`, or from an entry of the topic `maintenance_status`."""
    planned = data.get("scheduled_maintenance")
    window = planned if isinstance(planned, Mapping) else {}
    message = data.get("msg")
    return SystemInfo(
        is_maintenance=parsing.integer_or_none(data.get("status")) == 2,
        message=message if isinstance(message, str) else "",
        starts_at=parsing.moment(window.get("startTime") or window.get("start_time")),
        ends_at=parsing.moment(window.get("endTime") or window.get("end_time")),
    )


def key_info_of(row: Mapping[str, Any]) -> KeyInfo:
    addresses = row.get("ip_restriction_list")
    if isinstance(addresses, str):
        addresses = addresses.split(",")
    return KeyInfo(
        orderly_key=str(row.get("orderly_key") or ""),
        scopes=frozenset(scope.strip() for scope in str(row.get("scope") or "").split(",") if scope.strip()),
        expires_at=parsing.moment(row.get("expiration")),
        tag=str(row.get("tag") or ""),
        status=str(row.get("key_status") or ""),
        ip_rule=str(row.get("ip_restriction_status") or ""),
        ip_list=tuple(str(address).strip() for address in addresses or () if str(address).strip()),
    )


def marks_of(rows: list[Mapping[str, Any]], *, price: str) -> dict[str, Decimal]:
    """Symbol -> mark price, without the rows that have none."""
    found: dict[str, Decimal] = {}
    for row in rows:
        value = parsing.decimal_or_none(row.get(price))
        if value is not None and value > 0 and isinstance(row.get("symbol"), str):
            found[row["symbol"]] = value
    return found


def _is_missing_path(answer: SubmitResult) -> bool:
    if isinstance(answer, Rejected):
        return answer.code == "orderly:-1006"
    return getattr(answer, "reason", "").startswith("HTTP 404")
