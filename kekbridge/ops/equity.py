"""Equity job: record the account value and its peak every minute, and stop entries when a loss limit is breached between alerts.

Admission checks the same limits for each alert (planning/decide.py); this job covers losses while no alert arrives. Sends no order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from kekbridge.errors import KekbridgeError
from kekbridge.exchange.base import Exchange
from kekbridge.execution.account_records import AccountRecords
from kekbridge.execution.book import Book
from kekbridge.log import get_logger
from kekbridge.model import AccountSnapshot, LimitBreach, Limits, Webhook
from kekbridge.risk.drawdown import follow_peak
from kekbridge.risk.limits import breaches_of
from kekbridge.store import equity as marks
from kekbridge.store import webhooks
from kekbridge.store.database import Database

log = get_logger("kekbridge.ops.equity")

MARK_EVERY_S = 60.0


class EquityWatch:
    """Job, every `MARK_EVERY_S` seconds. One per daemon."""

    def __init__(
        self,
        *,
        book: Book,
        database: Database,
        exchange: Exchange,
        records: AccountRecords,
        account_limits: Limits,
        clock: Callable[[], datetime],
    ) -> None:
        self._book = book
        self._database = database
        self._exchange = exchange
        self._records = records
        self._account_limits = account_limits
        self._clock = clock

    async def run(self) -> None:
        """Record equity, peak and what happened to the account; close breached scopes. Raises ExchangeUnavailable, StoreUnavailable.

        The account is queried before its transfers, so that every transfer in its value is in the list read afterwards. Without that list
        there is no mark, since a withdrawal would count as a loss; the other records are read all the same.
        """
        snapshot = await self._exchange.refresh()
        failed: list[KekbridgeError] = []
        try:
            await self._records.read_transfers()
            mark = await self._database.write(marks.record, snapshot, follow_peak, now=self._clock())
            log.debug("equity", value=mark.value, peak=mark.peak, flow=mark.flow)
        except KekbridgeError as error:
            failed.append(error)
        has_mark = not failed
        try:
            await self._records.read_others()
        except KekbridgeError as error:
            failed.append(error)  # the limits are checked with what is known
        if has_mark:
            known = await self._database.read(webhooks.list_all)
            for one in self._close_breached(snapshot, known, self._clock()):
                log.warning("limit_tripped", scope=one.scope, rule=one.rule, reason=one.reason, until=one.until)
        if failed:
            raise failed[0]

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
