"""Settings: defaults, overridden by the TOML file, KEKBRIDGE_… variables and the command line; frozen once loaded.

Unknown keys are errors that name the nearest known one. `config.example.toml` documents every setting; a test compares it with these
defaults. Secrets are never settings: they live in the vault. The only I/O is reading the file and the environment.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from kekbridge.errors import ConfigError
from kekbridge.formatting import redact_secrets, sanitize
from kekbridge.model import Mode, RateLimits, notifications
from kekbridge.model.quiet_hours import QuietHours, read_zone

APP_NAME = "kekbridge"
# Characters of a wrong value that an error quotes.
_LONGEST_FOUND = 60
ENVIRONMENT_PREFIX = "KEKBRIDGE_"
_REPLICA_PLACES: Final = '"s3://bucket/path", "sftp://user@host/path" or "file:///path"'
# Variables that are not settings: paths of the settings file and the data directory.
_PATH_VARIABLES = frozenset({"KEKBRIDGE_CONFIG", "KEKBRIDGE_DATA_DIR"})


def _split_words(value: object) -> object:
    """Split a list from an environment variable at its commas."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _time_of_day(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", value, re.ASCII):
        raise ValueError(f'found {_found(value)}, expected a time of day in UTC such as "03:30"')
    return value


def _events(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(notifications.check_event(kind) for kind in value)


def _split_pairs(value: object) -> object:
    """Split `order_filled=off,alert_denied=info` from an environment variable."""
    if not isinstance(value, str):
        return value
    return {
        name.strip(): level.strip() for name, _, level in (part.partition("=") for part in value.split(",")) if name
    }


def _levels(value: Mapping[str, str]) -> Mapping[str, notifications.Level]:
    return {kind: notifications.check_level(kind, level) for kind, level in value.items()}


def _quiet_hours(value: str) -> str:
    QuietHours.parse(value)
    return value


def _zone(value: str) -> str:
    read_zone(value)
    return value


def _templates(value: Mapping[str, str]) -> Mapping[str, str]:
    return {kind: notifications.check_template(kind, text) for kind, text in value.items()}


def _replica_url(value: str) -> str:
    """Expects a place that Litestream writes to; a password has no place in the settings, and is not quoted."""
    if not value:
        return value
    try:
        parts = urlsplit(value)
        password = parts.password
    except ValueError:
        raise ValueError(f"found {_found(value)}, expected {_REPLICA_PLACES}") from None
    if password is not None:
        raise ValueError("found a password in the URL, expected none: use ssh_key, or a key in the vault")
    is_whole = parts.path not in ("", "/") if parts.scheme == "file" else bool(parts.hostname)
    if parts.scheme not in ("s3", "sftp", "file") or not is_whole or (parts.scheme == "file" and parts.netloc):
        raise ValueError(f"found {_found(value)}, expected {_REPLICA_PLACES}")
    return value


Words = Annotated[tuple[str, ...], BeforeValidator(_split_words)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Amount = Annotated[Decimal, Field(gt=0)]
TimeOfDay = Annotated[str, BeforeValidator(_time_of_day)]
Events = Annotated[Words, AfterValidator(_events)]
Templates = Annotated[Mapping[str, str], AfterValidator(_templates)]
Levels = Annotated[Mapping[str, str], BeforeValidator(_split_pairs), AfterValidator(_levels)]
Hours = Annotated[str, AfterValidator(_quiet_hours)]
ZoneName = Annotated[str, AfterValidator(_zone)]
ReplicaUrl = Annotated[str, AfterValidator(_replica_url)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Server(_Section):
    """The public listener."""

    host: str = "127.0.0.1"
    port: Port = 8080
    public_url: str = ""
    respond_within_s: Annotated[float, Field(ge=0, le=2.5)] = 1.5
    max_body_bytes: Annotated[int, Field(ge=1024, le=65_536)] = 65_536
    body_timeout_s: Seconds = 2.0
    idle_timeout_s: Seconds = 15.0
    max_connections: Annotated[int, Field(ge=8, le=100_000)] = 1000
    max_connections_per_address: Annotated[int, Field(ge=8, le=100_000)] = 250
    shutdown_timeout_s: Annotated[float, Field(gt=0, le=60)] = 8.0
    behind_proxy: bool = False
    trusted_proxies: Words = ()


class Tls(_Section):
    """HTTPS on the public listener: PEM files (both or neither), re-read when they change, or a domain to obtain a certificate for."""

    cert: str = ""
    key: str = ""
    domain: str = ""
    acme_directory: str = "https://acme-v02.api.letsencrypt.org/directory"
    acme_email: str = ""
    acme_ca_file: str = ""
    acme_port: Port = 80


class Auth(_Section):
    """Who may send alerts, and how old they may be."""

    max_timestamp_age_s: Annotated[int, Field(ge=1, le=3600)] = 60
    max_future_s: Annotated[int, Field(ge=0, le=300)] = 10
    lockout_failures: Annotated[int, Field(ge=1)] = 20
    lockout_window_s: Annotated[int, Field(ge=1)] = 60
    lockout_s: Annotated[int, Field(ge=1)] = 300
    refusal_burst: Annotated[int, Field(ge=1)] = 300
    refusals_per_s: Annotated[float, Field(gt=0)] = 5.0
    allowed_addresses: Words = ()
    client_certificates: Words = ()
    client_certificate_header: str = "X-Client-Certificate-SHA256"


class ExchangeSettings(_Section):
    """Exchange account and connection. The secret key is in the vault; an empty `base_url` is the mode's default."""

    base_url: str = ""
    ws_public_url: str = ""
    ws_private_url: str = ""
    account_id: str = ""
    broker_id: str = "kek_ai"
    request_timeout_s: Seconds = 5.0
    recv_window_ms: Annotated[int, Field(ge=500, le=60_000)] = 5_000
    refresh_s: Seconds = 10.0
    rate_factor: Annotated[int, Field(ge=1, le=1000)] = 1
    max_snapshot_age_s: Seconds = 30.0
    max_mark_age_s: Seconds = 60.0


class Admin(_Section):
    """Admin listener: web pages, live state, metrics. Only loopback addresses are accepted, except `in_container`."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 8081
    in_container: bool = False


class Queue(_Section):
    """How stored orders are sent to the exchange."""

    concurrency: Annotated[int, Field(ge=1, le=50)] = 5
    max_age_s: Annotated[int, Field(ge=1, le=3600)] = 60
    max_waiting: Annotated[int, Field(ge=1, le=100_000)] = 500
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    backoff_s: Seconds = 2.0
    outcome_timeout_s: Seconds = 5.0
    clock_tolerance_s: Annotated[float, Field(ge=0, le=300)] = 2.0
    resend_unknown_entries: bool = False
    protect_within_s: Seconds = 5.0
    reconcile_every_s: Seconds = 60.0


class Risk(_Section):
    """Limits of the whole account, besides those of each webhook; the tighter one applies. 0 or empty: no limit."""

    allowed_symbols: Words = ()
    max_order_size: Annotated[Decimal, Field(ge=0)] = Decimal(0)
    max_position_size: Annotated[Decimal, Field(ge=0)] = Decimal(0)
    max_notional: Annotated[Decimal, Field(ge=0)] = Decimal(0)
    daily_limit: Annotated[Decimal, Field(ge=0)] = Decimal(0)
    daily_orders: Annotated[int, Field(ge=0)] = 0
    max_daily_loss: Annotated[Decimal, Field(ge=0)] = Decimal(0)
    max_drawdown: Annotated[Decimal, Field(ge=0, le=1)] = Decimal(0)
    max_leverage: Annotated[Decimal, Field(ge=0, le=100)] = Decimal(10)
    max_open_positions: Annotated[int, Field(ge=0)] = 10
    require_stop_loss: bool = False
    rate_per_minute: Annotated[int, Field(ge=0, le=100_000)] = 600
    rate_per_hour: Annotated[int, Field(ge=0, le=1_000_000)] = 6_000
    rate_per_day: Annotated[int, Field(ge=0, le=1_000_000)] = 60_000

    def limits(self) -> dict[str, Any]:
        """The arguments of `risk.limits.account_limits`."""
        return self.model_dump(exclude={"rate_per_minute", "rate_per_hour", "rate_per_day"})

    @property
    def rates(self) -> RateLimits:
        """Alerts that all webhooks together may send; exits are not counted."""
        return RateLimits(per_minute=self.rate_per_minute, per_hour=self.rate_per_hour, per_day=self.rate_per_day)


class Paper(_Section):
    """The embedded paper exchange."""

    port: Port = 8090
    prices: Literal["live", "static"] = "live"
    balance: Amount = Decimal(100_000)
    rate_limits: bool = True


class Vault(_Section):
    """Where secrets are stored. `backend` auto tries the vaults in the order of docs/internals/architecture.md section 4."""

    backend: Literal["auto", "directory", "keyring", "file", "key_file"] = "auto"
    secrets_dir: str = ""


class Store(_Section):
    """How long message texts are kept, and from which free space on the disk is low."""

    keep_payloads_days: Annotated[int, Field(ge=0, le=36_500)] = 90
    warn_free_mb: Annotated[int, Field(ge=0)] = 1024


class BackupSettings(_Section):
    """Nightly backup by the daemon."""

    nightly: bool = True
    at: TimeOfDay = "03:30"
    keep: Annotated[int, Field(ge=1, le=1000)] = 14
    dir: str = ""


class ReplicaSettings(_Section):
    """A continuous copy of the database at another place, made by Litestream. Empty `url`: none."""

    url: ReplicaUrl = ""
    endpoint: str = ""
    region: str = ""
    ssh_key: str = ""
    host_key: str = ""
    sync_s: Annotated[float, Field(ge=0.1, le=3600)] = 1.0
    warn_after_s: Seconds = 60.0


class Log(_Section):
    """Log level and format."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"


class Notify(_Section):
    """Which notifications are sent. The channels are secrets: `kekbridge notify add` stores them in the vault."""

    mute: Events = ()
    least: Literal["info", "warning", "failure"] = "info"
    digest_s: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    summary_at: TimeOfDay = "00:05"
    down_after_s: Seconds = 60.0
    expiry_days: Annotated[int, Field(ge=1, le=365)] = 14
    quiet_hours: Hours = ""
    zone: ZoneName = ""
    levels: Levels = Field(default_factory=dict)
    templates: Templates = Field(default_factory=dict)


class Settings(_Section):
    """All settings, with safe defaults: paper mode, loopback, signatures required."""

    mode: Mode = Mode.PAPER
    server: Server = Server()
    tls: Tls = Tls()
    auth: Auth = Auth()
    exchange: ExchangeSettings = ExchangeSettings()
    admin: Admin = Admin()
    queue: Queue = Queue()
    risk: Risk = Risk()
    paper: Paper = Paper()
    vault: Vault = Vault()
    store: Store = Store()
    backup: BackupSettings = BackupSettings()
    replica: ReplicaSettings = ReplicaSettings()
    notify: Notify = Notify()
    log: Log = Log()


def default_data_dir() -> Path:
    """KEKBRIDGE_DATA_DIR, else the platform's directory for user data."""
    configured = os.environ.get("KEKBRIDGE_DATA_DIR")
    if configured:
        return Path(configured).expanduser()
    import platformdirs  # late: most commands get the directory from an option or the environment

    return Path(platformdirs.user_data_dir(APP_NAME, appauthor=False))


def find_config_file(given: Path | None, data_dir: Path) -> Path | None:
    """The file given by option or KEKBRIDGE_CONFIG, else `config.toml` in the data directory, else None.

    Raises ConfigError if the given file does not exist.
    """
    named = given or (Path(os.environ["KEKBRIDGE_CONFIG"]) if os.environ.get("KEKBRIDGE_CONFIG") else None)
    if named is not None:
        if not named.is_file():
            raise ConfigError(
                f"config file {named} does not exist; name an existing one with --config, or leave it out"
            )
        return named
    default = data_dir / "config.toml"
    try:
        return default if default.is_file() else None
    except PermissionError:  # another user's data directory: the service's, for members of its group
        return None


def load_settings(
    file: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Load settings from defaults, file, environment and overrides (by dotted names such as `server.port`); later ones win.

    Raises ConfigError with one line that names the setting, what was found and what is expected.
    """
    values: dict[str, Any] = _read_toml(file) if file else {}
    for name, value in _environment_values(os.environ if environment is None else environment):
        _set_value(values, name, value)
    for name, value in (overrides or {}).items():
        if value is not None:
            _set_value(values, name, value)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_describe(error.errors(include_url=False)[0], file)) from None


def dotted_names() -> tuple[str, ...]:
    """The dotted name of every setting, in the order of the example file."""
    names: list[str] = []
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, _Section):
            names += [f"{name}.{inner}" for inner in section.model_fields]
        else:
            names.append(name)
    return tuple(names)


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"), parse_float=Decimal)
    except OSError as error:
        raise ConfigError(f"config file {file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {file} is not valid TOML: {error}") from None


def _environment_values(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """`KEKBRIDGE_SERVER_PORT=9000` -> ("server.port", "9000"); an unknown name is an error, as in the file."""
    known = {ENVIRONMENT_PREFIX + name.replace(".", "_").upper(): name for name in dotted_names()}
    found: list[tuple[str, str]] = []
    for variable, value in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in _PATH_VARIABLES:
            continue
        if variable.startswith("KEKBRIDGE_TEST_"):
            continue  # failpoints and other switches of the test harness
        if variable not in known:
            near = difflib.get_close_matches(variable, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "`kekbridge config show` lists the settings"
            raise ConfigError(f"environment variable {variable} is not a setting; {hint}")
        found.append((known[variable], value))
    return found


def _set_value(values: dict[str, Any], name: str, value: object) -> None:
    *sections, last = name.split(".")
    target = values
    for section in sections:
        inner = target.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"setting {section} is a section, found a single value; write [{section}] and {last} = …")
        target = inner
    target[last] = value


def _describe(error: ErrorDetails, file: Path | None) -> str:
    name = ".".join(str(part) for part in error["loc"] if not isinstance(part, int))
    where = f" in {file}" if file else ""
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, dotted_names(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "`kekbridge config show` lists the settings"
        return f"unknown setting {name}{where}; {hint}"
    if error["type"] == "value_error":  # raised here, in our words
        return f"setting {name}{where}: {error['ctx']['error']}"
    return f"setting {name}{where}: found {_found(error['input'])}, expected {_expected(error)}"


def _found(value: object) -> str:
    """What was written, short and without what looks like a secret."""
    if isinstance(value, Mapping):
        return "a section"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = sanitize(redact_secrets(text))[:_LONGEST_FOUND]
    return repr(text) if isinstance(value, str) else text


def _expected(error: ErrorDetails) -> str:
    """What a setting takes, in words: its kind, and its range or its choices."""
    kind, name = error["type"], tuple(str(part) for part in error["loc"] if not isinstance(part, int))
    if kind in ("literal_error", "enum"):
        return str(error["ctx"]["expected"])
    if kind in ("model_type", "model_attributes_type"):
        return f"a section: write [{'.'.join(name)}], and its settings below it"
    field = _field_of(name)
    annotation = None if field is None else field.annotation
    if kind.startswith("bool"):
        return "true or false"
    if annotation in (int, float, Decimal):
        bounds = {type(each).__name__: each for each in (field.metadata if field is not None else ())}
        return ("a whole number" if annotation is int else "a number") + _range(bounds)
    if kind.startswith("string"):
        return "a text in quotes"
    if kind.startswith(("tuple", "list", "set")):
        return 'a list such as ["a", "b"]'
    if kind.startswith(("dict", "mapping")):
        return "a table of names and values"
    return "another kind of value; see config.example.toml"


def _field_of(name: tuple[str, ...]) -> FieldInfo | None:
    """The declaration of a setting, by its section and name."""
    model: Any = Settings
    field: FieldInfo | None = None
    for part in name:
        fields = getattr(model, "model_fields", {})
        if part not in fields:
            return None
        field = fields[part]
        model = field.annotation
    return field


def _range(bounds: Mapping[str, Any]) -> str:
    """` from 0 to 65535`, ` above 0 and up to 60`, ` of at least 1`."""
    lower = f"from {bounds['Ge'].ge}" if "Ge" in bounds else f"above {bounds['Gt'].gt}" if "Gt" in bounds else ""
    upper = f"to {bounds['Le'].le}" if "Le" in bounds else f"below {bounds['Lt'].lt}" if "Lt" in bounds else ""
    if lower and upper:
        return f" {lower} {upper}" if "Ge" in bounds else f" {lower} and up {upper}"
    if "Ge" in bounds:
        return f" of at least {bounds['Ge'].ge}"
    return f" {lower or upper}" if lower or upper else ""
