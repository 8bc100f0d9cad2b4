"""REST calls for the account, its keys and the markets: everything besides orders.

Sends through `OrdersApi`, by the same rules: queries raise ExchangeUnavailable if no usable reply came.
Calls: docs/internals/orderly.md sections 3, 4, 9 and 10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from kekbridge.exchange.base import (
    ClosedPosition,
    FundingPayment,
    KeyInfo,
    LiquidatedPart,
    Rejected,
    SubmitResult,
    Transfer,
)
from kekbridge.exchange.orderly import parsing
from kekbridge.exchange.orderly.classify import Found, Missing
from kekbridge.exchange.orderly.orders_api import OrdersApi, rows_of
from kekbridge.exchange.orderly.rate_limiter import Endpoint
from kekbridge.log import get_logger
from kekbridge.model import ZERO, Flow, MarginMode

log = get_logger("kekbridge.exchange.orderly.account_api")

# The exchange filters by the time of the request; a deposit counts from its completion, hours later at worst.
_MAX_TRANSFER_TIME: Final = timedelta(days=1)
_USDC: Final = "USDC"
_ONE: Final = Decimal(1)
# Lines of the history of positions: what is read once a minute, and the most that the exchange gives.
_FEW_CLOSED: Final = 50
_MOST_CLOSED: Final = 500
_MARGIN_MODES: Final = frozenset(MarginMode)
_LIQUIDATION_FEES: Final = ("abs_liquidator_fee", "abs_insurance_fund_fee")
# What the realized P&L of the history of positions is after.
_POSITION_COSTS: Final = ("trading_fee", "accumulated_funding_fee", "insurance_fund_fee", "liquidator_fee")


@dataclass(frozen=True, slots=True)
class SystemInfo:
    """The exchange's own status, and maintenance that it announced."""

    #: Maintenance is in progress (`status` 2; 0 is normal).
    is_maintenance: bool
    #: The exchange's explanation; may be empty.
    message: str
    #: Announced begin (UTC); None if nothing is announced.
    starts_at: datetime | None = None
    #: Announced end (UTC).
    ends_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner of an account."""

    #: Wallet address.
    address: str
    #: Broker under which the account was registered.
    broker_id: str


class AccountApi:
    """Account, key and market calls, sent through an `OrdersApi`."""

    def __init__(self, orders_api: OrdersApi) -> None:
        self._orders_api = orders_api

    # ------------------------------------------------------------------------------------------------------------- public

    async def system_info(self) -> SystemInfo:
        reply = await self._orders_api.query_existing(Endpoint.SYSTEM_INFO, "/v1/public/system_info", is_signed=False)
        return system_info_of(reply.data)

    async def rules(self) -> list[Mapping[str, Any]]:
        """The trading rules of every symbol: rows of `/v1/public/info`."""
        return rows_of(await self._orders_api.query_existing(Endpoint.PUBLIC, "/v1/public/info", is_signed=False))

    async def rwa_symbols(self) -> frozenset[str]:
        """The markets of real-world assets, which have a fee rate of their own (section 3); none if the call does not exist."""
        reply = await self._orders_api.query(Endpoint.PUBLIC, "/v1/public/rwa/info", is_signed=False)
        return frozenset(str(row["symbol"]) for row in rows_of(reply) if row.get("symbol"))

    async def marks(self) -> dict[str, Decimal]:
        """Mark prices of all symbols, without those that have none (null, section 4)."""
        rows = rows_of(await self._orders_api.query_existing(Endpoint.PUBLIC, "/v1/public/futures", is_signed=False))
        return prices_of(rows, "mark_price")

    async def owner(self, account_id: str) -> Owner | None:
        """Wallet and broker of an account (section 3); None if there is no such account."""
        path = f"/v1/public/account?account_id={account_id}"
        reply = await self._orders_api.query(Endpoint.PUBLIC, path, is_signed=False)
        if isinstance(reply, Missing):
            return None
        return Owner(str(reply.data.get("address") or ""), str(reply.data.get("broker_id") or ""))

    async def key(self, account_id: str, orderly_key: str) -> KeyInfo | None:
        """A registered key; None if the account has no such key. Unsigned, so that it works with a broken key."""
        path = f"/v1/get_orderly_key?account_id={account_id}&orderly_key={orderly_key}"
        reply = await self._orders_api.query(Endpoint.PUBLIC, path, is_signed=False)
        return None if isinstance(reply, Missing) else key_info_of(reply.data)

    # ------------------------------------------------------------------------------------------------------------- signed

    async def positions(self) -> Found:
        """`/v1/positions`: totals and rows, with the exchange's time of the reply."""
        return await self._orders_api.query_existing(Endpoint.POSITIONS, "/v1/positions")

    async def client_info(self) -> Mapping[str, Any]:
        """Account settings: fee rates in basis points, maximum leverage. At most 10 calls a minute."""
        return (await self._orders_api.query_existing(Endpoint.CLIENT_INFO, "/v1/client/info")).data

    async def keys(self) -> tuple[KeyInfo, ...]:
        """All keys of the account with their address rules. At most 10 calls a minute."""
        return tuple(
            key_info_of(row)
            for row in rows_of(await self._orders_api.query_existing(Endpoint.KEY_INFO, "/v1/client/key_info"))
        )

    async def leverages(self) -> dict[tuple[str, MarginMode], Decimal]:
        """Leverage by symbol and margin mode, as far as the exchange reports it; empty if the call does not exist."""
        chosen: dict[tuple[str, MarginMode], Decimal] = {}
        for row in rows_of(await self._orders_api.query(Endpoint.LEVERAGE_GET, "/v1/client/leverages")):
            value = parsing.decimal_or_none(row.get("leverage"))
            if value is not None:
                chosen[str(row.get("symbol")), parsing.margin_mode_or_cross(row)] = value
        return chosen

    async def set_leverage(self, symbol: str, leverage: int) -> SubmitResult:
        """Set the cross leverage of one symbol, by the plural path, or the singular one where that does not exist (section 9).

        At most 5 calls a minute. Always sends the symbol: without it every symbol's leverage would change.
        """
        body = {"symbol": symbol, "leverage": leverage, "margin_mode": MarginMode.CROSS.value}
        result = await self._orders_api.command(Endpoint.LEVERAGE_SET, "POST", "/v1/client/leverages", body)
        if _is_missing_path(result):
            result = await self._orders_api.command(Endpoint.LEVERAGE_SET, "POST", "/v1/client/leverage", body)
        return result

    async def transfers(self, since: datetime) -> tuple[Transfer, ...]:
        """Deposits and withdrawals of every token since a time, valued in USDC, oldest first (`GET /v1/asset/history`, section 10).

        A deposit counts once completed, a withdrawal from its request on, when the exchange debits the account; a failed one never.
        The account value holds other tokens at their index price; a token without one is left out and logged.
        """
        path = f"/v1/asset/history?start_t={parsing.milliseconds(since - _MAX_TRANSFER_TIME)}"
        rows = await self._orders_api.rows(Endpoint.ASSET_HISTORY, path)
        prices = await self._token_prices({str(row.get("token") or _USDC) for row in rows})
        transfers = (transfer_of(row, prices) for row in rows)
        return tuple(sorted((each for each in transfers if each is not None), key=lambda each: each.flow.at))

    async def _token_prices(self, tokens: set[str]) -> dict[str, Decimal]:
        """USDC per token: 1 for dollar tokens, else the index price of its market. No request if only dollars moved."""
        prices = {token: _ONE for token in tokens if "USD" in token}
        if tokens <= prices.keys():
            return prices
        rows = rows_of(await self._orders_api.query_existing(Endpoint.PUBLIC, "/v1/public/futures", is_signed=False))
        indices = prices_of(rows, "index_price")
        for token in sorted(tokens - prices.keys()):
            # Wrapped and staked coins have no market of their own: WETH, WBTC.
            price = indices.get(f"PERP_{token}_USDC") or indices.get(f"PERP_{token.removeprefix('W')}_USDC")
            if price is None:
                log.warning("transfer_not_valued", token=token)
            else:
                prices[token] = price
        return prices

    async def funding_payments(self, since: datetime) -> tuple[FundingPayment, ...]:
        """Funding paid and received since a time, in the exchange's order."""
        path = f"/v1/funding_fee/history?start_t={parsing.milliseconds(since)}"
        payments = []
        for row in await self._orders_api.rows(Endpoint.FUNDING_HISTORY, path, _funding_key):
            fee = parsing.decimal_or_none(row.get("funding_fee"))
            if fee is not None:
                payments.append(
                    FundingPayment(
                        symbol=str(row.get("symbol")),
                        fee=-abs(fee) if row.get("payment_type") == "Receive" else fee,
                        rate=parsing.decimal_or_none(row.get("funding_rate")),
                        mark_price=parsing.decimal_or_none(row.get("mark_price")),
                        status=str(row.get("status") or ""),
                        created_at=parsing.datetime_or_none(row.get("created_time")),
                        margin_mode=parsing.margin_mode_or_cross(row),
                    )
                )
        return tuple(payments)

    async def liquidations(self, since: datetime) -> tuple[LiquidatedPart, ...]:
        """The parts of positions that liquidations took over since a time, oldest first (section 10)."""
        path = f"/v1/liquidations?start_t={parsing.milliseconds(since)}"
        rows = await self._orders_api.rows(Endpoint.LIQUIDATIONS, path, lambda row: row.get("liquidation_id"))
        found = [part for row in rows for part in liquidations_of(row)]
        return tuple(sorted(found, key=lambda each: each.at))

    async def closed_positions(self, since: datetime) -> tuple[ClosedPosition, ...]:
        """The lines of the history of positions that changed since a time, oldest first (section 9). The list has no pages."""
        for limit in (_FEW_CLOSED, _MOST_CLOSED):
            rows = rows_of(
                await self._orders_api.query(Endpoint.POSITION_HISTORY, f"/v1/position_history?limit={limit}")
            )
            lines = [line for line in map(closed_position_of, rows) if line is not None]
            if len(rows) < limit or any(line.closed_at < since for line in lines):
                break
        else:
            log.warning("position_history_cut", lines=len(rows), since=since)  # the exchange gives no more
        return tuple(sorted((line for line in lines if line.closed_at >= since), key=lambda line: line.closed_at))

    async def margin_modes(self) -> dict[str, MarginMode]:
        """The default margin mode by symbol; empty if the call does not exist."""
        chosen: dict[str, MarginMode] = {}
        for row in rows_of(await self._orders_api.query(Endpoint.MARGIN_MODES, "/v1/client/margin_modes")):
            mode = str(row.get("default_margin_mode")).upper()
            if mode in _MARGIN_MODES and row.get("symbol"):
                chosen[str(row["symbol"])] = MarginMode(mode)
        return chosen


