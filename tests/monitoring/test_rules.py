"""Recording rules and alerts, with Prometheus' own promtool: each alert fires when it should, and only then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from proa_operator import monitoring

from tests.conftest import Promtool
from tests.monitoring.alert_cases import CASES, Case, Series

ROOT = Path(__file__).parents[2]
RULES = sorted(monitoring.RULES.glob("*.yaml"))
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for path in RULES
    for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
    if "alert" in rule
}


def run_case(promtool: Promtool, folder: Path, alert: str, series: Series, minutes: int) -> bool:
    """Whether the alert fires, by promtool's own evaluation: the expected list is empty, so a firing alert fails it."""
    test = {
        "rule_files": [str(path) for path in RULES],
        "evaluation_interval": "30s",
        "tests": [
            {
                "interval": "30s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [{"eval_time": f"{minutes}m", "alertname": alert, "exp_alerts": []}],
            }
        ],
    }
    path = folder / "test.yaml"
    path.write_text(yaml.safe_dump(test), encoding="utf-8")
    done = promtool("test", "rules", str(path))
    assert done.returncode == 0 or f"alertname: {alert}" in done.stderr + done.stdout, done.stderr + done.stdout
    return done.returncode != 0


def test_rules_are_valid(promtool: Promtool) -> None:
    done = promtool("check", "rules", *map(str, RULES))
    assert done.returncode == 0, done.stderr


def test_every_alert_has_a_case_and_no_case_lacks_its_alert() -> None:
    assert set(CASES) == set(ALERTS)
    assert len(ALERTS) >= 15


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_it_fires_and_stays_quiet(alert: str, promtool: Promtool, tmp_path: Path) -> None:
    case: Case = CASES[alert]
    assert run_case(promtool, tmp_path, alert, case.fires, case.minutes), f"{alert} does not fire"
    assert not run_case(promtool, tmp_path, alert, case.quiet, case.minutes), f"{alert} fires without cause"


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_it_has_a_severity_a_summary_and_a_runbook(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["summary"]
    page = ROOT / "docs" / "runbooks" / f"{alert}.md"
    assert page.read_text(encoding="utf-8").startswith(f"# {alert}\n")


def test_there_is_no_runbook_without_an_alert() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")} - {"README"}
    assert pages <= set(ALERTS)
