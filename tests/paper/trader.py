"""A small REST client for tests, independent of kekbridge's: signs requests, waits with a deadline.

See docs/internals/orderly.md, section 2.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any, TypeVar

import aiohttp
import base58
from nacl.signing import SigningKey

from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ORDERLY_KEY, PAPER_ORDERLY_SECRET
from tests.waiting import DEADLINE_S

BTC, ETH, SOL = "PERP_BTC_USDC", "PERP_ETH_USDC", "PERP_SOL_USDC"
Found = TypeVar("Found")


class Trader:
    """A client of one paper exchange."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        secret: str = PAPER_ORDERLY_SECRET,
        orderly_key: str = PAPER_ORDERLY_KEY,
    ) -> None:
        self.session = session
        self.base_url = base_url
        self.orderly_key = orderly_key
        self._signer = SigningKey(base58.b58decode(secret.removeprefix("ed25519:"))[:32])

    def sign(self, message: str) -> str:
        """Return the signature of a message as URL-safe padded base64."""
        return base64.urlsafe_b64encode(self._signer.sign(message.encode()).signature).decode()

    def headers(self, method: str, path: str, body: str = "", stamp: int | None = None) -> dict[str, str]:
        """Return the headers of a signed request; `stamp` in ms, default now."""
        at = str(time.time_ns() // 1_000_000 if stamp is None else stamp)
        return {
            "orderly-account-id": PAPER_ACCOUNT_ID,
            "orderly-key": self.orderly_key,
            "orderly-timestamp": at,
            "orderly-signature": self.sign(f"{at}{method}{path}{body}"),
            "Content-Type": "application/json" if method in ("POST", "PUT") else "application/x-www-form-urlencoded",
        }

    async def call(self, method: str, path: str, body: object = None, **extra: str) -> tuple[int, dict[str, Any]]:
        """Send a signed request; return (HTTP status, response with exact numbers)."""
        text = "" if body is None else json.dumps(body)
        headers = {**self.headers(method, path, text), **extra}
        async with self.session.request(method, self.base_url + path, data=text or None, headers=headers) as r:
            return r.status, json.loads(await r.text(), parse_float=Decimal)

    async def ok(self, method: str, path: str, body: object = None) -> Any:
        """Send a signed request that must succeed; return its `data`."""
        status, answer = await self.call(method, path, body)
        assert (status, answer.get("success")) == (200, True), answer
        return answer["data"]

    async def rejected(self, method: str, path: str, body: object = None) -> tuple[int, int]:
        """Send a signed request that must fail; return (HTTP status, code)."""
        status, answer = await self.call(method, path, body)
        assert answer["success"] is False, answer
        assert answer["message"]
        return status, answer["code"]

    async def raw(self, method: str, path: str, body: object = None, **extra: str) -> tuple[int, Any]:
        """Send an unsigned request; return (HTTP status, response)."""
        text = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json", **extra}
        async with self.session.request(method, self.base_url + path, data=text, headers=headers) as r:
            return r.status, json.loads(await r.text(), parse_float=Decimal)

    async def control(self, path: str, body: object = None) -> Any:
        """POST to a control path; it must succeed."""
        status, answer = await self.raw("POST", path, {} if body is None else body)
        assert status == 200, answer
        return answer

    async def prices(self, **marks: str) -> None:
        """Set mark prices by base asset: prices(BTC="65000")."""
        await self.control("/paper/prices", {f"PERP_{base}_USDC": price for base, price in marks.items()})

    async def order(self, **fields: object) -> int:
        """Create a plain order (default: BTC, BUY, MARKET, 0.01) and return its ID."""
        body = {"symbol": BTC, "side": "BUY", "order_type": "MARKET", "order_quantity": "0.01"} | fields
        order_id: int = (await self.ok("POST", "/v1/order", {k: v for k, v in body.items() if v is not None}))[
            "order_id"
        ]
        return order_id

    async def done(self, order_id: int) -> dict[str, Any]:
        """Wait until an order is filled, canceled or rejected, and return it."""
        return await self.until_order(order_id, lambda o: o["status"] in ("FILLED", "CANCELLED", "REJECTED"))

    async def until_order(self, order_id: int, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until an order meets a condition, and return it."""

        async def poll() -> dict[str, Any] | None:
            found: dict[str, Any] = await self.ok("GET", f"/v1/order/{order_id}")
            return found if condition(found) else None

        return await until(poll)

    async def until_algo(self, order_id: int, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until an algo order meets a condition, and return it."""

        async def poll() -> dict[str, Any] | None:
            found: dict[str, Any] = await self.ok("GET", f"/v1/algo/order/{order_id}")
            return found if condition(found) else None

        return await until(poll)

    async def position(self, symbol: str = BTC) -> Decimal:
        """Return the signed quantity of a position."""
        return Decimal((await self.ok("GET", f"/v1/position/{symbol}"))["position_qty"])

    async def position_row(self, symbol: str, margin_mode: str = "CROSS") -> dict[str, Any]:
        """Return the position object of a symbol."""
        found: dict[str, Any] = await self.ok("GET", f"/v1/position/{symbol}?margin_mode={margin_mode}")
        return found

    async def until_position(self, symbol: str, quantity: str) -> None:
        """Wait until a position has this signed quantity."""

        async def poll() -> bool | None:
            return True if await self.position(symbol) == Decimal(quantity) else None

        await until(poll)

    async def journal(self) -> list[dict[str, Any]]:
        """Return the events of the exchange's journal."""
        status, events = await self.raw("GET", "/paper/journal")
        assert status == 200
        found: list[dict[str, Any]] = events
        return found


async def until(poll: Callable[[], Awaitable[Found | None]]) -> Found:
    """Call `poll` until it returns something, and return that; fail after DEADLINE_S."""
    end = asyncio.get_running_loop().time() + DEADLINE_S
    while True:
        found = await poll()
        if found is not None:
            return found
        assert asyncio.get_running_loop().time() < end, "condition not met in time"
        await asyncio.sleep(0.002)
