"""Our formulas on a real report of guidellm 0.8.1 from the simulated engine (all 40 requests,
only the fields that are read)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from proa_operator.bench import guidellm
from proa_operator.bench.errors import BenchError
from proa_operator.bench.guidellm import deviations, read_guidellm
from proa_operator.bench.record import RequestRecord, Status

REPORT = Path(__file__).with_name("guidellm_0_8_1.json")
LIMIT = 0.01


def worst(path: Path) -> float:
    return max(deviation.relative for deviation in deviations(read_guidellm(path)))


def test_our_numbers_from_its_records_are_its_own():
    report = read_guidellm(REPORT)
    assert report.version == "0.8.1"
    assert len(report.records) == 40
    names = {deviation.name.split()[0] for deviation in deviations(report)}
    assert {"TTFT", "ITL", "E2E", "request", "goodput", "requests/s"} <= names
    assert worst(REPORT) <= LIMIT


def _end(request: dict[str, Any]) -> None:
    request["info"]["timings"]["last_token_iteration"] += 0.02


def _late_first_token(request: dict[str, Any]) -> None:
    request["info"]["timings"]["first_token_iteration"] += 0.02


def _lost_token(request: dict[str, Any]) -> None:
    request["output_metrics"]["total_tokens"] -= 2


def _cut_as_ok(request: dict[str, Any]) -> None:
    request["info"]["status"] = "errored"


@pytest.mark.parametrize("fault", [_end, _late_first_token, _lost_token, _cut_as_ok])
def test_a_single_wrong_record_is_caught(fault: Callable[[dict[str, Any]], None], tmp_path: Path):
    report = json.loads(REPORT.read_text())
    fault(report["benchmarks"][0]["requests"]["successful"][7])
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(report))
    assert worst(changed) > LIMIT


def test_a_wrong_formula_is_caught(monkeypatch: pytest.MonkeyPatch):
    def over_all_tokens(record: RequestRecord) -> float:
        assert record.finish_seconds is not None
        return (record.finish_seconds - record.chunk_seconds[0]) / record.output_tokens

    monkeypatch.setattr(guidellm, "tpot_seconds", over_all_tokens)
    assert worst(REPORT) > LIMIT


def test_errored_requests_are_failed_or_cut(tmp_path: Path):
    report = json.loads(REPORT.read_text())
    groups = report["benchmarks"][0]["requests"]
    unanswered, cut = groups["successful"].pop(), groups["successful"].pop()
    for request in (unanswered, cut):
        request["info"] |= {"status": "errored", "error": "ReadError"}
        request["info"]["timings"]["request_end"] = None
        request["output_metrics"]["total_tokens"] = None
    unanswered["info"]["timings"] |= {"first_token_iteration": None, "last_token_iteration": None}
    groups["errored"] = [unanswered, cut]
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(report))
    *ok, failed, broken = read_guidellm(changed).records
    assert {record.status for record in ok} == {Status.OK}
    assert (failed.status, failed.error, broken.status) == (Status.FAILED, "ReadError", Status.CUT)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"metadata": {"version": 1}}', '{"metadata": {"version": 2}}'])
def test_another_file_is_refused_in_one_line(text: str, tmp_path: Path):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(BenchError, match=r"other\.json"):
        read_guidellm(path)
