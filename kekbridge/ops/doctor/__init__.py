"""Checks of an installation for `kekbridge doctor`: each is one line (ok, warning, broken) with its fix. Changes nothing."""

from __future__ import annotations

from kekbridge.ops.doctor.checks import examine

__all__ = ["examine"]
