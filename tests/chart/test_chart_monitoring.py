"""Rules and dashboards as the chart installs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from proa_operator.monitoring import RULES

CHART = Path(__file__).parents[2] / "charts" / "proa"
SCENARIO = f"--values={CHART / 'ci' / '07-monitoring.yaml'}"
Rendered = list[dict[str, Any]]
Render = Callable[..., Rendered]


def _of(objects: Rendered, kind: str) -> Rendered:
    return [found for found in objects if found["kind"] == kind]


def _alerts(groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def test_every_rule_arrives_with_its_templates_and_its_runbook(render: Render) -> None:
    files = [yaml.safe_load(path.read_text("utf-8"))["groups"] for path in sorted(RULES.glob("*.yaml"))]
    installed = [rule["spec"]["groups"] for rule in _of(render(SCENARIO), "PrometheusRule")]
    for wanted, found in zip(files, installed, strict=True):
        assert [group["name"] for group in found] == [group["name"] for group in wanted]
        for name, alert in _alerts(found).items():
            url = alert["annotations"].pop("runbook_url")
            assert url == f"https://wiki.example.com/proa/runbooks/{name}.md"
            assert alert == _alerts(wanted)[name]


def test_without_an_address_alerts_have_no_link(render: Render) -> None:
    rules = _of(render("--set=metrics.rules.enabled=true"), "PrometheusRule")
    alerts = [alert for rule in rules for alert in _alerts(rule["spec"]["groups"]).values()]
    assert alerts
    assert all("runbook_url" not in alert["annotations"] for alert in alerts)


def test_dashboards_arrive_byte_for_byte(render: Render) -> None:
    maps = [found for found in _of(render(SCENARIO), "ConfigMap") if "-dashboard-" in found["metadata"]["name"]]
    installed = {name: text for found in maps for name, text in found["data"].items()}
    assert installed == {path.name: path.read_text("utf-8") for path in (CHART / "files" / "dashboards").glob("*.json")}
    assert all(found["metadata"]["labels"]["grafana_dashboard"] == "1" for found in maps)
    assert all(json.loads(text)["uid"] in name for name, text in installed.items())


@pytest.mark.parametrize("kind", ["PrometheusRule", "ConfigMap"])
def test_by_default_there_is_nothing(kind: str, render: Render) -> None:
    found = [one["metadata"]["name"] for one in _of(render(), kind)]
    assert not [name for name in found if kind == "PrometheusRule" or "-dashboard-" in name]


def test_rules_without_their_kind_are_refused_with_the_fix(helm: Callable[..., Any]) -> None:
    done = helm("template", "proa", str(CHART), "--set=metrics.rules.enabled=true")
    assert done.returncode != 0
    assert "install the CRDs of the Prometheus operator first" in done.stderr
