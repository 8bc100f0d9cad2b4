"""Fixtures shared by several packages, and Hypothesis profiles: HYPOTHESIS_PROFILE=release runs 10,000 examples per property test.

Such a run exceeds the usual time limit: use `pytest -o timeout=3600`.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from kekbridge import log
from tests.bridge import Bridge, quick_bridge, running_paper
from tests.paths import ROOT

# Neither an example nor its generation has a time limit, because test machines are often busy. Ordinary runs use the same examples each
# time, so that none fails by chance; a release run tries new ones.
_NO_TIME_LIMIT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", _NO_TIME_LIMIT, derandomize=True)
settings.register_profile("release", _NO_TIME_LIMIT, max_examples=10_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

#: Where tests start processes, which keep the cores busy, and where they mostly wait for an exchange. Their files alternate, so that both
#: go on at once, and come before all others, so that no worker ends alone with one that takes a minute.
_BUSY = ("test_documents.py", "bench", "system", "cli")
_WAITING = ("execution", "admin", "daemon", "ops")
#: Starting workers takes longer than it saves when at most this many files or tests are named.
_FEW = 3


@pytest.hookimpl(wrapper=True, optionalhook=True)  # optional: -p no:xdist does not know it
def pytest_xdist_auto_num_workers(config: pytest.Config) -> Generator[None, int, int]:
    """Four workers more than cores, because many tests mostly wait; none for a few files or for -k."""
    cores = yield
    few = len(config.args) <= _FEW and all(argument.partition("::")[0].endswith(".py") for argument in config.args)
    return 0 if few or config.option.keyword else cores + 4


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Let -p no:xdist accept the options that pyproject.toml always passes."""
    if not pluginmanager.hasplugin("xdist"):
        parser.addoption("--numprocesses", help="ignored: xdist is off")
        parser.addoption("--dist", help="ignored: xdist is off")
        parser.addoption("--no-loadscope-reorder", action="store_true", help="ignored: xdist is off")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Without the garbage collector, which would search the growing heap again and again; what was collected, it skips for good."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Each worker begins with another file: what pytest has compiled for one, the others read from __pycache__."""
    report = yield
    worker = getattr(collector.config, "workerinput", None)
    if worker is not None and isinstance(collector, pytest.Directory) and report.passed:
        number, found = int(worker["workerid"].removeprefix("gw")), report.result
        first = len(found) * number // worker["workercount"]
        report.result = found[first:] + found[:first]
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long first, the rest by path; in every worker alike."""
    part_of = {path: path.relative_to(ROOT / "tests").parts[0] for path in {item.path for item in items}}
    rank: dict[Path, float] = {}
    for parts in (_BUSY, _WAITING):
        files = sorted((parts.index(part), path) for path, part in part_of.items() if part in parts)
        rank |= {path: number / len(files) for number, (_, path) in enumerate(files)}
    items.sort(key=lambda item: (rank.get(item.path, 1.0), item.path))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Commands and daemons that run in this process configure its log: undone for the next test. A fixture would take ten times as long."""
    output, root = log._output, logging.getLogger()
    handlers, level = list(root.handlers), root.level
    result = yield
    if log._output is not output:
        log._output = output
        logging.captureWarnings(capture=False)
        root.handlers[:] = handlers
        root.setLevel(level)
    return result


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    """A daemon in this process with its paper exchange, short waits and the webhook "main", ready to trade."""
    async with running_paper(tmp_path / "paper") as paper_url, quick_bridge(tmp_path, paper_url) as inside:
        yield inside


@pytest.fixture
async def hasty_bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    """Like `bridge`, with half the time to protect a position and few attempts per entry, so that failures come sooner."""
    async with (
        running_paper(tmp_path / "paper") as paper_url,
        quick_bridge(tmp_path, paper_url, queue__protect_within_s=2.5, queue__attempts=3) as inside,
    ):
        yield inside


@pytest.fixture
async def limited_bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    """Like `bridge`, at an exchange with the published rate limits, which the bridge keeps."""
    async with (
        running_paper(tmp_path / "paper", rate_limits=True) as paper_url,
        quick_bridge(tmp_path, paper_url, exchange__rate_factor=1) as inside,
    ):
        yield inside
