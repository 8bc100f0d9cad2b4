"""Every stable code that a trader can get: its HTTP status, meaning and fix.

The listener reads the status, `kekbridge explain --codes` prints the table, tests provoke each code. Data only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """One published code."""

    #: The code itself; never changes.
    name: str
    #: HTTP status of an alert's answer with this code. None: only commands or the API of the web pages report it.
    status: int | None
    #: What happened, one sentence.
    meaning: str
    #: What to do about it.
    fix: str


_TABLE: tuple[tuple[str, int | None, str, str], ...] = (
    # ------------------------------------------------------------------------------------------------ unreadable (400)
    ("empty_body", 400, "The request had no body.", "Set alert_message on every order of the strategy, or enter a message in the alert."),
    ("invalid_json", 400, "The body is not a JSON object.", "Paste the line that `kekbridge template` prints; check quotes and commas at the position given."),
    ("not_an_order", 400, "The body is plain text, such as TradingView's default message.", "Replace the alert's message with the line that `kekbridge template` prints."),
    ("invalid_encoding", 400, "The body is not UTF-8, or it is compressed.", "Send plain UTF-8 without Content-Encoding."),
    ("duplicate_key", 400, "A JSON key occurs more than once.", "Remove the duplicate."),
    ("field_invalid", 400, "A field has an invalid value.", "Write the field as the error message says."),
    ("invalid_http", 400, "The request is not valid HTTP/1.1.", "Send a POST over HTTP/1.1; with TLS use https:// in the URL."),
    ("body_timeout", 408, "The body did not arrive in time.", "Send the whole body at once."),
    ("body_too_large", 413, "The body is larger than 64 KiB.", "An alert needs a few hundred bytes; remove what is not needed."),
    ("method_not_allowed", 405, "Only POST is allowed on the webhook URL.", "Use POST."),
    ("not_found", 404, "No such path.", "Alerts go to the webhook URL that `kekbridge webhook show NAME` prints."),
    # -------------------------------------------------------------------------------------------- authentication (401, 403)
    ("unauthorized", 401, "Unknown key, missing or wrong signature, or missing or stale timestamp.", "`kekbridge logs` shows the exact reason; `kekbridge template NAME` prints a valid message."),
    ("signature_missing", 401, "The webhook requires a signature and the request has none.", "Use the message from `kekbridge template NAME`, or sign the body."),
    ("signature_invalid", 401, "The signature does not match the message.", "A signed field was changed; print the message again with `kekbridge template NAME`."),
    ("api_key_missing", 401, "The message has no apiKey.", "Add apiKey, or use `kekbridge template NAME`."),
    ("api_key_unknown", 401, "No valid webhook key matches this apiKey.", "See `kekbridge webhook show NAME`; expired and deleted keys count as unknown."),
    ("key_in_path_off", 401, "The webhook does not take its key from the URL.", "kekbridge webhook edit NAME --key-in-path, or put the key into the message."),
    ("timestamp_missing", 401, "The message has no timestamp.", 'Add "timestamp":"{{timenow}}", or create the webhook with --no-require-timestamp.'),
    ("timestamp_stale", 401, "The alert is older than the webhook allows.", "Use {{timenow}}, not {{time}}: {{time}} is the opening time of the bar."),
    ("timestamp_future", 401, "The alert's timestamp is in the future.", "Check the clocks of the sender and of this machine."),
    ("webhook_disabled", 403, "The webhook is disabled.", "kekbridge webhook enable NAME"),
    ("address_not_allowed", 403, "The sender's address is not on the allowlist.", "See `kekbridge webhook show NAME`; the value `tradingview` allows TradingView's addresses."),
    ("certificate_not_allowed", 403, "The request has no pinned client certificate.", "See auth.client_certificates; a proxy must forward the fingerprint and be listed in server.trusted_proxies."),
    ("alert_id_reused", 409, "The same alertId with the same time and market, or the same Idempotency-Key, was received before with different content.", "Give every alert its own alertId or Idempotency-Key."),
    ("rate_limited", 429, "Too many entries of this webhook, or of all webhooks together.", "Wait retryAfter seconds, or raise --rate-per-minute, --rate-per-hour or --rate-per-day, or [risk] rate_per_minute."),
    ("too_many_refused", 429, "Too many requests from this address were refused, so further ones are not read.", "Wait retryAfter seconds, and stop what sends messages that are refused; see auth.refusal_burst."),
    ("locked_out", 429, "Too many failed authentication attempts from this address.", "Wait retryAfter seconds and fix the sender's key."),
    # ------------------------------------------------------------------------------------- what the alert says (422)
    ("placeholder_unexpanded", 422, "A {{placeholder}} was not replaced by TradingView.", "Strategy placeholders work only in strategy alerts, and none work inside alert(); TradingView does no arithmetic."),
    ("field_unknown", 422, "A field stands for one that decides the trade (a stop, a type, a side), but its name is none that is read.", "Write the name given in the error message, or remove the field."),
    ("action_missing", 422, "The message has no action.", "Add action: buy, sell or close."),
    ("action_unknown", 422, "The action is unknown.", "Use buy, sell, close, close_long, close_short, close_all, flip, add, cancel, cancel_all or ping."),
    ("quantity_missing", 422, "An opening order needs a quantity.", "Add quantity, or give the webhook a default quantity."),
    ("quantity_not_a_number", 422, "The quantity is not a plain decimal number.", "Write 1250.5, not 1,250.5."),
    ("quantity_not_positive", 422, "The quantity is zero or negative.", 'The side is in action. A zero may come from str.format("{0}"), which keeps only three decimals: use str.tostring.'),
    ("quantity_type_missing", 422, "A percent quantity on an opening order needs a quantityType.", "Add quantityType: percent_equity, percent_position or risk_percent."),
    ("quantity_type_unknown", 422, "The quantityType is unknown.", "Use base, usd, percent_equity, percent_position, risk_percent or risk_usd."),
    ("quantity_type_unsupported", 422, "This quantityType cannot be used here.", "Use base, or add what the type needs."),
    ("quantity_too_small", 422, "Rounded down to the exchange's step, the quantity is zero or below the minimum.", "Send at least the size given in the error message."),
    ("price_missing", 422, "This order type needs a price.", "Add limitPrice (or price); for stops add triggerPrice."),
    ("price_invalid", 422, "A price is not a positive plain decimal number.", "Write it like 65000.5."),
    ("order_type_unknown", 422, "The orderType is unknown.", "Use market, limit, stop, stop_limit, ioc, fok or post_only."),
    ("order_type_unsupported", 422, "This orderType cannot be used here.", "Use market or limit."),
    ("stop_loss_empty", 422, "stopLoss is present but empty: the position would have no stop.", "Fill it in, or remove the field."),
    ("take_profit_empty", 422, "takeProfit is present but empty.", "Fill it in, or remove the field."),
    ("stop_loss_wrong_side", 422, "The stop loss is on the wrong side of the price and would trigger at once.", "Set it below the price for a long, above it for a short."),
    ("take_profit_wrong_side", 422, "The take profit is on the wrong side of the price.", "Set it above the price for a long, below it for a short."),
    ("stop_loss_invalid", 422, "The stop loss is invalid.", "Write a price, or a percent of the entry such as 2%."),
    ("take_profit_invalid", 422, "The take profit is invalid.", "Write a price, a percent of the entry such as 4%, or a list of prices with shares."),
    ("trailing_stop_invalid", 422, "The trailing stop is invalid.", "Write a distance as a price or a percent such as 1.5%."),
    ("leverage_invalid", 422, "The leverage is not a whole number from 1 to 100.", "Write it like 5."),
    ("slippage_invalid", 422, "The slippage is not a fraction or percent between 0 and 100 %.", 'Write it like "0.5%".'),
    ("no_position", 422, "There is no open position to add to.", "Use buy or sell to open one."),
    ("inconsistent_position", 422, "action, quantity and the position fields contradict each other.", "Take all of them from the strategy.* placeholders."),
    ("position_missing", 422, "The webhook follows the strategy's position, but the message does not contain it.", "Use the message from `kekbridge template NAME --kind position`."),
    ("symbol_missing", 422, "The message has no symbol.", 'Add "symbol":"{{ticker}}".'),
    ("symbol_invalid", 422, "The symbol is not a plain ticker.", 'Use "{{ticker}}", for instance BTCUSDT.P.'),
    ("symbol_unknown", 422, "The exchange lists no such market.", "See the suggestions in the error message, or add an alias to the webhook."),
    ("symbol_ambiguous", 422, "The ticker matches more than one market.", "Use the exchange's own name, such as PERP_BTC_USDC."),
    ("symbol_not_tradable", 422, "The ticker is an index, a dated future, an option or a data series.", "Create the alert on the perpetual's chart."),
    ("symbol_unit_mismatch", 422, "The market trades units of 1,000 coins, the ticker trades single coins.", "Use the 1000-unit ticker, or create the webhook with --rescale-units."),
    ("symbol_exchange_refused", 422, "The chart's data comes from a venue whose prices do not belong to this market.", "Create the alert on a crypto venue's chart, or add an alias to the webhook."),
    ("delayed_data", 422, "The chart's data is delayed.", "Use a real-time data feed."),
    # --------------------------------------------------------------------------------------------- limits and trading state (422)
    ("trading_halted", 422, "Trading is halted.", "kekbridge resume; of one webhook: kekbridge resume --webhook NAME"),
    ("exits_only", 422, "Only exits are allowed at present.", "kekbridge resume; of one webhook: kekbridge resume --webhook NAME"),
    ("not_ready", 422, "The bridge does not yet know the account well enough to open a position.", "GET /readyz shows why; exits are queued."),
    ("no_mark_price", 422, "No recent mark price is known for the symbol.", "Wait for the exchange's prices; see GET /readyz."),
    ("symbol_not_allowed", 422, "The symbol is not among the webhook's allowed symbols.", "kekbridge webhook edit NAME --allowed-symbols …"),
    ("order_too_small", 422, "The order is smaller than the minimum size.", "Raise the quantity, or lower --min-order-size."),
    ("order_too_large", 422, "The order is larger than the maximum size.", "Lower the quantity, or raise --max-order-size."),
    ("notional_too_large", 422, "The order's notional value exceeds the limit.", "Lower the quantity, or raise --max-notional."),
    ("position_too_large", 422, "The position would exceed the limit.", "Lower the quantity, or raise --max-position-size."),
    ("daily_limit", 422, "The day's traded value would exceed the limit.", "It resets at 00:00 UTC; or raise --daily-limit."),
    ("daily_orders", 422, "The day's limit on the number of orders is reached.", "It resets at 00:00 UTC; or raise --daily-orders."),
    ("daily_loss", 422, "The day's loss exceeds the limit.", "It resets at 00:00 UTC."),
    ("drawdown", 422, "The drawdown from peak equity exceeds the limit.", "kekbridge risk show; kekbridge resume --reset-peak"),
    ("leverage_too_high", 422, "The leverage would exceed the limit.", "Lower the quantity or leverage, or raise --max-leverage."),
    ("isolated_position", 422, "The order names a leverage, and the market has an isolated position, whose leverage is another one.", "Remove leverage from the message, or close the isolated position: kekbridge close BTC --margin-mode isolated"),
    ("too_many_positions", 422, "The limit on open positions is reached.", "Close one, or raise --max-open-positions."),
    ("stop_loss_required", 422, "The webhook requires a stop loss.", "Add stopLoss as a price or a percent."),
    ("stop_loss_too_far", 422, "The stop loss is farther from the price than allowed.", "Move it closer, or raise --max-stop-distance."),
    ("margin_insufficient", 422, "The free collateral does not cover the order's margin.", "Lower the quantity, or deposit collateral."),
    ("slippage_too_high", 422, "The market price deviates more from the signal's price than allowed.", "Raise slippage or --max-slippage, or check the chart's venue."),
    ("cooldown", 422, "The last entry in this symbol is too recent.", "Wait, or lower --cooldown."),
    ("outside_trading_hours", 422, "Entries are not allowed at this time.", "See --trading-hours."),
    ("market_closed", 422, "The market does not accept this order at present.", "See the market's status on the exchange."),
    ("queue_full", 422, "Too many orders are waiting.", "Raise queue.max_waiting, or send fewer alerts."),
    # ------------------------------------------------------------------------------------- results of orders
    ("nothing_to_close", 200, "There was no position in this symbol to close.", "Nothing to do."),
    ("already_in_position", 200, "The position already matches the alert, or following it would reopen a closed position.", "Nothing to do."),
    ("out_of_date", 200, "A newer alert of the same strategy was received before this one; the position follows the newer one.", "Nothing to do."),
    ("pong", 200, "Ping received and stored; nothing was traded.", "Nothing to do."),
    ("alert_expired", 422, "The alert waited too long and its entry was not sent.", "See queue.max_age_s."),
    ("exchange_rejected", 422, "The exchange rejected the order; its code and message are included.", "See the exchange's message."),
    ("exchange_unreachable", 422, "The exchange could not be reached; it is proven that the order does not exist there.", "Check the network; see GET /readyz."),
    ("exchange_busy", 422, "The exchange accepted no orders (rate limit or maintenance) until the alert was too old.", "Try again later."),
    ("superseded", 422, "The exit was not sent: its position was closed meanwhile, or a later alert of the webhook keeps it open.", "Nothing to do."),
    ("exit_canceled", 422, "The exchange canceled the exit before all of it was filled, within the bound that the alert set (slippage, limit price); the position is still open.", "Send the exit again, with a wider slippage or without one."),
    ("withdrawn", 422, "A stop, take-profit or close that kekbridge had added was not sent: the position does not need it any more.", "Nothing to do."),
    ("overtaken_by_exit", 422, "A later alert closed the position before the entry could be sent; the entry was dropped.", "Nothing to do."),
    ("leverage_not_set", 422, "The exchange did not set the requested leverage in time; the order was not sent.", "Set the leverage on the exchange's website, or omit leverage; 5 changes per minute are allowed."),
    ("outcome_unknown", 200, "The order was sent but not answered; it is being looked up and is never blindly sent again.", "kekbridge explain ALERT; check on the exchange."),
    ("canceled_by_alert", 422, "A later alert canceled the order before it was sent.", "Nothing to do."),
    ("cancel_failed", 422, "Some orders were filled before they could be canceled.", "`kekbridge explain ALERT` lists them; see also `kekbridge orders --open`."),
    ("canceled_by_hand", 422, "The operator canceled the order before it was sent.", "Nothing to do."),
    ("earlier_leg_failed", 422, "An earlier step of the same alert did not succeed.", "See the earlier step in `kekbridge explain ALERT`."),
    # ------------------------------------------------------------------------------------------------------ our own errors
    # Not a 5xx: a bug may occur after the alert was stored, so it must not trigger a resend; the same bytes would hit the same bug anyway.
    ("internal_error", 422, "kekbridge failed on this request; it may or may not be stored.", "Check `kekbridge logs`; report the traceback from the daemon's log."),
    ("store_unavailable", 503, "The alert could not be stored; it is safe to send again.", "Check disk space and permissions of the data directory."),
    # ------------------------------------------------------------------------------------------------- operator (exit codes)
    ("config_invalid", None, "A setting is invalid.", "kekbridge config check"),
    ("name_taken", None, "A webhook of that name exists.", "Use another name, or kekbridge webhook edit NAME"),
    ("vault_unavailable", None, "No vault is available for secrets.", "kekbridge vault status"),
    ("already_running", None, "Another daemon is using this data directory.", "Stop it, or use another --data-dir."),
    ("bridge_unavailable", None, "A bridge runs, but does not answer commands.", "Run the command again; if the bridge hangs, end its process and start it again."),
    ("vault_out_of_reach", None, "Only the bridge's own user can open its vault.", "Start the bridge, then repeat the command."),
    ("no_access", None, "The bridge belongs to another user.", "Use sudo, or join the group of its service."),
    ("bridge_not_found", None, "No bridge, and no data of one, was found.", "Start one with `kekbridge serve`, or name its data directory with --data-dir."),
    ("key_missing", None, "The vault has no exchange key for the account, or the webhook has no valid key.", "`kekbridge keys add` or `kekbridge keys register`; of a webhook: kekbridge webhook rotate NAME"),
    ("not_installed", None, "No service is installed.", "kekbridge install-systemd"),
    ("not_locked_out", None, "This address is not locked out.", "`kekbridge lockouts list` shows those that are."),
    # --------------------------------------------------------------------------- the API beside the web pages (kekbridge docs api)
    ("field_missing", None, "A field that the request needs is missing.", "Add the field that the error names."),
    ("forbidden", None, "The request comes from another web page.", "Call the API from a program, with the token; or use the web pages themselves."),
    ("invalid_form", None, "The form cannot be read.", "Send it as a browser does, in UTF-8."),
    ("key_reused", None, "Another request was sent with this Idempotency-Key.", "Use a new key for each request."),
    ("not_possible", None, "The bridge cannot do this at present.", "Do what the error says."),
    ("too_many_streams", None, "Too many event streams are open.", "Close one, or use one stream for everything."),
    ("unsupported_media_type", None, "The body is not declared as JSON.", "Add the header Content-Type: application/json."),
    ("wrong_host", None, "The request names a host that is not this machine.", "Open the address that `kekbridge web link` prints."),
)  # fmt: skip

CODES: dict[str, Code] = {name: Code(name, status, meaning, fix) for name, status, meaning, fix in _TABLE}

#: What a code of the exchange (internals/orderly.md section 11) means for an order, and what to do, by its number.
_OF_THE_EXCHANGE: dict[str, tuple[str, str]] = {
    "-1000": ("The exchange failed.", "The bridge asks what became of the order; nothing to do."),
    "-1001": ("The exchange refused the signature of the request.", "kekbridge doctor; add the key again with `kekbridge keys add`."),
    "-1002": ("The exchange does not accept the key: it is unknown, expired, removed, or lacks the scope.", "kekbridge doctor; `kekbridge keys register` makes a new one."),
    "-1003": ("The exchange's rate limit was reached.", "The bridge tries again; send fewer alerts if it lasts."),
    "-1004": ("The exchange does not know a parameter of the request, or its key.", "kekbridge doctor; see the exchange's message."),
    "-1005": ("A parameter of the request has the wrong format.", "See the exchange's message, and the request in `kekbridge explain ALERT`."),
    "-1006": ("The exchange has no such order, or it has ended.", "kekbridge orders --open"),
    "-1007": ("The exchange has this order already.", "The bridge asks what became of it; nothing to do."),
    "-1008": ("The quantity is too large for the exchange.", "Lower the quantity."),
    "-1009": ("The account has arrears that must be settled first.", "Settle them on the exchange's website."),
    "-1011": ("The exchange is under maintenance, or a part of it cannot be reached.", "The bridge tries again; nothing to do."),
    "-1012": ("The exchange rejected the order inside, for instance because the account is in liquidation.", "Check the account on the exchange's website."),
    "-1101": ("The margin is insufficient.", "Lower the quantity or leverage, or deposit collateral."),
    "-1102": ("The order's value is below the exchange's minimum.", "Raise the quantity."),
    "-1103": ("The price is below or above the market's bounds, or not a multiple of its tick.", "Correct the price; the exchange's message names it."),
    "-1104": ("The quantity is below or above the market's bounds, or not a multiple of its step.", "Correct the quantity; the exchange's message names it."),
    "-1105": ("The price is too far from the mark price: the exchange allows only a band around it.", "Move the price closer to the market; the exchange's message names the band."),
}  # fmt: skip
#: How codes of the exchange begin.
EXCHANGE: str = "orderly:"


def find(code: str) -> Code | None:
    """A published code, or one of the exchange (`orderly:-1102`, also one that is not documented); None for another text."""
    number = code.removeprefix(EXCHANGE)
    if number == code or not number:
        return CODES.get(code)
    meaning, fix = _OF_THE_EXCHANGE.get(number, ("", "See the exchange's message in `kekbridge logs`."))
    if not meaning and number.startswith("http-"):
        meaning = f"The exchange answered with HTTP status {number.removeprefix('http-')} and no code of its own."
    return Code(code, status_of(code), meaning or "A code of the exchange that it does not document.", fix)


def status_of(code: str) -> int:
    """Return the HTTP status for a code. Codes of the exchange (`orderly:-1102`) are 422: understood, but rejected there."""
    known = CODES.get(code)
    if known is None or known.status is None:
        return 422
    return known.status
