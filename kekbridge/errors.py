"""The exception tree, split by what the caller must do. Codes and their HTTP statuses stand in codes.py.

KekbridgeError
├── RequestRefused             refuse the request; the sender gets 4xx, nothing is retried
│   ├── Unreadable             400  the body is not a message
│   ├── TooLarge               413  the body is over the cap
│   ├── Unauthenticated        401  one neutral sentence outwards; the real reason only in the log
│   ├── Forbidden              403  known sender, but the webhook is disabled or the address not allowed
│   ├── Conflict               409  the same alertId with another body
│   ├── Refused                422  understood, but it cannot become an order
│   └── RateLimited            429  carries retry_after_s
├── StoreUnavailable           503  nothing was stored: the only reason for a 5xx
├── ExchangeUnavailable        the exchange could not be asked; look again later
└── OperatorError              tell the operator in one line and stop (exit code 2 unless the class says otherwise)
    ├── ConfigError            a setting, file or argument is wrong
    ├── VaultError             no place for secrets, or a secret is missing
    ├── AlreadyRunning         another daemon holds the data directory
    └── NotFound               the named thing does not exist (exit code 3)
"""

from __future__ import annotations

from kekbridge.codes import status_of


class KekbridgeError(Exception):
    """Base of everything kekbridge raises on purpose: a stable code and one line for a person, never a secret."""

    def __init__(self, code: str, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field

    def __str__(self) -> str:
        return self.message


class RequestRefused(KekbridgeError):
    """The request cannot be taken; `status` is the HTTP status the code table gives."""

    @property
    def status(self) -> int:
        return status_of(self.code)


class Unreadable(RequestRefused):
    """The body is not one JSON message (400)."""


class TooLarge(RequestRefused):
    """The body is over the cap (413)."""


class Unauthenticated(RequestRefused):
    """No valid proof of the sender (401). `message` is for the log; the sender gets the neutral sentence only."""


class Forbidden(RequestRefused):
    """The sender is known, but may not send now (403)."""


class Conflict(RequestRefused):
    """An alertId came again with other content (409)."""


class Refused(RequestRefused):
    """Understood, but no order can be made of it (422; 400 where a field cannot be read at all)."""


class RateLimited(RequestRefused):
    """Too many alerts (429)."""

    def __init__(self, code: str, message: str, *, retry_after_s: int) -> None:
        super().__init__(code, message)
        self.retry_after_s = retry_after_s


class StoreUnavailable(KekbridgeError):
    """The alert could not be stored (disk full, locked, read-only): the sender is asked to send again with 503."""


class ExchangeUnavailable(KekbridgeError):
    """A question to the exchange got no usable answer. It says nothing about any order."""


class OperatorError(KekbridgeError):
    """Something the operator must fix. The command line prints `message` on one line and exits with `exit_code`."""

    exit_code = 2


class ConfigError(OperatorError):
    """A setting, file or argument is wrong."""

    def __init__(self, message: str, *, code: str = "config_invalid", field: str | None = None) -> None:
        super().__init__(code, message, field=field)


class VaultError(OperatorError):
    """No usable place for secrets, or a secret that should be there is not."""

    def __init__(self, message: str, *, code: str = "vault_unavailable") -> None:
        super().__init__(code, message)


class AlreadyRunning(OperatorError):
    """Another daemon holds this data directory."""

    exit_code = 4


class NotFound(OperatorError):
    """A webhook, alert or order of that name does not exist."""

    exit_code = 3
