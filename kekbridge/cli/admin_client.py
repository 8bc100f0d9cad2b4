"""The running daemon's admin API, as commands need it: found in the data directory, spoken to with its token. Prints nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from kekbridge.errors import ConfigError

if TYPE_CHECKING:
    from kekbridge.cli.context import CliContext

_ANSWER_S = 5.0


class AdminApi:
    """The API at an address, for the holder of its token."""

    def __init__(self, address: str, token: str) -> None:
        self.address = address
        self.token = token

    def __repr__(self) -> str:
        return f"AdminApi({self.address!r})"

    def get(self, path: str) -> Any:
        """What is there. Raises ConfigError when nobody answers."""
        return self._call(path, None)

    def post(self, path: str, body: object) -> Any:
        """Tell it something. Raises ConfigError when nobody answers, or with what the daemon has against it."""
        return self._call(path, body)

    def _call(self, path: str, body: object) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = Request(self.address + path, data=data, headers=headers)  # noqa: S310 - our own listener
        try:
            with urlopen(request, timeout=_ANSWER_S) as answer:  # noqa: S310 - our own listener
                return json.load(answer)
        except HTTPError as error:
            raise ConfigError(_complaint(error) or self._trouble(error.code)) from None
        except (URLError, OSError, ValueError):
            raise ConfigError(f"the bridge does not answer at {self.address}; is `kekbridge serve` running?") from None

    def _trouble(self, status: int) -> str:
        return f"the admin listener at {self.address} answered {status}; restart the bridge"


def find_admin_api(workspace: CliContext) -> AdminApi:
    """The API of this data directory's daemon. Raises ConfigError when there never was one."""
    from kekbridge.admin.auth import read_token
    from kekbridge.cli.context import opened
    from kekbridge.store.daemon_addresses import admin_address

    with opened(workspace) as database, database.snapshot() as connection:
        address = admin_address(connection)
    token = read_token(workspace.data_dir)
    if address is None or token is None:
        raise ConfigError("the bridge has not run with the admin listener yet; start `kekbridge serve` (admin.enabled)")
    return AdminApi(address, token)


def _complaint(error: HTTPError) -> str | None:
    """What the daemon said was wrong with the request, if it did."""
    if error.code != 400:
        return None
    try:
        told = json.load(error)
        return str(told["error"])
    except (ValueError, KeyError, TypeError):
        return None
