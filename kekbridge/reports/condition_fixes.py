"""What a trader does about each lasting condition (store/conditions.py): one sentence for the pages. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: By the kind of the event that began the condition. Commands are in backticks.
FIXES: Final[Mapping[str, str]] = {
    "exchange_down": "It ends by itself when the exchange answers. Open positions keep their stops at the exchange; `kekbridge doctor`"
    " shows whether this machine or the exchange is the cause.",
    "stream_down": "It ends by itself. Orders are polled meanwhile, so fills appear some seconds later.",
    "clock_skew": "Turn on time synchronization on this machine (`timedatectl set-ntp true`): requests with a wrong time are rejected.",
    "heartbeat_missed": "Check at TradingView that the alert is still active, then send a test alert.",
    "alert_expiring": "Renew the alert at TradingView, then set its new end in the webhook's settings.",
    "alert_ended": "Renew the alert at TradingView, then set its new end in the webhook's settings.",
    "position_unprotected": "Place a stop at the exchange, or close the position here.",
    "protection_wanted": "The bridge places the stop again by itself. Close the position here if you cannot wait.",
    "position_drift": "Compare the position here with the strategy's at TradingView, then close or open the difference by hand.",
    "records_incomplete": "The bridge reads them again every minute. Until then P&L and daily loss may be too low or too high.",
    "key_expiring": "Create a new exchange key before that day: `kekbridge keys generate`.",
    "key_expired": "Create a new exchange key: `kekbridge keys generate`. Until then no order can be sent, exits included.",
    "certificate_expiring": "Check why it was not renewed: `kekbridge doctor`.",
    "certificate_expired": "Renew it now: TradingView rejects the webhook URL until then.",
    "certificate_not_renewed": "The next attempt is within a day; port 80 or 443 of this machine must be reachable under the name.",
    "disk_low": "Free space on that disk, or move the data directory to a larger one.",
    "admin_port_taken": "Stop the other program, or set `admin.port`.",
    "job_failed": "It runs again at its next time; `kekbridge jobs` and the log show why it failed.",
}


def fix_of(kind: str) -> str:
    """What to do about a condition; empty for a kind without an entry."""
    return FIXES.get(kind, "")
