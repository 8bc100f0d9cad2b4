"""Signatures, keys and scopes, with the test vectors of docs/internals/orderly.md, section 2."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from kekbridge.paper.auth import SignatureVerifier
from kekbridge.paper.codec import ApiError
from kekbridge.paper.exchange import SimulatedExchange
from kekbridge.paper.journal import PaperJournal
from kekbridge.paper.models import ApiKey
from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PaperSettings
from tests.paper.trader import BTC, Trader

STAMP = 1649920583000
KEY_A = "ed25519:FAe4sisG95oZ42w7buUn5qEE4TAnfTTFPiguZUHmhiF"
KEY_B = "ed25519:9C6hybhQ6Aycep9jaUnP6uL9ZYvDjUp1aSkFWPUFJtpj"
SECRET_B = "ed25519:4wBqpZM9xaSheZzJSMawUKKwhdpChKbZ5eu5ky4Vigw"
ORDER = '{"symbol":"PERP_ETH_USDC","order_type":"LIMIT","order_price":1521.03,"order_quantity":2.11,"side":"BUY"}'
SPACED = (
    '{"symbol": "PERP_ETH_USDC", "order_type": "LIMIT", "order_price": 1521.03, "order_quantity": 2.11, "side": "BUY"}'
)
INCOMPLETE = "/v1/orders?symbol=PERP_BTC_USDC&status=INCOMPLETE"
CANCEL = "/v1/order?order_id=78151&symbol=PERP_ETH_USDC"
VECTORS = [
    (
        KEY_A,
        "POST",
        "/v1/order",
        ORDER,
        "sUVWilZGRYTk9DSE24sskLkHQnyOiMSCgBc78nOr7dzGeD8m7YvWrmk7xFf5XNxw2lmJCPiXYsY4NR50Drb5Bw==",
    ),
    (
        KEY_A,
        "POST",
        "/v1/order",
        SPACED,
        "AZQ6PIx10b4T-PXFV8cQQOaSn7QtCxVyGH1zHvIohxZMCWSXbECT8qAJ4TDFVlZWAK4SD4wziUtgz9rqBfoDAg==",
    ),
    (
        KEY_A,
        "GET",
        INCOMPLETE,
        "",
        "z5P0YSjTibBFs4UPoEOuH7suJvtjYUd-0hseOdLeNGyhefIn3mzn6fgS3yKpYYJaXWSEeEh-9BEhgoZDT3OrCg==",
    ),
    (
        KEY_A,
        "DELETE",
        CANCEL,
        "",
        "eZPDeF6T8NGKxnhlh0cLzPmttv9rMXSKcyvYIUnLxc1LowkNxCJHcWlJ0oeeVP3TrC1u2ye81q9G4xxtehUjBA==",
    ),
    (
        KEY_A,
        "GET",
        "/v1/positions",
        "",
        "-pbTtg7zhFGkp1NWP1dn0_egrQkscXXAGaoyDyLRLTMxQDIlei1FPSKDdiUtUQAwYBdEgKKQtbXehwZ4ohLzBA==",
    ),
    (
        KEY_B,
        "POST",
        "/v1/order",
        ORDER,
        "JHnHmiFYS9dZXPSVDyRL8iAdQCmwCEx3tEzn9YsojQfurYVEdWCDzE7wGpETnlfj19v-XsBn2IuUkFy-5sflCQ==",
    ),
    (
        KEY_B,
        "GET",
        INCOMPLETE,
        "",
        "bbWnjxzDo4wG-Nh8siI8uOrPp4m-MzHOynaDQ3qLr1GGThowfQMdS2KXXjbM0u87z3UFyrCDyuLeWGI91n-CDQ==",
    ),
    (
        KEY_B,
        "DELETE",
        CANCEL,
        "",
        "jP8QMEQIaZ_duSkGKib2-5olhMye9oDWb3KQsdNTwbIrHFenFVGRATqHS1-NAwkL1kFajpuoOdkTbJfCs8FTBg==",
    ),
    (
        KEY_B,
        "DELETE",
        "/v1/batch-order?order_ids=78151,78152",
        "",
        "wm-NuvHoybinz--nL_1CyMaaSvmVy-OTjUZ3787SujoXWfCJ4rkn-2Hx3Vox1ud66Hmjj_iXqvz_pO1ES4wPDA==",
    ),
]
LOGINS = [
    (KEY_A, "weE5JOIKfjb9HmfiZcw6R5kOHUMhcXyG1tk9KYdJqaZXJhQ1-2z7JMUuQ_-I4EpMudHA1xzyt6R8vsBkXhIIAw=="),
    (KEY_B, "Ez8rVpAcgUx04gQ4WPrytSJB6P1_dSr9De6BVE3r_b2B4dy1tA669ucT_MP23rMQYvrVa4cMwCMO25WgsB8zCw=="),
]


@pytest.fixture
def verifier(tmp_path: Path) -> SignatureVerifier:
    """A verifier at the time of the test vectors, with their keys registered."""
    exchange = SimulatedExchange(
        PaperJournal(tmp_path / "paper.db"), PaperSettings(prices="static"), lambda: STAMP, lambda _ms, _run: None
    )
    for name in (KEY_A, KEY_B):
        with exchange.state.transaction():
            exchange.state.add(ApiKey(name, "read,trading", STAMP + 1_000_000))
    return SignatureVerifier(exchange.state)


def headers(key: str, signature: str, stamp: int = STAMP) -> dict[str, str]:
    """Return the headers of a signed request."""
    return {
        "orderly-account-id": PAPER_ACCOUNT_ID,
        "orderly-key": key,
        "orderly-signature": signature,
        "orderly-timestamp": str(stamp),
    }


@pytest.mark.parametrize(
    ("key", "method", "target", "body", "signature"),
    VECTORS,
    ids=range(len(VECTORS)),
)
def test_documented_vectors_pass(
    verifier: SignatureVerifier, key: str, method: str, target: str, body: str, signature: str
) -> None:
    """Every documented request vector is accepted, and rejected with one byte changed."""
    assert verifier.check_request(headers(key, signature), method, target, body.encode(), "trading").orderly_key == key
    with pytest.raises(ApiError) as caught:
        verifier.check_request(headers(key, signature), method, target + "x", body.encode(), "trading")
    assert caught.value.code == -1001


@pytest.mark.parametrize(("key", "signature"), LOGINS, ids=["A", "B"])
def test_documented_logins_pass(verifier: SignatureVerifier, key: str, signature: str) -> None:
    """The signed login message is the timestamp alone."""
    assert verifier.check_login(PAPER_ACCOUNT_ID, key, str(STAMP), signature).orderly_key == key


@pytest.mark.parametrize(
    "spell",
    [
        lambda s: s,
        lambda s: s.rstrip("="),
        lambda s: s.replace("-", "+").replace("_", "/"),
        lambda s: s.replace("-", "+").replace("_", "/").rstrip("="),
    ],
    ids=["url-safe", "url-safe unpadded", "standard", "standard unpadded"],
)
def test_four_spellings_of_base64(verifier: SignatureVerifier, spell: Callable[[str], str]) -> None:
    """Standard and URL-safe base64 are accepted, padded or not."""
    for key, method, target, body, signature in VECTORS:
        verifier.check_request(headers(key, spell(signature)), method, target, body.encode(), "read")


def test_signature_over_raw_or_decoded_path(verifier: SignatureVerifier) -> None:
    """A client that sends %2C may have signed the comma."""
    *_, signature = VECTORS[8]
    verifier.check_request(
        headers(KEY_B, signature), "DELETE", "/v1/batch-order?order_ids=78151%2C78152", b"", "trading"
    )


@pytest.mark.parametrize("off", [-300_001, 300_001])
def test_timestamp_window(verifier: SignatureVerifier, off: int) -> None:
    """A timestamp more than 300 s off is rejected before the signature is checked."""
    with pytest.raises(ApiError) as caught:
        verifier.check_request(headers(KEY_A, "nonsense", STAMP + off), "GET", "/v1/positions", b"", "read")
    assert (caught.value.code, caught.value.status) == (-1001, 401)
    assert "300 s" in caught.value.message


async def test_missing_headers(trader: Trader) -> None:
    """A signed path without signature headers is answered with 401, -1001."""
    status, answer = await trader.raw("GET", "/v1/positions")
    assert (status, answer["success"], answer["code"]) == (401, False, -1001)


async def test_public_paths_ignore_stale_headers(trader: Trader) -> None:
    """Stale signature headers, which clients send from their session, are ignored on public paths."""
    stale = trader.headers("GET", "/v1/other", stamp=1)
    async with trader.session.get(trader.base_url + "/v1/public/futures/" + BTC, headers=stale) as answer:
        assert answer.status == 200


async def second_key(paper: PaperExchange, session: aiohttp.ClientSession, **fields: object) -> Trader:
    """Register key B through the control API and return a client that uses it."""
    other = Trader(session, paper.base_url, SECRET_B, KEY_B)
    await other.control("/paper/keys", {"orderly_key": KEY_B, **fields})
    return other


MARKET = {"symbol": BTC, "side": "BUY", "order_type": "MARKET", "order_quantity": "0.01"}


async def test_scope(paper: PaperExchange, session: aiohttp.ClientSession) -> None:
    """A read key can read and set leverage, but not place orders (-1002)."""
    other = await second_key(paper, session, scope="read")
    await other.ok("GET", "/v1/orders")
    await other.ok("POST", "/v1/client/leverages", {"symbol": BTC, "leverage": 5})
    assert await other.rejected("POST", "/v1/order", MARKET) == (401, -1002)


async def test_expired_unknown_and_removed_keys(paper: PaperExchange, session: aiohttp.ClientSession) -> None:
    """Expired, unknown and removed keys are rejected with -1002."""
    unregistered = Trader(session, paper.base_url, SECRET_B, KEY_B)
    assert await unregistered.rejected("GET", "/v1/positions") == (401, -1002)
    other = await second_key(paper, session, expiration=time.time_ns() // 1_000_000 - 1)
    assert await other.rejected("GET", "/v1/positions") == (401, -1002)
    other = await second_key(paper, session, expiration=time.time_ns() // 1_000_000 + 60_000)
    await other.ok("POST", "/v1/client/remove_orderly_key", {"orderly_key": KEY_B})
    assert await other.rejected("GET", "/v1/positions") == (401, -1002)


async def test_invalid_signature_is_not_journaled(trader: Trader) -> None:
    """order_received is recorded only for creates with a valid signature."""
    bad = {"orderly-signature": base64.b64encode(b"0" * 64).decode()}
    status, answer = await trader.call("POST", "/v1/order", MARKET, **bad)
    assert (status, answer["code"]) == (401, -1001)
    assert await trader.journal() == []
