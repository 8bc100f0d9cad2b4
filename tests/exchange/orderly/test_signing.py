"""The signer against every vector of docs/internals/orderly.md section 2, and what it must never show."""

from __future__ import annotations

import base64
import copy
import pickle

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey, VerifyKey

from kekbridge.errors import ConfigError, VaultError
from kekbridge.exchange.orderly.signing import Signer

ACCOUNT = "0x1486549202a0f260571dee401599c58ec79b04953008749ff2ab32576130bd83"
SECRET_A = "ed25519:1thX6LZfHDZZKUs92febYZhYRcXddmzfzF2NvTkPNE"
SECRET_B = "ed25519:4wBqpZM9xaSheZzJSMawUKKwhdpChKbZ5eu5ky4Vigw"
TS = 1649920583000
COMPACT = b'{"symbol":"PERP_ETH_USDC","order_type":"LIMIT","order_price":1521.03,"order_quantity":2.11,"side":"BUY"}'
SPACED = (
    b'{"symbol": "PERP_ETH_USDC", "order_type": "LIMIT", "order_price": 1521.03, "order_quantity": 2.11, "side": "BUY"}'
)
VECTORS = [
    ("A1", SECRET_A, "POST", "/v1/order", COMPACT,
     "sUVWilZGRYTk9DSE24sskLkHQnyOiMSCgBc78nOr7dzGeD8m7YvWrmk7xFf5XNxw2lmJCPiXYsY4NR50Drb5Bw=="),
    ("A2", SECRET_A, "POST", "/v1/order", SPACED,
     "AZQ6PIx10b4T-PXFV8cQQOaSn7QtCxVyGH1zHvIohxZMCWSXbECT8qAJ4TDFVlZWAK4SD4wziUtgz9rqBfoDAg=="),
    ("A3", SECRET_A, "GET", "/v1/orders?symbol=PERP_BTC_USDC&status=INCOMPLETE", b"",
     "z5P0YSjTibBFs4UPoEOuH7suJvtjYUd-0hseOdLeNGyhefIn3mzn6fgS3yKpYYJaXWSEeEh-9BEhgoZDT3OrCg=="),
    ("A4", SECRET_A, "DELETE", "/v1/order?order_id=78151&symbol=PERP_ETH_USDC", b"",
     "eZPDeF6T8NGKxnhlh0cLzPmttv9rMXSKcyvYIUnLxc1LowkNxCJHcWlJ0oeeVP3TrC1u2ye81q9G4xxtehUjBA=="),
    ("A5", SECRET_A, "GET", "/v1/positions", b"",
     "-pbTtg7zhFGkp1NWP1dn0_egrQkscXXAGaoyDyLRLTMxQDIlei1FPSKDdiUtUQAwYBdEgKKQtbXehwZ4ohLzBA=="),
    ("B1", SECRET_B, "POST", "/v1/order", COMPACT,
     "JHnHmiFYS9dZXPSVDyRL8iAdQCmwCEx3tEzn9YsojQfurYVEdWCDzE7wGpETnlfj19v-XsBn2IuUkFy-5sflCQ=="),
    ("B3", SECRET_B, "GET", "/v1/orders?symbol=PERP_BTC_USDC&status=INCOMPLETE", b"",
     "bbWnjxzDo4wG-Nh8siI8uOrPp4m-MzHOynaDQ3qLr1GGThowfQMdS2KXXjbM0u87z3UFyrCDyuLeWGI91n-CDQ=="),
    ("B4", SECRET_B, "DELETE", "/v1/order?order_id=78151&symbol=PERP_ETH_USDC", b"",
     "jP8QMEQIaZ_duSkGKib2-5olhMye9oDWb3KQsdNTwbIrHFenFVGRATqHS1-NAwkL1kFajpuoOdkTbJfCs8FTBg=="),
    ("B7", SECRET_B, "DELETE", "/v1/batch-order?order_ids=78151,78152", b"",
     "wm-NuvHoybinz--nL_1CyMaaSvmVy-OTjUZ3787SujoXWfCJ4rkn-2Hx3Vox1ud66Hmjj_iXqvz_pO1ES4wPDA=="),
]  # fmt: skip


@pytest.mark.parametrize(
    ("secret", "method", "path", "body", "signature"), [v[1:] for v in VECTORS], ids=[v[0] for v in VECTORS]
)
def test_vectors(secret: str, method: str, path: str, body: bytes, signature: str) -> None:
    """Every REST vector of the documentation is reproduced to the byte."""
    headers = Signer(ACCOUNT, secret).sign_request(TS, method, path, body)
    assert headers["orderly-signature"] == signature
    assert headers["orderly-timestamp"] == str(TS)
    assert headers["orderly-account-id"] == ACCOUNT


