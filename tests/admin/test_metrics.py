"""/metrics, and the Grafana dashboard that shows it: every expression names metrics and labels that the daemon really exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from kekbridge.config import Admin
from kekbridge.model.notifications import MESSAGES
from kekbridge.store import conditions
from tests.admin.session import Browser
from tests.bridge import BTC
from tests.paths import ROOT

OPERATIONS = (ROOT / "kekbridge" / "docs" / "operations.md").read_text(encoding="utf-8")
DASHBOARD: dict[str, Any] = json.loads((ROOT / "kekbridge" / "docs" / "grafana.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
#: Every selector of an expression: the metric's name and its matchers.
_SELECTOR = re.compile(r"([a-z_]\w*)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)(=~|!=|=)"([^"]*)"')
_FUNCTIONS = {"sum", "by", "rate", "increase", "delta", "clamp_min", "histogram_quantile", "time", "vector", "or"}


def targets() -> Iterator[tuple[str, str]]:
    """Expression and legend of every query."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield target["expr"], target["legendFormat"]


async def scrape(browser: Browser) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Labels and value of every sample by its name."""
    proof = {"Authorization": f"Bearer {browser.token}"}
    async with browser.session.get(browser.url + "/metrics", headers=proof) as answer:
        text = await answer.text()
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


async def test_the_dashboard_shows_what_is_exported(browser: Browser) -> None:
    """Every metric, label and value in an expression or legend is in a scrape of a bridge that traded, refused and has a condition."""
    await browser.bridge.send()
    await browser.bridge.send(symbol="NOSUCHCOIN")
    await browser.bridge.until_settled()
    database, now = browser.bridge.daemon.database, browser.bridge.clock()
    await database.write(conditions.begin, "disk", "disk_low", now=now, data={"free": "1 MB", "place": "/"})
    exported = await scrape(browser)
    for expression, legend in targets():
        selectors = _SELECTOR.findall(expression)
        assert selectors, expression
        # What remains are functions and grouping; a metric without a selector would mix bridges.
        words = set(
            re.findall(
                r"[a-z_]{2,}", re.sub(r"\[\w+\]|\(le\)|\[\$__rate_interval\]", "", _SELECTOR.sub("", expression))
            )
        )
        assert words <= _FUNCTIONS, expression
        labels: set[str] = set()
        for name, matchers in selectors:
            assert name in exported, expression
            labels |= {label for sample, _ in exported[name] for label in sample}
            found = _MATCHER.findall(matchers)
            assert ("instance", "=", "$instance") in found, expression
            for label, _, value in found:
                if label != "instance":
                    values = {sample[label] for sample, _ in exported[name]} | set(MESSAGES)
                    assert set(value.split("|")) <= values, expression
        # Prometheus adds `instance` and `job`, and renames a label `job` of ours.
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= labels | ({"exported_job"} if "job" in labels else set())
        assert "(le)" not in expression or "le" in labels


async def test_the_examples_for_prometheus(browser: Browser) -> None:
    """The document's scrape configuration leads to the pages' default port with their token; its rule names metrics that exist."""
    blocks = dict(re.findall(r"<!-- test: (\w+) -->\n```yaml\n(.*?)```", OPERATIONS, re.DOTALL))
    (job,) = yaml.safe_load(blocks["prometheus"])["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"127.0.0.1:{Admin().port}"]}]
    assert (browser.bridge.data_dir / "admin-token").read_text().strip() == browser.token
    assert f"admin-token {job['authorization']['credentials_file']}`" in OPERATIONS
    (rule,) = yaml.safe_load(blocks["rule"])["groups"][0]["rules"]
    exported = await scrape(browser)
    names = set(re.findall(r"[a-z_]{2,}", re.sub(r"\{[^}]*\}", "", rule["expr"]))) - {"or"}
    assert names == {"up", "kekbridge_ready"} <= {"up"} | exported.keys()


async def test_positions_are_one_sample_for_each_market(browser: Browser) -> None:
    """A market may have a cross and an isolated position: two samples with the same labels would be a broken page. Short is negative."""
    await browser.bridge.set_positions(BTC="-0.5")
    await browser.bridge.set_isolated(BTC, "0.2")
    exported = await scrape(browser)
    snapshot = browser.bridge.daemon.exchange.snapshot
    assert snapshot is not None
    mark = snapshot.mark_price(BTC)
    assert mark is not None
    ((labels, coins),) = exported["kekbridge_position"]
    ((_, value),) = exported["kekbridge_position_notional_usdc"]
    assert (labels, coins, value) == ({"symbol": BTC}, -0.3, float(Decimal("-0.3") * mark))


def test_the_dashboard_can_be_imported() -> None:
    """What Grafana needs: a datasource to choose, unique ids of panels, places that do not overlap, units, a query with a letter each."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert {"title", "uid", "schemaVersion", "time", "templating", "panels"} <= DASHBOARD.keys()
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    assert variables["instance"]["definition"] == "label_values(kekbridge_ready, instance)"
    used: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + right, place["y"] + down) for right in range(place["w"]) for down in range(place["h"])}
        assert not used & cells, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        used |= cells
    for panel in PANELS:
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(one == {"type": "prometheus", "uid": "${datasource}"} for one in sources), panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters), panel["title"]
