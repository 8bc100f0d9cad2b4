"""Equity job: record the account value and its peak every minute, and stop entries when a loss limit is breached between alerts.

Admission checks the same limits for each alert (planning/decide.py); this job covers losses while no alert arrives. Sends no order.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta

from kekbridge.exchange.base import Exchange, FundingPayment, Transfer
from kekbridge.execution.book import Book
from kekbridge.log import get_logger
from kekbridge.model import AccountSnapshot, LimitBreach, Limits, Usage, Webhook
from kekbridge.risk.account_exposure import AccountExposure
from kekbridge.risk.drawdown import drawdown_of, follow_peak, loss_of_day, next_midnight
from kekbridge.risk.limits import percent, usdc
from kekbridge.store import equity, webhooks
from kekbridge.store import equity as marks
from kekbridge.store.database import Database

log = get_logger("kekbridge.ops.equity")

MARK_EVERY_S = 60.0
_LATE_FUNDING = timedelta(hours=1)
_FIRST_FUNDING = timedelta(days=30)


class EquityWatch:
    """Job, every `MARK_EVERY_S` seconds. One per daemon."""

    def __init__(
        self,
        *,
        book: Book,
        database: Database,
        exchange: Exchange,
        transfers: Callable[[datetime], Awaitable[Sequence[Transfer]]],
        funding: Callable[[datetime], Awaitable[Sequence[FundingPayment]]],
        account_limits: Limits,
        clock: Callable[[], datetime],
    ) -> None:
        self._book = book
        self._database = database
        self._exchange = exchange
        self._transfers = transfers
        self._funding = funding
        self._account_limits = account_limits
        self._clock = clock

    async def run(self) -> None:
        """Record equity and peak, close breached scopes, store funding payments. Raises ExchangeUnavailable, StoreUnavailable.

        The account is queried before its transfers, so that every transfer in its value is in the list read afterwards.
        """
        since = await self._database.read(marks.flows_wanted_since, now=self._clock())
        snapshot = await self._exchange.refresh()
        flows = [(transfer.id, transfer.flow) for transfer in await self._transfers(since)]
        now = self._clock()
        mark = await self._database.write(marks.record, snapshot, flows, follow_peak, now=now)
        for one in self._close_breached(snapshot, await self._database.read(webhooks.list_all), now):
            log.warning("limit_tripped", scope=one.scope, rule=one.rule, reason=one.reason, until=one.until)
        await self._save_funding(now)
        log.debug("equity", value=mark.value, peak=mark.peak, flow=mark.flow)

    def _close_breached(
        self, snapshot: AccountSnapshot, known: Sequence[Webhook], now: datetime
    ) -> tuple[LimitBreach, ...]:
        """Stop entries of every open scope whose loss or drawdown is over its limit; return the new breaches."""
        closed: list[LimitBreach] = []
        for webhook in known:
            usage = self._book.usage(webhook.id, now=now, cooldown_s=0)
            found = (
                *breaches_of("webhook", webhook.settings.limits, usage, snapshot, now=now),
                *breaches_of("account", self._account_limits, usage, snapshot, now=now),
            )
            closed += [one for one in found if self._book.close_for_breach(one, webhook_id=webhook.id, now=now)]
        return tuple(closed)

    async def _save_funding(self, now: datetime) -> None:
        """Store funding payments for the statistics. The last hour is read again, since the exchange may list a payment late."""
        last = await self._database.read(equity.last_funding_at)
        payments = await self._funding((last or now - _FIRST_FUNDING) - _LATE_FUNDING)
        if payments:
            await self._database.write(_add_funding, payments)


def _add_funding(connection: sqlite3.Connection, payments: Sequence[FundingPayment]) -> None:
    for payment in payments:
        if payment.created_at is not None:
            equity.record_funding(connection, payment.symbol, payment.created_at, payment.fee)


def breaches_of(
    scope: str, limits: Limits, usage: Usage, snapshot: AccountSnapshot, *, now: datetime
) -> Iterable[LimitBreach]:
    """Breached loss limits of one scope; drawdown first, since it lasts longer than a day's loss."""
    drawdown = drawdown_of(usage.equity_peak, snapshot.account_value)
    if limits.max_drawdown is not None and drawdown >= limits.max_drawdown:
        reason = f"drawdown {percent(drawdown)}, limit {percent(limits.max_drawdown)}"
        yield LimitBreach(scope=scope, rule="drawdown", reason=reason, until=None)
    if limits.max_daily_loss is None:
        return
    loss = loss_of_day(AccountExposure(), usage, snapshot, limits.allowed_symbols, scope)
    if loss >= limits.max_daily_loss:
        reason = f"daily_loss: {usdc(loss)}, limit {usdc(limits.max_daily_loss)}"
        yield LimitBreach(scope=scope, rule="daily_loss", reason=reason, until=next_midnight(now))
