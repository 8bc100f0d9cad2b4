"""One question to the listener of a bridge on this machine: does it run, is it ready.

Imported by a health check every 30 s: keep it free of heavy imports.
"""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any, Final
from urllib.parse import urlsplit

_TIMEOUT_S: Final = 3.0


def ask(url: str, path: str) -> tuple[int, dict[str, Any]]:
    """Status and body of a bridge's /healthz or /readyz; 0 and nothing if kekbridge does not answer. `url`: its address on this machine."""
    parts = urlsplit(url)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(parts.hostname or "", parts.hostname or "")  # noqa: S104 - compared only
    try:
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            context.check_hostname = False  # this machine, by its address; reachability.py verifies the name
            context.verify_mode = ssl.CERT_NONE
            connection = http.client.HTTPSConnection(host, parts.port, timeout=_TIMEOUT_S, context=context)
        else:
            connection = http.client.HTTPConnection(host, parts.port, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            answer = json.loads(response.read(65_536))
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException):
        return 0, {}
    return (response.status, answer) if isinstance(answer, dict) else (0, {})
