"""A curl line that sends one alert when pasted into a shell: what TradingView would send, signed, with the time put in by the shell."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping

from kekbridge.alerts.signature import sign

_NOW = '"$(date -u +%Y-%m-%dT%H:%M:%SZ)"'
_SLOT = "<now>"


def curl_line(url: str, fields: Mapping[str, str], api_secret: str) -> str:
    """One line for sh, bash and zsh: POSTs `fields` with a template signature over all of them and the shell's own time.

    The body stands in single quotes, broken once for the time: '…"timestamp":"'"$(date …)"'",…'. The timestamp is not signed, so the
    same line works whenever it is pasted.
    """
    body = json.dumps(
        {**fields, "timestamp": _SLOT, "signature": sign(api_secret, fields)}, ensure_ascii=True, separators=(",", ":")
    )
    before, after = body.split(_SLOT)
    quoted = _single(before) + _NOW + _single(after)
    return f"curl -sS {shlex.quote(url)} -H 'Content-Type: application/json' -d {quoted}"


def _single(text: str) -> str:
    """Single quotes whatever the text, as zsh would expand `!` and bash `$` elsewhere."""
    return "'" + text.replace("'", "'\"'\"'") + "'"
