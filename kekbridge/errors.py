"""Exceptions, by what the caller must do. Codes and their HTTP statuses are in codes.py.

KekbridgeError
├── RequestRefused             refuse the request; the sender gets 4xx, nothing is retried
│   ├── Unreadable             400  the body is not a message
│   ├── TooLarge               413  the body is over the cap
│   ├── Unauthenticated        401  the sender gets a neutral sentence, the log the real reason
│   ├── Forbidden              403  known sender, but the webhook is disabled or the address not allowed
│   ├── Refused                422  understood, but it cannot become an order
│   └── RateLimited            429  carries retry_after_s
├── StoreUnavailable           503  nothing was stored: the only reason for a 5xx
├── ExchangeUnavailable        a query to the exchange failed; try again later
└── OperatorError              print one line for the operator and exit (code 2 unless the class has another)
    ├── ConfigError            a setting, file or argument is wrong
    ├── VaultError             no usable vault, or a secret is missing
    ├── AlreadyRunning         another daemon holds the data directory
    └── NotFound               the named webhook, alert or order does not exist (exit code 3)
"""

from __future__ import annotations

from kekbridge.codes import status_of


class KekbridgeError(Exception):
    """Base of all expected errors: a stable code and one line for people, which never contains a secret."""

    def __init__(self, code: str, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field

    def __str__(self) -> str:
        return self.message


class RequestRefused(KekbridgeError):
    """The request is refused with a 4xx status."""

    #: True if the sender had proven who it is before the request was refused.
    is_proven = False

    @property
    def status(self) -> int:
        """HTTP status of the code."""
        return status_of(self.code)


class Unreadable(RequestRefused):
    """The body is not one JSON message (400)."""


class TooLarge(RequestRefused):
    """The body is over the cap (413)."""


class Unauthenticated(RequestRefused):
    """The sender is not authenticated (401). `message` is for the log; the sender gets only a neutral sentence."""


class Forbidden(RequestRefused):
    """The sender is known but not allowed to send (403)."""


class Refused(RequestRefused):
    """Understood, but it cannot become an order (422; 400 if a field cannot be read at all)."""


class RateLimited(RequestRefused):
    """Too many alerts (429)."""

    def __init__(self, code: str, message: str, *, retry_after_s: int) -> None:
        super().__init__(code, message)
        self.retry_after_s = retry_after_s


class StoreUnavailable(KekbridgeError):
    """The alert could not be stored (disk full, locked, read-only). 503 makes the sender send it again."""


class ExchangeUnavailable(KekbridgeError):
    """A query to the exchange got no usable reply. It implies nothing about any order."""


class OperatorError(KekbridgeError):
    """An error the operator must fix. The command line prints `message` and exits with `exit_code`."""

    exit_code = 2


class ConfigError(OperatorError):
    """A setting, file or argument is wrong."""

    def __init__(self, message: str, *, code: str = "config_invalid", field: str | None = None) -> None:
        super().__init__(code, message, field=field)


class VaultError(OperatorError):
    """No usable vault, or a required secret is missing from it."""

    def __init__(self, message: str, *, code: str = "vault_unavailable") -> None:
        super().__init__(code, message)


class AlreadyRunning(OperatorError):
    """Another daemon holds this data directory."""

    exit_code = 4


class NotFound(OperatorError):
    """A webhook, alert or order of that name does not exist."""

    exit_code = 3
