"""Expiry job: the exchange key, the certificate served here, and the one served at server.public_url."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import ssl
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from kekbridge.errors import ConfigError, ExchangeUnavailable
from kekbridge.exchange.base import KeyInfo
from kekbridge.formatting import duration
from kekbridge.log import get_logger
from kekbridge.ops.conditions import Conditions
from kekbridge.store import conditions, journal

log = get_logger("kekbridge.ops.expiry")

_TIMEOUT_S: Final = 5.0


class ExpiryWatch:
    """Job, every hour: publish what expires soon or has expired. What cannot be checked now is checked at the next run."""

    def __init__(
        self,
        conditions: Conditions,
        key: Callable[[], Awaitable[KeyInfo | None]],
        *,
        certificate_file: str,
        public_url: str,
        soon: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        """`key` queries our exchange key; `soon`: how long before expiry to warn. Empty file and URL are not checked."""
        self._conditions = conditions
        self._key = key
        self._certificate_file = certificate_file
        self._public_url = public_url
        self._soon = soon
        self._clock = clock

    async def run(self) -> None:
        """Raises ConfigError if the certificate cannot be read, StoreUnavailable."""
        if self._certificate_file:
            name, ends_at = await asyncio.to_thread(_expiry_of_file, self._certificate_file)
            await self._update("certificate", ends_at, {"name": name})
        url = urlsplit(self._public_url)
        if url.scheme == "https" and url.hostname:
            served = await asyncio.to_thread(served_until, url.hostname, url.port or 443)
            if served is not None:
                await self._update("certificate", served, {"name": url.hostname})
        try:
            key = await self._key()
        except ExchangeUnavailable as error:
            log.info("key_not_asked", error=error.message)
            return
        if key is not None and key.expires_at is not None:
            await self._update("key", key.expires_at, {})

    async def _update(self, subject: str, ends_at: datetime, about: Mapping[str, str]) -> None:
        """Publish when it expires soon, when it has expired, and when it was renewed."""
        left = ends_at - self._clock()
        kind = None
        if left <= self._soon:
            kind = f"{subject}_expired" if left <= timedelta(0) else f"{subject}_expiring"
        over = "key_renewed" if subject == "key" else "certificate_valid"
        data = {"day": f"{ends_at:%Y-%m-%d}", "left": duration(max(left, timedelta(0))), **about}
        name = ":".join((subject, *about.values()))
        await self._conditions.update(name, kind, over=over, data=data)


def _expiry_of_file(file: str) -> tuple[str, datetime]:
    path = Path(file).expanduser()
    try:
        return path.name, not_after(path.read_text(encoding="ascii", errors="replace"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"the certificate {path} cannot be read: {error}; name a PEM file in tls.cert") from None


def served_until(host: str, port: int) -> datetime | None:
    """Expiry of the certificate served at an address, trusted or not; None without a TLS connection within 5 s. Blocks."""
    context = ssl.create_default_context()
    context.check_hostname = False  # only the expiry matters here; `kekbridge doctor` verifies the chain
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            found = secured.getpeercert(binary_form=True)
        return None if found is None else not_after(ssl.DER_cert_to_PEM_cert(found))
    except (OSError, ValueError) as error:
        log.info("public_certificate_not_seen", host=host, port=port, error=str(error))
        return None


def record_renewal(connection: sqlite3.Connection, kind: str, details: Mapping[str, str], *, now: datetime) -> None:
    """Store an outcome of the ACME renewal: every success, and the first of consecutive failures."""
    name = f"renewal:{details.get('domain', '')}"
    if kind == "certificate_not_renewed":
        conditions.begin(connection, name, kind, now=now, data=details)
        return
    conditions.end(connection, name, None, now=now)
    journal.append(connection, kind, now=now, data=details)


def not_after(pem: str) -> datetime:
    """Expiry of the first certificate in a PEM text (RFC 5280). Raises ValueError if there is none."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    if begin not in pem or end not in pem:
        raise ValueError("it contains no certificate")
    first = pem[pem.index(begin) : pem.index(end) + len(end)]
    try:
        certificate_der = ssl.PEM_cert_to_DER_cert(first + "\n")
        _, body, _ = _element(certificate_der)  # Certificate
        _, to_be_signed, _ = _element(body)
        rest = to_be_signed
        fields: list[tuple[int, bytes]] = []
        while rest and len(fields) < 6:
            tag, value, rest = _element(rest)
            if tag != 0xA0:  # the version, which may be absent
                fields.append((tag, value))
        validity = fields[3][1]  # serial number, signature algorithm, issuer, validity
        _, _, after_begin = _element(validity)
        tag, text, _ = _element(after_begin)
        form = "%y%m%d%H%M%SZ" if tag == 0x17 else "%Y%m%d%H%M%SZ"  # UTCTime, GeneralizedTime
        return datetime.strptime(text.decode("ascii"), form).replace(tzinfo=UTC)
    except (ValueError, IndexError) as error:
        raise ValueError(f"not a usable certificate ({error})") from None


def _element(der: bytes) -> tuple[int, bytes, bytes]:
    """Split off the first DER element: its tag, its content, and the rest."""
    tag, length, start = der[0], der[1], 2
    if length & 0x80:
        count = length & 0x7F
        length, start = int.from_bytes(der[2 : 2 + count], "big"), 2 + count
    if start + length > len(der):
        raise ValueError("truncated")
    return tag, der[start : start + length], der[start + length :]
