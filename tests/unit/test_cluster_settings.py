"""Settings of the operator: from the chart's variables, with one line for each mistake."""

from __future__ import annotations

import json
import logging

import pytest
from proa_operator import main
from proa_operator.api.engine import EngineType
from proa_operator.errors import StartError
from proa_operator.logs import JsonLines, TextLines
from proa_operator.settings import Settings

GOOD = {
    "PROA_OPERATOR_IMAGE": "op:1",
    "PROA_OPERATOR_NAMESPACE": "proa",
    "PROA_OPERATOR_LABELS": '{"app.kubernetes.io/component": "operator"}',
    "PROA_POD_NAME": "proa-0",
    "PROA_LEASE_NAME": "proa",
    "PROA_ENGINE_IMAGE_SIM": "sim:1",
    "PROA_WATCH_NAMESPACES": "a, b",
    "PROA_PROMETHEUS_SELECTOR": '{"namespaceLabels": {"team": "x"}, "podLabels": {}}',
    "PROA_DEVICE_GROUPS": "44,109",
    "PATH": "/bin",
}


def test_everything_that_the_chart_sets_is_read() -> None:
    found = Settings.from_environment(GOOD)
    assert (found.namespaces, found.engine_images) == (("a", "b"), {EngineType.SIM: "sim:1"})
    assert (found.health_port, found.metrics_port, found.log_format) == (8081, 9090, "json")
    render = found.render(has_pod_monitors=True, has_http_routes=False)
    assert render.prometheus.namespace_labels == {"team": "x"}
    assert render.operator_labels == {"app.kubernetes.io/component": "operator"}
    assert (render.has_pod_monitors, render.has_http_routes, render.device_groups) == (True, False, (44, 109))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"PROA_FOO": "1"}, "unknown settings PROA_FOO: remove them, or use one of PROA_OPERATOR_IMAGE"),
        ({"PROA_POD_NAME": ""}, "PROA_POD_NAME is not set: the chart sets it"),
        ({"PROA_LOG_FORMAT": "xml"}, "PROA_LOG_FORMAT=xml: use json or text"),
        ({"PROA_IMAGE_PULL_POLICY": "Now"}, "PROA_IMAGE_PULL_POLICY=Now: use IfNotPresent or Always or Never"),
        ({"PROA_HEALTH_PORT": "x"}, "PROA_HEALTH_PORT=x: use whole numbers with commas between them"),
        ({"PROA_HEALTH_PORT": "70000"}, "PROA_HEALTH_PORT=70000: use one number up to 65535"),
        ({"PROA_METRICS_PORT": "1,2"}, "PROA_METRICS_PORT=1,2: use one number up to 65535"),
        ({"PROA_OPERATOR_LABELS": "{"}, "PROA_OPERATOR_LABELS={: use a JSON object"),
        ({"PROA_OPERATOR_LABELS": '{"a": 1}'}, 'PROA_OPERATOR_LABELS={"a": 1}: use a JSON object of labels'),
        ({"PROA_DOWNLOAD_ENV": '{"PATH": "x"}'}, "use a JSON object of texts with HF_ENDPOINT, HTTPS_PROXY"),
        ({"PROA_PROMETHEUS_SELECTOR": '{"labels": {}}'}, "use a JSON object with namespaceLabels and podLabels"),
    ],
)
def test_a_mistake_is_one_line_with_the_fix(changes: dict[str, str], says: str) -> None:
    with pytest.raises(StartError) as caught:
        Settings.from_environment({**GOOD, **changes})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_settings_end_the_process_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main({**GOOD, "PROA_TYPO": "1"}) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: unknown settings PROA_TYPO")
    assert said.count("\n") == 1


def test_json_logs_have_the_values_beside_a_constant_message() -> None:
    record = logging.makeLogRecord({"name": "x", "levelname": "INFO", "msg": "leads", "created": 0.0, "transitions": 3})
    line = json.loads(JsonLines().format(record))
    expected = {"level": "info", "logger": "x", "message": "leads", "transitions": 3}
    assert line == {"time": "1970-01-01T00:00:00.000+00:00", **expected}
    assert TextLines().format(record).endswith("info    leads transitions=3")
