"""A small independent client for tests: signs as orderly-api.md section 2 says, waits with deadlines."""

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

from kekbridge.paper.identity import PAPER_ACCOUNT_ID, PAPER_ORDERLY_KEY, PAPER_ORDERLY_SECRET
from tests.waiting import DEADLINE_S

BTC, ETH, SOL = "PERP_BTC_USDC", "PERP_ETH_USDC", "PERP_SOL_USDC"
Found = TypeVar("Found")


class Trader:
    """Talks to one paper exchange over HTTP."""

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
        """URL-safe padded base64 of the signature."""
        return base64.urlsafe_b64encode(self._signer.sign(message.encode()).signature).decode()

    def headers(self, method: str, path: str, body: str = "", stamp: int | None = None) -> dict[str, str]:
        """The signed headers of a request."""
        at = str(time.time_ns() // 1_000_000 if stamp is None else stamp)
        return {
            "orderly-account-id": PAPER_ACCOUNT_ID,
            "orderly-key": self.orderly_key,
            "orderly-timestamp": at,
            "orderly-signature": self.sign(f"{at}{method}{path}{body}"),
            "Content-Type": "application/json" if method in ("POST", "PUT") else "application/x-www-form-urlencoded",
        }

    async def call(self, method: str, path: str, body: object = None, **extra: str) -> tuple[int, dict[str, Any]]:
        """A signed request: (HTTP status, answer with exact numbers)."""
        text = "" if body is None else json.dumps(body)
        headers = {**self.headers(method, path, text), **extra}
        async with self.session.request(method, self.base_url + path, data=text or None, headers=headers) as r:
            return r.status, json.loads(await r.text(), parse_float=Decimal)

    async def ok(self, method: str, path: str, body: object = None) -> Any:
        """`data` of a signed request that must succeed."""
        status, answer = await self.call(method, path, body)
        assert (status, answer.get("success")) == (200, True), answer
        return answer["data"]

    async def refused(self, method: str, path: str, body: object = None) -> tuple[int, int]:
        """(HTTP status, code) of a signed request that must fail."""
        status, answer = await self.call(method, path, body)
        assert answer["success"] is False, answer
        assert answer["message"]
        return status, answer["code"]

    async def raw(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """An unsigned request."""
        text = None if body is None else json.dumps(body)
        async with self.session.request(method, self.base_url + path, data=text) as r:
            return r.status, json.loads(await r.text(), parse_float=Decimal)

    async def control(self, path: str, body: object = None) -> Any:
        """A POST to a control path that must succeed."""
        status, answer = await self.raw("POST", path, {} if body is None else body)
        assert status == 200, answer
        return answer

    async def prices(self, **marks: str) -> None:
        """Set marks by base: prices(BTC="65000")."""
        await self.control("/paper/prices", {f"PERP_{base}_USDC": price for base, price in marks.items()})

    async def order(self, **fields: object) -> int:
        """Create a plain order (BTC, BUY, MARKET, 0.01 unless said) and return its id."""
        body = {"symbol": BTC, "side": "BUY", "order_type": "MARKET", "order_quantity": "0.01"} | fields
        order_id: int = (await self.ok("POST", "/v1/order", {k: v for k, v in body.items() if v is not None}))[
            "order_id"
        ]
        return order_id

    async def done(self, order_id: int) -> dict[str, Any]:
        """The order once it has ended."""
        return await self.until_order(order_id, lambda o: o["status"] in ("FILLED", "CANCELLED", "REJECTED"))

    async def until_order(self, order_id: int, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The order once a condition holds."""

        async def look() -> dict[str, Any] | None:
            found: dict[str, Any] = await self.ok("GET", f"/v1/order/{order_id}")
            return found if is_so(found) else None

        return await until(look)

    async def until_algo(self, order_id: int, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The algo order once a condition holds."""

        async def look() -> dict[str, Any] | None:
            found: dict[str, Any] = await self.ok("GET", f"/v1/algo/order/{order_id}")
            return found if is_so(found) else None

        return await until(look)

    async def position(self, symbol: str = BTC) -> Decimal:
        """The signed quantity held."""
        return Decimal((await self.ok("GET", f"/v1/position/{symbol}"))["position_qty"])

    async def until_position(self, symbol: str, quantity: str) -> None:
        """Wait until the position has this quantity."""

        async def look() -> bool | None:
            return True if await self.position(symbol) == Decimal(quantity) else None

        await until(look)

    async def journal(self) -> list[dict[str, Any]]:
        """The exchange's own record."""
        status, events = await self.raw("GET", "/paper/journal")
        assert status == 200
        found: list[dict[str, Any]] = events
        return found


async def until(look: Callable[[], Awaitable[Found | None]]) -> Found:
    """What `look` finds, asked again until the deadline."""
    end = asyncio.get_running_loop().time() + DEADLINE_S
    while True:
        found = await look()
        if found is not None:
            return found
        assert asyncio.get_running_loop().time() < end, "the condition did not come true in time"
        await asyncio.sleep(0.002)