def liquidations_of(row: Mapping[str, Any]) -> list[LiquidatedPart]:
    """Parse a row of `/v1/liquidations`: one part for each market; parts that cannot be read are left out."""
    name, at = parsing.identifier(row.get("liquidation_id")), parsing.datetime_or_none(row.get("timestamp"))
    parts = row.get("positions_by_perp")
    found: list[LiquidatedPart] = []
    for part in parts if name and at and isinstance(parts, list) else ():
        quantity = parsing.decimal_or_none(part.get("position_qty"))
        price = parsing.decimal_or_none(part.get("transfer_price")) or parsing.decimal_or_none(part.get("mark_price"))
        if quantity and price and part.get("symbol") and name and at:
            fees = (parsing.decimal_or_none(part.get(field)) or ZERO for field in _LIQUIDATION_FEES)
            found.append(LiquidatedPart(name, str(part["symbol"]), quantity, price, sum(map(abs, fees), ZERO), at))
    return found


def closed_position_of(row: Mapping[str, Any]) -> ClosedPosition | None:
    """Parse a row of `/v1/position_history`; None if it cannot be read."""
    name = parsing.identifier(row.get("position_id"))
    closed_at = parsing.datetime_or_none(row.get("last_update_timestamp") or row.get("close_timestamp"))
    opened_at = parsing.datetime_or_none(row.get("open_timestamp"))
    quantity, price = parsing.decimal_or_none(row.get("closed_position_qty")), row.get("avg_close_price")
    net = parsing.decimal_or_none(row.get("realized_pnl"))
    if name is None or closed_at is None or opened_at is None or quantity is None or net is None:
        return None
    costs = (parsing.decimal_or_none(row.get(field)) or ZERO for field in _POSITION_COSTS)
    return ClosedPosition(
        id=name,
        kind=str(row.get("type") or "normal").lower(),
        symbol=str(row.get("symbol")),
        margin_mode=parsing.margin_mode_or_cross(row),
        is_long=str(row.get("side")).upper() != "SHORT",
        quantity=abs(quantity),
        average_close=parsing.decimal_or_none(price) or ZERO,
        realized_pnl=sum(costs, net),
        opened_at=opened_at,
        closed_at=closed_at,
    )


