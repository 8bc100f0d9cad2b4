"""Property tests here run on busy machines: no deadline for a single example."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("kekbridge", deadline=None)
settings.load_profile("kekbridge")
