"""HTTP client of the running daemon's admin API; address and token are read from the data directory. Prints nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from kekbridge.errors import ConfigError

if TYPE_CHECKING:
    from kekbridge.cli.context import CliContext

_TIMEOUT_S = 5.0


class AdminApi:
    """Client of the admin API at one address."""

    def __init__(self, address: str, token: str) -> None:
        self.address = address
        self.token = token

    def __repr__(self) -> str:
        return f"AdminApi({self.address!r})"

    def get(self, path: str) -> Any:
        """GET a path and return its JSON. Raises ConfigError when the bridge does not answer."""
        return self._request(path, None)

    def post(self, path: str, body: object) -> Any:
        """POST JSON to a path and return the JSON reply. Raises ConfigError when the bridge does not answer or rejects the request."""
        return self._request(path, body)

    def _request(self, path: str, body: object) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = Request(self.address + path, data=data, headers=headers)  # noqa: S310 - our own listener
        try:
            with urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310 - our own listener
                return json.load(response)
        except HTTPError as error:
            raise ConfigError(_error_text(error) or self._unexpected_status(error.code)) from None
        except (URLError, OSError, ValueError):
            raise ConfigError(f"the bridge does not answer at {self.address}; is `kekbridge serve` running?") from None

    def _unexpected_status(self, status: int) -> str:
        return f"the admin listener at {self.address} answered HTTP {status}; restart the bridge"


def find_admin_api(context: CliContext) -> AdminApi:
    """Return a client for this data directory's daemon. Raises ConfigError when no daemon with an admin API has run yet."""
    from kekbridge.admin.auth import read_token
    from kekbridge.cli.context import open_database
    from kekbridge.store.daemon_addresses import admin_address

    with open_database(context) as database, database.snapshot() as connection:
        address = admin_address(connection)
    token = read_token(context.data_dir)
    if address is None or token is None:
        raise ConfigError(
            "no admin listener has run on this data directory yet; start `kekbridge serve` with admin.enabled = true"
        )
    return AdminApi(address, token)


def _error_text(error: HTTPError) -> str | None:
    """Return the daemon's error text for a request that it rejected (400), else None."""
    if error.code != 400:
        return None
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return None
