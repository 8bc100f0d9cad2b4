"""Where the tests find the repository and their own data."""

from __future__ import annotations

from pathlib import Path

#: Root of the repository.
ROOT = Path(__file__).parents[1]
#: Files that tests read: alert payloads, self-signed certificates.
DATA = ROOT / "tests" / "data"
