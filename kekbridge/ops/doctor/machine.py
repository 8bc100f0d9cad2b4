"""Checks of this machine: data directory, free disk, database file, certificate files, proxy settings. Read-only."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from kekbridge.config import Settings, Tls
from kekbridge.connections.hosts import is_loopback
from kekbridge.model.check import Check
from kekbridge.ops.expiry import not_after

NO_DISK_BYTES: Final = 100 << 20
EXPIRES_SOON: Final = timedelta(days=14)


def data_directory(data_dir: Path) -> list[Check]:
    """It exists, and only its owner can read it."""
    try:
        found = data_dir.stat()
    except FileNotFoundError:
        return [Check("data", "ok", f"{data_dir} does not exist yet; `kekbridge serve` creates it")]
    except OSError as error:
        return [
            Check("data", "broken", f"{data_dir} cannot be read: {error.strerror}", "run this as the daemon's user")
        ]
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        text = f"{data_dir} has mode {stat.S_IMODE(found.st_mode):04o}: other users can read it"
        return [Check("data", "warning", text, f"chmod 700 {data_dir}")]
    return [Check("data", "ok", f"{data_dir}, readable by its owner only")]


def disk(data_dir: Path, least_mb: int) -> list[Check]:
    """Free space for the database; less than `least_mb` MiB is a warning."""
    place = next((one for one in (data_dir, *data_dir.parents) if one.is_dir()), Path("/"))
    free = shutil.disk_usage(place).free
    text = f"{free / (1 << 30):.1f} GiB free at {place}"
    if free < NO_DISK_BYTES:
        return [Check("disk", "broken", text, "free disk space: with a full disk every alert is answered 503")]
    if free < least_mb << 20:
        return [Check("disk", "warning", text, "free disk space, or lower store.keep_payloads_days and backup.keep")]
    return [Check("disk", "ok", text)]


def database(connection: sqlite3.Connection) -> list[Check]:
    """The file's pages, indexes and references are consistent."""
    faults = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)") if row[0] != "ok"]
    dangling = connection.execute("PRAGMA foreign_key_check").fetchone()
    if dangling is not None:
        faults.append(f"a row of {dangling[0]} refers to a missing one of {dangling[2]}")
    if faults:
        fix = "stop the daemon and restore a backup: `kekbridge restore FILE`"
        return [Check("database", "broken", f"damaged: {faults[0]}", fix)]
    alerts = connection.execute("SELECT COUNT(*) FROM alerts").fetchone()[0]
    orders = connection.execute("SELECT COUNT(*) FROM orders").fetchone()[0]
    return [Check("database", "ok", f"intact; {alerts} alerts, {orders} orders")]


def certificate(tls: Tls, now: datetime) -> list[Check]:
    """The certificate file of the listener is readable and does not expire soon."""
    if not tls.cert:
        return []
    path = Path(tls.cert).expanduser()
    try:
        ends_at = not_after(path.read_text(encoding="ascii", errors="replace"))
    except (OSError, ValueError) as error:
        return [Check("certificate", "broken", f"tls.cert {path}: {error}", "name a PEM certificate with its chain")]
    return [expiry_check("certificate", str(path), ends_at, now)]


def expiry_check(name: str, what: str, ends_at: datetime, now: datetime) -> Check:
    """Check the expiry of a certificate."""
    day = f"{ends_at:%Y-%m-%d}"
    if ends_at <= now:
        return Check(name, "broken", f"{what} expired on {day}", "renew it; TradingView rejects expired certificates")
    if ends_at - now < EXPIRES_SOON:
        text = f"{what} expires on {day}, in {(ends_at - now).days} days"
        return Check(name, "warning", text, "check why it was not renewed (certbot renew, caddy)")
    return Check(name, "ok", f"{what} is valid until {day}")


def proxy(settings: Settings) -> list[Check]:
    """Behind a proxy or tunnel, senders' addresses are known where settings, lockouts and the budget of refusals depend on them."""
    server, auth = settings.server, settings.auth
    if server.public_url and not server.behind_proxy and is_loopback(server.host) and not _is_local(server.public_url):
        text = (
            "what forwards server.public_url to this machine is not known: a stranger's refusals count as TradingView's"
        )
        fix = 'set server.behind_proxy = true and server.trusted_proxies = ["127.0.0.1"]'
        return [Check("proxy", "warning", text, fix)]
    if server.behind_proxy and not server.trusted_proxies:
        fix = 'name the proxy in server.trusted_proxies, such as ["127.0.0.1"], and let it set X-Forwarded-For'
        if auth.allowed_addresses:
            text = "auth.allowed_addresses is set, but every sender has the proxy's address: all are refused"
            return [Check("proxy", "broken", text, fix)]
        return [Check("proxy", "warning", "senders cannot be distinguished: all have the proxy's address", fix)]
    if auth.allowed_addresses:
        return [Check("senders", "ok", f"only from {', '.join(auth.allowed_addresses)}")]
    return []


def _is_local(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname)
    except ValueError:
        return False
