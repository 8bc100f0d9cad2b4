"""A common bot, as in tutorials: a Flask handler that checks a passphrase and calls ccxt's woofipro class. Nothing is stored.

`python -m tests.bench.flask_bot --port N --exchange URL [--no-throttle]`. Needs the extra `bench` (flask, ccxt).
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import base58
import ccxt
from flask import Flask, request


def make_exchange(url: str, *, is_throttled: bool) -> Any:
    """Create ccxt's client for Orderly with the stub's URL, its markets loaded."""
    exchange = ccxt.woofipro(
        {
            "apiKey": "ed25519:" + "1" * 32,
            "secret": base58.b58encode(b"7" * 32).decode(),
            "accountId": "0x0",
            "enableRateLimit": is_throttled,
        }
    )
    exchange.urls["api"] = {"public": url, "private": url}
    exchange.load_markets()
    return exchange


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--exchange", required=True)
    parser.add_argument("--no-throttle", action="store_true")
    given = parser.parse_args()
    exchange = make_exchange(given.exchange, is_throttled=not given.no_throttle)
    app = Flask(__name__)

    def ready() -> dict[str, bool]:
        return {"ready": True}

    def webhook() -> Any:
        alert = json.loads(request.data)
        if alert["apiKey"] != "bench":
            return {"success": False}, 401
        symbol = alert["symbol"].removesuffix(".P").removesuffix("USDT") + "/USDC:USDC"
        order = exchange.create_order(symbol, "market", alert["action"], float(alert["quantity"]))
        return {"success": True, "orderId": order["id"]}

    # No decorators: they are typed only if flask is installed.
    app.add_url_rule("/readyz", view_func=ready)
    app.add_url_rule("/api/webhooks/tradingview", view_func=webhook, methods=["POST"])
    app.run("127.0.0.1", given.port)


if __name__ == "__main__":
    main()
