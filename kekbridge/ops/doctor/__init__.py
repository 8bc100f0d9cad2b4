"""What a trader should know before trusting an installation: each check is one line (ok, warning, broken) with the fix. Changes nothing."""

from __future__ import annotations

from kekbridge.ops.doctor.checks import examine

__all__ = ["examine"]
