"""Every stable code a trader can meet: its HTTP status, what it means and how to fix it.

One table, read by the listener (status), by `kekbridge explain --codes` and by the tests that provoke each code.
Data only: nothing here decides anything.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """A published outcome: `status` is the HTTP status of the answer that carries it (None: never an HTTP answer)."""

    name: str
    status: int | None
    meaning: str
    fix: str


_TABLE: tuple[tuple[str, int | None, str, str], ...] = (
    # ------------------------------------------------------------------------------------------------ unreadable (400)
    ("empty_body", 400, "The request had no body.", "Set alert_message on every order of the strategy, or write a message in the alert."),
    ("invalid_json", 400, "The body is not one JSON object.", "Paste the line that `kekbridge template` prints; check quotes and commas at the place named."),
    ("not_an_order", 400, "The body is plain text, such as TradingView's default message.", "Replace the alert's message by the line that `kekbridge template` prints."),
    ("invalid_encoding", 400, "The body is not UTF-8, or is compressed.", "Send plain UTF-8 without Content-Encoding."),
    ("duplicate_key", 400, "A JSON key occurs twice.", "Remove one of the two."),
    ("field_invalid", 400, "A field has a value that cannot be read.", "Write the field as the message names it."),
    ("body_timeout", 408, "The body did not arrive in time.", "Send the whole body at once."),
    ("body_too_large", 413, "The body is over 64 KiB.", "An alert needs a few hundred bytes; remove what is not needed."),
    ("method_not_allowed", 405, "Alerts are POSTed.", "Use POST."),
    ("not_found", 404, "There is nothing at this path.", "The webhook path is /api/webhooks/tradingview."),
    # -------------------------------------------------------------------------------------------- who are you (401, 403)
    ("unauthorized", 401, "Unknown key, missing or wrong signature, or a stale timestamp.", "`kekbridge logs` names the real reason; `kekbridge template NAME` prints a fresh message."),
    ("signature_missing", 401, "The webhook requires a proof and the request carries none.", "Use the message of `kekbridge template NAME`, or sign the body."),
    ("signature_invalid", 401, "The proof does not fit the message.", "A signed field was changed; print the message again with `kekbridge template NAME`."),
    ("api_key_missing", 401, "The message has no apiKey.", "Add apiKey, or use `kekbridge template NAME`."),
    ("api_key_unknown", 401, "No valid webhook key equals this apiKey.", "See `kekbridge webhook show NAME`; expired and deleted keys are unknown."),
    ("timestamp_missing", 401, "The message has no timestamp.", 'Add "timestamp":"{{timenow}}", or create the webhook with --no-require-timestamp.'),
    ("timestamp_stale", 401, "The alert is older than the webhook allows.", "Use {{timenow}}, not {{time}}: {{time}} is the opening of the bar."),
    ("timestamp_future", 401, "The alert's timestamp lies in the future.", "Check the clocks of the sender and of this machine."),
    ("webhook_disabled", 403, "The webhook is switched off.", "kekbridge webhook enable NAME"),
    ("address_not_allowed", 403, "The sender's address is not on the allowlist.", "See `kekbridge webhook show NAME`; the word `tradingview` allows TradingView's addresses."),
    ("certificate_not_allowed", 403, "The request did not come with a pinned client certificate.", "See auth.client_certificates; the proxy must pass the fingerprint on and be in server.trusted_proxies."),
    ("alert_id_reused", 409, "The same alertId came before with another content.", "Give every alert its own alertId."),
    ("rate_limited", 429, "More alerts than the webhook, or all of them together, may send.", "Wait for retryAfter seconds, or raise --rate-per-minute, --rate-per-hour or --rate-per-day, or [risk] rate_per_minute."),
    ("locked_out", 429, "Too many failed authentications from this address.", "Wait for retryAfter seconds and fix the sender's key."),
    # ------------------------------------------------------------------------------------- what does the alert say (422)
    ("placeholder_unexpanded", 422, "A {{placeholder}} was not replaced by TradingView.", "Strategy placeholders work in strategy alerts only, none works inside alert(); TradingView does no arithmetic."),
    ("action_missing", 422, "The message has no action.", "Add action: buy, sell or close."),
    ("action_unknown", 422, "The action is not known.", "Use buy, sell, close, flip, cancel or ping."),
    ("quantity_missing", 422, "An opening order needs a quantity.", "Add quantity, or give the webhook a default quantity."),
    ("quantity_not_a_number", 422, "The quantity is not a plain decimal number.", "Write 1250.5, not 1,250.5."),
    ("quantity_not_positive", 422, "The quantity is zero or negative.", 'str.format("{0}") keeps three decimals only: use str.tostring.'),
    ("quantity_type_missing", 422, "A percent quantity on an opening order says not of what.", "Add quantityType: percent_equity, percent_position or risk_percent."),
    ("quantity_type_unknown", 422, "The quantityType is not known.", "Use base, usd, percent_equity, percent_position or risk_percent."),
    ("quantity_type_unsupported", 422, "This quantityType cannot be used here.", "Use base, or add what the type needs."),
    ("quantity_too_small", 422, "After rounding down to the exchange's step nothing tradable is left.", "Send at least the size named in the message."),
    ("price_missing", 422, "This order type needs a price.", "Add limitPrice (or price); for stops add triggerPrice."),
    ("price_invalid", 422, "A price is not a positive plain decimal number.", "Write it like 65000.5."),
    ("order_type_unknown", 422, "The orderType is not known.", "Use market, limit, stop, stop_limit, ioc, fok or post_only."),
    ("order_type_unsupported", 422, "This orderType cannot be used here.", "Use market or limit."),
    ("stop_loss_empty", 422, "stopLoss is there but empty: it would leave the position without its stop.", "Fill it, or remove the field."),
    ("take_profit_empty", 422, "takeProfit is there but empty.", "Fill it, or remove the field."),
    ("stop_loss_wrong_side", 422, "The stop loss lies on the wrong side of the price and would fire at once.", "Below the price for a long, above for a short."),
    ("take_profit_wrong_side", 422, "The take profit lies on the wrong side of the price.", "Above the price for a long, below for a short."),
    ("stop_loss_invalid", 422, "The stop loss cannot be read.", "Write a price, or a percent of the entry such as 2%."),
    ("take_profit_invalid", 422, "The take profit cannot be read.", "Write a price, a percent of the entry such as 4%, or a list with shares."),
    ("trailing_stop_invalid", 422, "The trailing stop cannot be read.", "Write a distance in price, or in percent such as 1.5%."),
    ("leverage_invalid", 422, "The leverage is not a whole number from 1 to 100.", "Write it like 5."),
    ("slippage_invalid", 422, "The slippage is not a fraction or percent between 0 and 100 %.", 'Write it like "0.5%".'),
    ("inconsistent_position", 422, "action, quantity and the position fields contradict each other.", "Take all of them from the strategy.* placeholders."),
    ("position_missing", 422, "The webhook follows the strategy's position and the message does not say it.", "Use the message of `kekbridge template NAME --kind position`."),
    ("symbol_missing", 422, "The message has no symbol.", 'Add "symbol":"{{ticker}}".'),
    ("symbol_invalid", 422, "The symbol is not a plain ticker.", 'Use "{{ticker}}", for instance BTCUSDT.P.'),
    ("symbol_unknown", 422, "The exchange lists no such market.", "See the suggestions in the message, or add an alias to the webhook."),
    ("symbol_ambiguous", 422, "The ticker fits more than one market.", "Use the exchange's own name, such as PERP_BTC_USDC."),
    ("symbol_not_tradable", 422, "The ticker is an index, a dated future, an option or a data series.", "Put the alert on the perpetual's chart."),
    ("symbol_unit_mismatch", 422, "The market trades units of 1,000 coins, the ticker single coins.", "Use the 1000-unit ticker, or create the webhook with --rescale-units."),
    ("symbol_exchange_refused", 422, "The data comes from a venue whose prices do not belong to this market.", "Put the alert on a crypto venue's chart, or add an alias to the webhook."),
    ("delayed_data", 422, "The chart's data is delayed.", "Use a real-time data feed."),
    # --------------------------------------------------------------------------------------------- may it trade (422)
    ("trading_halted", 422, "Trading is halted.", "kekbridge resume"),
    ("exits_only", 422, "Only exits are allowed now.", "kekbridge resume"),
    ("not_ready", 422, "The bridge does not know the account well enough to open a position.", "GET /readyz says why; exits are queued."),
    ("no_mark_price", 422, "No recent mark price is known for the symbol.", "Wait for the exchange's prices; GET /readyz says more."),
    ("symbol_not_allowed", 422, "The symbol is not among the webhook's allowed symbols.", "kekbridge webhook edit NAME --allowed-symbols …"),
    ("order_too_small", 422, "The order is under the smallest size allowed.", "Raise the quantity, or lower --min-order-size."),
    ("order_too_large", 422, "The order is over the largest size allowed.", "Lower the quantity, or raise --max-order-size."),
    ("notional_too_large", 422, "The order's value is over the limit.", "Lower the quantity, or raise --max-notional."),
    ("position_too_large", 422, "With this order the position would be over the limit.", "Lower the quantity, or raise --max-position-size."),
    ("daily_limit", 422, "The day's traded value would be over the limit.", "It resets at 00:00 UTC; or raise --daily-limit."),
    ("daily_orders", 422, "The day's number of orders is used up.", "It resets at 00:00 UTC; or raise --daily-orders."),
    ("daily_loss", 422, "The day's loss is over the cut-off.", "It resets at 00:00 UTC."),
    ("drawdown", 422, "Equity fell from its peak by more than the limit.", "kekbridge risk show; kekbridge resume --reset-peak"),
    ("leverage_too_high", 422, "The leverage would be over the limit.", "Lower the quantity or leverage, or raise --max-leverage."),
    ("too_many_positions", 422, "The number of open positions is used up.", "Close one, or raise --max-open-positions."),
    ("stop_loss_required", 422, "The webhook requires a stop loss.", "Add stopLoss as a price or a percent."),
    ("stop_loss_too_far", 422, "The stop loss is farther away than allowed.", "Move it nearer, or raise --max-stop-distance."),
    ("margin_insufficient", 422, "The free collateral does not cover the order's margin.", "Lower the quantity, or deposit."),
    ("slippage_too_high", 422, "The market is farther from the signal's price than allowed.", "Raise slippage or --max-slippage, or check the chart's venue."),
    ("cooldown", 422, "The last entry in this symbol is too recent.", "Wait, or lower --cooldown."),
    ("outside_trading_hours", 422, "Entries are not allowed at this time.", "See --trading-hours."),
    ("market_closed", 422, "The market takes no such order now.", "See the market's status."),
    ("queue_full", 422, "Too many orders are waiting.", "Raise queue.max_waiting, or send less."),
    # ------------------------------------------------------------------------------------- what became of it (orders)
    ("nothing_to_close", 200, "The account is flat in this symbol: there was nothing to close.", "Nothing to do."),
    ("already_in_position", 200, "The position already is what the alert asks for, or going there would re-open what was closed.", "Nothing to do."),
    ("out_of_date", 200, "A newer alert of the same strategy came before this one: the position follows that one.", "Nothing to do."),
    ("pong", 200, "Heartbeat received and stored; nothing was traded.", "Nothing to do."),
    ("alert_expired", 422, "The alert waited longer than it may; it was not sent.", "See queue.max_age_s."),
    ("exchange_rejected", 422, "The exchange refused the order; its code and message are given.", "See the exchange's message."),
    ("exchange_unreachable", 422, "The exchange could not be reached; the order was proven not to be there.", "Check the network; GET /readyz."),
    ("exchange_busy", 422, "The exchange took no order (rate limit or maintenance) until the alert was too old.", "Try later."),
    ("overtaken_by_exit", 422, "A later alert closed the position before the entry could be sent; the entry was dropped.", "Nothing to do."),
    ("leverage_not_set", 422, "The order asks for a leverage that the exchange did not set in time; the order was not sent.", "Set the leverage in the exchange's front end, or leave leverage out; 5 changes a minute are allowed."),
    ("outcome_unknown", 200, "The order was sent and no answer came; it is being looked up and is never sent again blindly.", "kekbridge explain ALERT; look at the exchange."),
    ("canceled_by_alert", 422, "A later alert cancelled the order before it was sent.", "Nothing to do."),
    ("cancel_failed", 422, "Not every order could be cancelled.", "kekbridge explain ALERT names them; kekbridge orders --open."),
    ("earlier_leg_failed", 422, "An earlier step of the same alert did not succeed.", "See the earlier step in `kekbridge explain`."),
    # ------------------------------------------------------------------------------------------------------ our fault (503)
    # A bug may strike after the alert was stored, so it must not ask for a resend; the same bytes would meet the same bug anyway.
    ("internal_error", 422, "kekbridge failed on this request; whether it was stored is not known.", "kekbridge logs; report the traceback from the daemon's log."),
    ("store_unavailable", 503, "The alert could not be stored; it is safe to send again.", "Check disk space and permissions of the data directory."),
    # ------------------------------------------------------------------------------------------------- operator (exit codes)
    ("config_invalid", None, "A setting is wrong.", "kekbridge config check"),
    ("vault_unavailable", None, "There is no place for secrets.", "kekbridge vault status"),
    ("already_running", None, "Another daemon uses this data directory.", "Stop it, or use another --data-dir."),
)  # fmt: skip

CODES: dict[str, Code] = {name: Code(name, status, meaning, fix) for name, status, meaning, fix in _TABLE}


def status_of(code: str) -> int:
    """HTTP status for a code. Codes of the exchange (`orderly:-1102`) are 422: understood, refused there."""
    known = CODES.get(code)
    if known is None or known.status is None:
        return 422
    return known.status