def _funding_key(row: Mapping[str, Any]) -> object:
    """Payments have no id: a position pays once at a time."""
    return row.get("symbol"), row.get("created_time"), row.get("margin_mode")


def transfer_of(row: Mapping[str, Any], prices: Mapping[str, Decimal]) -> Transfer | None:
    """Parse a row of the asset history; None if it is no transfer yet, its token has no price in USDC, or it cannot be read.

    A withdrawal that failed moved nothing in the end: its value is zero.
    """
    price = prices.get(str(row.get("token") or _USDC))
    amount, side = parsing.decimal_or_none(row.get("amount")), row.get("side")
    status = str(row.get("trans_status") or "").upper()
    is_deposit = side == "DEPOSIT"
    at = parsing.datetime_or_none(row.get("updated_time") if is_deposit else row.get("created_time"))
    if amount is None or price is None or at is None or not row.get("id") or side not in ("DEPOSIT", "WITHDRAW"):
        return None
    if is_deposit and status != "COMPLETED":
        return None
    value = ZERO if status == "FAILED" else amount * price  # a failed withdrawal was debited at first
    return Transfer(str(row["id"]), Flow(at, value if is_deposit else -value))


def system_info_of(data: Mapping[str, Any]) -> SystemInfo:
    """Parse `system_info`, or one entry of the topic `maintenance_status`."""
    planned = data.get("scheduled_maintenance")
    window = planned if isinstance(planned, Mapping) else {}
    message = data.get("msg")
    return SystemInfo(
        is_maintenance=parsing.integer_or_none(data.get("status")) == 2,
        message=message if isinstance(message, str) else "",
        starts_at=parsing.datetime_or_none(window.get("startTime") or window.get("start_time")),
        ends_at=parsing.datetime_or_none(window.get("endTime") or window.get("end_time")),
    )


