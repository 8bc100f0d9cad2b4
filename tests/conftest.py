"""Fixtures that several rooms share, and how long property tests try: HYPOTHESIS_PROFILE=release makes 10,000 examples of each.

Such a run needs more than the usual time: pytest -o timeout=3600.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.bridge import House, running_house, running_paper

# Property tests run on busy machines: neither an example nor its generation has a time limit. Ordinary runs try the same examples each
# time, so that none fails by chance; a release run looks for new ones.
_UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", _UNHURRIED, derandomize=True)
settings.register_profile("release", _UNHURRIED, max_examples=10_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

#: Starting workers takes longer than it saves when at most this many files or tests are named.
_FEW = 3


@pytest.hookimpl(wrapper=True, optionalhook=True)  # optional: -p no:xdist does not know it
def pytest_xdist_auto_num_workers(config: pytest.Config) -> Generator[None, int, int]:
    """One worker per core, at least 2 because many tests mostly wait; none for a few files or for -k."""
    cores = yield
    few = len(config.args) <= _FEW and all(argument.partition("::")[0].endswith(".py") for argument in config.args)
    return 0 if few or config.option.keyword else max(2, cores)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Let -p no:xdist accept the options that pyproject.toml always passes."""
    if not pluginmanager.hasplugin("xdist"):
        parser.addoption("--numprocesses", help="ignored: xdist is off")
        parser.addoption("--dist", help="ignored: xdist is off")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A daemon in this process, with its paper exchange, ready to trade."""
    async with running_paper(tmp_path / "paper") as paper_url, running_house(tmp_path / "data", paper_url) as inside:
        yield inside


@pytest.fixture
async def hasty_house(tmp_path: Path) -> AsyncIterator[House]:
    """The same, with half the time to protect a position and few attempts for an entry: what ends badly ends sooner."""
    async with (
        running_paper(tmp_path / "paper") as paper_url,
        running_house(tmp_path / "data", paper_url, queue__protect_within_s=2.5, queue__attempts=3) as inside,
    ):
        yield inside