@pytest.mark.parametrize(
    ("secret", "sign"),
    [
        (SECRET_A, "weE5JOIKfjb9HmfiZcw6R5kOHUMhcXyG1tk9KYdJqaZXJhQ1-2z7JMUuQ_-I4EpMudHA1xzyt6R8vsBkXhIIAw=="),
        (SECRET_B, "Ez8rVpAcgUx04gQ4WPrytSJB6P1_dSr9De6BVE3r_b2B4dy1tA669ucT_MP23rMQYvrVa4cMwCMO25WgsB8zCw=="),
    ],
)
def test_login_vectors(secret: str, sign: str) -> None:
    """The stream login signs the timestamp's digits only (A6, B6)."""
    assert Signer(ACCOUNT, secret).sign_login(TS) == sign


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        (SECRET_A, "ed25519:FAe4sisG95oZ42w7buUn5qEE4TAnfTTFPiguZUHmhiF"),
        (SECRET_B, "ed25519:9C6hybhQ6Aycep9jaUnP6uL9ZYvDjUp1aSkFWPUFJtpj"),
        (SECRET_A.removeprefix("ed25519:"), "ed25519:FAe4sisG95oZ42w7buUn5qEE4TAnfTTFPiguZUHmhiF"),
        (f"  {SECRET_A}\n", "ed25519:FAe4sisG95oZ42w7buUn5qEE4TAnfTTFPiguZUHmhiF"),
    ],
)
def test_public_key(secret: str, key: str) -> None:
    """The public key is derived, leading zero bytes of the seed included; prefix and spaces around it do not matter."""
    assert Signer(ACCOUNT, secret).orderly_key == key


@pytest.mark.parametrize(
    ("method", "kind"), [("GET", "x-www-form"), ("DELETE", "x-www-form"), ("POST", "json"), ("PUT", "json")]
)
def test_content_type(method: str, kind: str) -> None:
    """Content-Type follows the method; a wrong one is rejected with -1005 (trap 13)."""
    assert kind in Signer(ACCOUNT, SECRET_A).sign_request(TS, method, "/v1/order")["Content-Type"]


def test_64_byte_secret() -> None:
    """A secret of seed and public key is accepted and signs the same."""
    seed = bytes(range(32))
    both = base58.b58encode(seed + bytes(SigningKey(seed).verify_key)).decode()
    assert Signer(ACCOUNT, both).sign_login(TS) == Signer(ACCOUNT, SECRET_A).sign_login(TS)


@pytest.mark.parametrize(
    "secret",
    [
        base58.b58encode(bytes(range(32)) + bytes(32)).decode(),
        base58.b58encode(bytes(31)).decode(),
        base58.b58encode(bytes(33)).decode(),
        "ed25519:0OIl",
        "not base58 at all",
        "",
    ],
)
def test_damaged_secret(secret: str) -> None:
    """A damaged secret is reported on one line that quotes none of it."""
    with pytest.raises(VaultError) as caught:
        Signer(ACCOUNT, secret)
    assert "\n" not in caught.value.message
    assert not secret or secret not in caught.value.message


@pytest.mark.parametrize("account_id", ["", "0x12", ACCOUNT[2:], ACCOUNT + "0", ACCOUNT[:-1] + "g"])
def test_malformed_account_id(account_id: str) -> None:
    """An account id is 0x and 64 hex digits; anything else is a ConfigError."""
    with pytest.raises(ConfigError) as caught:
        Signer(account_id, SECRET_A)
    assert caught.value.field == "exchange.account_id"


def test_never_shown_nor_copied() -> None:
    """No repr, str, format, pickle or copy carries the secret: raw, hex or base58."""
    signer = Signer(ACCOUNT, SECRET_A)
    shown = f"{signer!r} {signer!s} {signer}"
    assert SECRET_A.removeprefix("ed25519:") not in shown
    assert bytes(range(32)).hex() not in shown
    assert "\\x00\\x01\\x02" not in shown
    for spread in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            spread(signer)


@given(seed=st.binary(min_size=32, max_size=32), ts=st.integers(10**12, 10**13 - 1), body=st.binary(max_size=200))
def test_signature_verifies(seed: bytes, ts: int, body: bytes) -> None:
    """For any key and body: the header's key verifies the header's signature over the documented message."""
    headers = Signer(ACCOUNT, base58.b58encode(seed).decode()).sign_request(ts, "POST", "/v1/order", body)
    public = base58.b58decode(headers["orderly-key"].removeprefix("ed25519:"))
    signature = base64.urlsafe_b64decode(headers["orderly-signature"])
    VerifyKey(public).verify(f"{ts}POST/v1/order".encode() + body, signature)