def key_info_of(row: Mapping[str, Any]) -> KeyInfo:
    """Parse a registered key; what is missing stays empty."""
    addresses = row.get("ip_restriction_list")
    if isinstance(addresses, str):
        addresses = addresses.split(",")
    return KeyInfo(
        orderly_key=str(row.get("orderly_key") or ""),
        scopes=frozenset(scope.strip() for scope in str(row.get("scope") or "").split(",") if scope.strip()),
        expires_at=parsing.datetime_or_none(row.get("expiration")),
        tag=str(row.get("tag") or ""),
        status=str(row.get("key_status") or ""),
        ip_rule=str(row.get("ip_restriction_status") or ""),
        ip_list=tuple(str(address).strip() for address in addresses or () if str(address).strip()),
    )


def prices_of(rows: list[Mapping[str, Any]], field: str) -> dict[str, Decimal]:
    """Symbol -> price in that field, without the rows that have none."""
    prices: dict[str, Decimal] = {}
    for row in rows:
        value = parsing.decimal_or_none(row.get(field))
        if value is not None and value > 0 and isinstance(row.get("symbol"), str):
            prices[row["symbol"]] = value
    return prices


def _is_missing_path(result: SubmitResult) -> bool:
    if isinstance(result, Rejected):
        return result.code == "orderly:-1006"
    return getattr(result, "reason", "").startswith("HTTP 404")
