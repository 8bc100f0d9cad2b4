"""Keep the certificate of tls.domain: obtain it at the first start, renew it in time, and report when that fails.

State is in `acme/AUTHORITY/` of the data directory: the account key, private key and certificate in one file (so that they change
together), and the last failure. The listener reads the file through context.py, which loads a new one without dropping a connection.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from kekbridge.config import Tls
from kekbridge.errors import ConfigError, KekbridgeError
from kekbridge.ingress.tls.acme_client import (
    Authority,
    ChallengeServer,
    IssuanceFailed,
    Validity,
    need_acme,
    read_validity,
)
from kekbridge.log import get_logger
from kekbridge.vault.files import make_private_directory, read_private, write_private

log = get_logger("kekbridge.ingress.tls.acme")

DIRECTORY: Final = "acme"
# Authorities limit failures per name and hour: the pause doubles from a minute to six hours, across restarts too.
_FIRST_PAUSE: Final = timedelta(minutes=1)
_LONGEST_PAUSE: Final = timedelta(hours=6)
_LONGEST_SLEEP_S: Final = 3600.0
_SHORTEST_SLEEP_S: Final = 0.5
_DOMAIN: Final = re.compile(
    r"(?=.{4,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII
)

# Gets `certificate_renewed` and `certificate_not_renewed` with their details, for the history and notifications.
Report = Callable[[str, dict[str, str]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _State:
    """The failures since the last certificate, kept across restarts."""

    failures: int = 0
    #: ISO 8601; empty without failures.
    failed_at: str = ""
    error: str = ""


class AutoCertificate:
    """One domain's certificate. `ensure` before the listener starts, `run` beside it."""

    def __init__(
        self, settings: Tls, data_dir: Path, *, host: str, clock: Callable[[], datetime], report: Report | None = None
    ) -> None:
        """`host`: where challenges are served. Raises ConfigError for a domain that no authority would accept."""
        need_acme()
        if settings.cert or settings.key:
            raise ConfigError("tls.domain and tls.cert are both set; keep one of them", field="tls.domain")
        self._domain = check_domain(settings.domain)
        self._port = settings.acme_port
        self._host = host
        self._clock = clock
        self._report = report
        # Per authority: a certificate of a test authority must not be used as a real one after the setting was changed.
        self._directory = data_dir / DIRECTORY / _authority_name(settings.acme_directory)
        self.file = self._directory / f"{self._domain}.pem"
        self._state_file = self._directory / f"{self._domain}.json"
        self._authority = Authority(
            directory=settings.acme_directory,
            email=settings.acme_email,
            ca_file=settings.acme_ca_file,
            account_key=self._directory / "account.pem",
        )

    @property
    def tls(self) -> Tls:
        """The TLS settings to serve with: private key and chain are one file."""
        return Tls(cert=str(self.file), key=str(self.file))

    async def ensure(self) -> None:
        """Return once there is a certificate that is valid now. Raises ConfigError if none can be obtained."""
        for directory in (self._directory.parent, self._directory):
            make_private_directory(directory)
        validity = self._stored()
        if validity is not None and validity.not_before <= self._clock() < validity.not_after:
            return
        self._refuse_too_soon()
        try:
            await self.renew()
        except IssuanceFailed as error:
            raise ConfigError(
                f"no certificate for {self._domain}: {error.message}; the name must resolve to this machine, and its port 80"
                f" must be forwarded to port {self._port}",
                field="tls.domain",
            ) from None

    async def renew(self) -> None:
        """Obtain a certificate now and store it. Raises IssuanceFailed, and ConfigError if the port cannot be opened."""
        state = self._state()
        log.info("certificate_wanted", domain=self._domain, directory=self._authority.directory)
        try:
            async with ChallengeServer(self._host, self._port) as server:
                pem = await asyncio.to_thread(self._authority.issue, self._domain, server.publish)
        except KekbridgeError as error:
            failed_at = self._clock().isoformat()
            self._write_state(_State(state.failures + 1, failed_at, error.message))
            raise
        write_private(self.file, pem)
        self._write_state(_State())
        until = read_validity(pem).not_after
        log.info("certificate_issued", domain=self._domain, valid_until=until.isoformat())
        await self._notify("certificate_renewed", {"domain": self._domain, "valid_until": until.isoformat()})

    async def run(self) -> None:
        """Until cancelled: renew whenever it is due; a failure is reported and retried after a growing pause."""
        while True:
            await asyncio.sleep(self._seconds_to_wait())
            if self._next_attempt_at() > self._clock():
                continue
            try:
                await self.renew()
            except KekbridgeError as error:
                await self._report_failure(error.message)

    async def _report_failure(self, reason: str) -> None:
        validity = self._stored()
        left = validity.not_after - self._clock() if validity else timedelta(0)
        days = f"{max(left, timedelta(0)) / timedelta(days=1):.1f}"
        write = log.error if validity is None or left < (validity.not_after - validity.not_before) / 6 else log.warning
        write("certificate_not_renewed", domain=self._domain, days_left=days, reason=reason)
        details = {"domain": self._domain, "days_left": days, "reason": reason}
        await self._notify("certificate_not_renewed", details)

    async def _notify(self, kind: str, details: dict[str, str]) -> None:
        if self._report is not None:
            try:
                await self._report(kind, details)
            except KekbridgeError as error:
                log.warning("certificate_event_not_stored", error=error.message)

    def _seconds_to_wait(self) -> float:
        wait = (self._next_attempt_at() - self._clock()).total_seconds()
        return min(max(wait, _SHORTEST_SLEEP_S), _LONGEST_SLEEP_S)

    def _next_attempt_at(self) -> datetime:
        validity = self._stored()
        due = validity.renew_at if validity is not None else self._clock()
        return max(due, self._paused_until() or due)

    def _paused_until(self) -> datetime | None:
        state = self._state()
        if not state.failures:
            return None
        doublings = min(state.failures - 1, 20)
        pause = min(_FIRST_PAUSE * (1 << doublings), _LONGEST_PAUSE)
        return datetime.fromisoformat(state.failed_at) + pause

    def _refuse_too_soon(self) -> None:
        """Raise ConfigError before the next attempt is due: restarts every second must not use up the authority's hourly limit."""
        until = self._paused_until()
        if until is not None and until > self._clock():
            raise ConfigError(
                f"no certificate for {self._domain}: {self._state().error}; the next attempt is due at {until:%H:%M:%S} UTC"
                f" (after fixing it, delete {self._state_file} to try at once)",
                field="tls.domain",
            )

    def _stored(self) -> Validity | None:
        """The stored certificate's validity; None without one, or if it is for another name."""
        pem = read_private(self.file)
        if pem is None:
            return None
        try:
            validity = read_validity(pem)
        except ValueError:
            log.warning("certificate_unreadable", file=str(self.file))
            return None
        return validity if self._domain in validity.domains else None

    def _state(self) -> _State:
        content = read_private(self._state_file)
        if content is None:
            return _State()
        try:
            state = _State(**json.loads(content))
            datetime.fromisoformat(state.failed_at or "2000-01-01T00:00:00+00:00")
        except (ValueError, TypeError):
            return _State()
        return state

    def _write_state(self, state: _State) -> None:
        write_private(self._state_file, json.dumps(asdict(state)).encode() + b"\n")


def _authority_name(directory: str) -> str:
    """A directory name for the authority at this address. Raises ConfigError unless it is an https:// address."""
    parts = urlsplit(directory)
    if parts.scheme != "https" or not parts.hostname:
        raise ConfigError(
            f"tls.acme_directory: found {directory[:80]!r}, expected the https:// address of an ACME directory",
            field="tls.acme_directory",
        )
    return re.sub(r"[^a-z0-9.-]", "_", parts.netloc.lower())


def check_domain(text: str) -> str:
    """Normalise a domain to lower case. Raises ConfigError for an address, a wildcard, or anything but a public name."""
    domain = text.strip().rstrip(".").lower()
    if not _DOMAIN.fullmatch(domain):
        raise ConfigError(
            f"tls.domain: found {text[:80]!r}, expected a name such as bridge.example.com that resolves to this machine",
            field="tls.domain",
        )
    return domain
