"""Workloads, traces, prompts, settings: pure tables."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from proa_operator.bench.client import Api
from proa_operator.bench.drive import poisson_times
from proa_operator.bench.errors import SettingError, TraceError
from proa_operator.bench.prompt import TokenDensity, fit_density, prompt_text
from proa_operator.bench.session import plans
from proa_operator.bench.settings import Options, base_url, check_files, loads, slo_of, targets
from proa_operator.bench.trace import read_trace
from proa_operator.bench.workload import SYNTHETIC, synthetic

DENSITY = TokenDensity(tokens_per_word=1.25, template_tokens=7)
TRACE = [
    {"timestamp": 1000, "input_length": 1100, "output_length": 50, "hash_ids": [4, 5, 6]},
    {"timestamp": 3000, "input_length": 1030, "output_length": 8, "hash_ids": [4, 5, 9]},
    {"timestamp": 2000, "input_length": 400, "output_length": 3, "hash_ids": [7]},
]


@pytest.mark.parametrize(
    ("name", "scale", "input_range", "output_range"),
    [
        ("8k1k", 1, (6554, 8192), (819, 1024)),
        ("1k1k", 1, (819, 1024), (819, 1024)),
        ("1k1k", 0.1, (82, 102), (82, 102)),
        ("chat", 1, (260, 4352), (16, 1024)),
        ("summarize", 1, (2048, 32768), (32, 512)),
        ("reason", 1, (32, 4096), (512, 16384)),
        ("reason", 0.001, (1, 4), (1, 16)),
    ],
)
def test_lengths_stay_in_range_and_follow_the_seed(
    name: str, scale: float, input_range: tuple[int, int], output_range: tuple[int, int]
):
    first, again, other = (list(islice(synthetic(name, scale).plans(seed), 300)) for seed in (1, 1, 2))
    assert first == again
    assert first != other or scale < 0.01
    for plan in first:
        assert input_range[0] <= plan.input_tokens <= input_range[1]
        assert output_range[0] <= plan.output_tokens <= output_range[1]


@pytest.mark.parametrize("name", sorted(SYNTHETIC))
def test_only_chat_shares_text_and_words_follow_the_text_seed(name: str):
    one, two = (prompt_text(plan, DENSITY, seed=5) for plan in islice(synthetic(name, 0.2).plans(1), 2))
    shared = len([1 for a, b in zip(one.split(), two.split(), strict=False) if a == b])
    assert one.split()[:8] != two.split()[:8] or name == "chat"
    assert shared >= (40 if name == "chat" else 0)
    first = next(synthetic(name, 0.2).plans(1))
    assert prompt_text(first, DENSITY, seed=5) == one != prompt_text(first, DENSITY, seed=6)


def test_prompts_cost_what_was_planned():
    for plan in islice(synthetic("8k1k", 1).plans(0), 5):
        tokens = len(prompt_text(plan, DENSITY, seed=1).split()) * 1.25 + 7
        assert tokens == pytest.approx(plan.input_tokens, abs=2)


def test_density_is_the_line_through_two_probes():
    assert fit_density((16, 27), (64, 87)) == TokenDensity(tokens_per_word=1.25, template_tokens=7)
    with pytest.raises(ValueError, match="cost 27"):
        fit_density((16, 27), (64, 27))


def test_poisson_arrivals_have_the_rate_and_follow_the_seed():
    times = list(islice(poisson_times(20, 1), 4000))
    assert times == list(islice(poisson_times(20, 1), 4000))
    assert times == sorted(times)
    assert len(times) / times[-1] == pytest.approx(20, rel=0.05)


def trace_file(folder: Path, entries: list[Any]) -> Path:
    path = folder / "trace.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def test_a_trace_shares_exactly_the_blocks_with_equal_ids(tmp_path: Path):
    first, middle, last = read_trace(trace_file(tmp_path, TRACE)).plans(0)
    assert [plan.due_seconds for plan in (first, middle, last)] == [0.0, 1.0, 2.0]
    assert [plan.input_tokens for plan in (first, middle, last)] == [1100, 400, 1030]
    one, other, two = (prompt_text(plan, DENSITY, seed=1).split() for plan in (first, middle, last))
    num_shared = 2 * DENSITY.num_words(512)
    assert one[:num_shared] == two[:num_shared]
    assert one[num_shared:] != two[num_shared:]
    assert other[:20] != one[:20]


def test_a_trace_is_scaled_and_stretched(tmp_path: Path):
    scaled = list(read_trace(trace_file(tmp_path, TRACE), scale=0.1, rate=4.0).plans(0))
    assert [plan.due_seconds for plan in scaled] == [0.0, 0.25, 0.5]
    assert [plan.output_tokens for plan in scaled] == [5, 1, 1]
    assert scaled[0].input_tokens == 51 + 51 + 8


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "is empty"),
        ([TRACE[0], {"timestamp": 1}], "line 2"),
        ([{**TRACE[0], "hash_ids": [1]}], "one hash id for each 512"),
        ([{**TRACE[0], "output_length": 0}], "must be positive"),
        (["text"], "line 1"),
    ],
)
def test_a_bad_trace_names_the_line(tmp_path: Path, entries: list[Any], message: str):
    with pytest.raises(TraceError, match=message):
        read_trace(trace_file(tmp_path, entries))


def test_a_missing_trace_says_so(tmp_path: Path):
    with pytest.raises(TraceError, match="cannot read the trace"):
        read_trace(tmp_path / "none.jsonl")


DEFAULTS: dict[str, Any] = {
    "url": "http://127.0.0.1:8000", "model": None, "api": Api.CHAT, "timeout": 600.0, "workload": "chat",
    "concurrency": None, "rate": None, "sweep": None, "requests": None, "seconds": None, "scale": 1.0, "trace": None,
    "seed": 0, "text_seed": None, "ignore_eos": True, "slo_ttft_ms": None, "slo_itl_ms": None, "slo_tpot_ms": None,
    "slo_e2e_ms": None, "compare": None, "labels": None, "workers": "1", "json_file": None, "plot_file": None,
    "records_file": None, "hardware": None,
}  # fmt: skip


def options(**given: Any) -> Options:
    return Options(**(DEFAULTS | given))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [(8, None, 100, None)]),
        ({"concurrency": 3, "requests": 5}, [(3, None, 5, None)]),
        ({"rate": 2.5}, [(None, 2.5, 100, None)]),
        ({"rate": 2.5, "seconds": 9.0}, [(None, 2.5, None, 9.0)]),
        ({"sweep": "1,4"}, [(1, None, 4, None), (4, None, 16, None)]),
        ({"sweep": "1,4", "requests": 20}, [(1, None, 20, None), (4, None, 20, None)]),
    ],
)
def test_loads(given: dict[str, Any], expected: list[tuple[object, ...]]):
    found = [(load.concurrency, load.rate, load.num_requests, load.seconds) for load in loads(options(**given))]
    assert found == expected


def test_only_an_open_loop_has_due_times():
    closed, open_ = (loads(options(**given))[0] for given in ({"concurrency": 2}, {"rate": 2.0}))
    assert all(plan.due_seconds is None for plan in plans(closed, 0))
    assert [plan.due_seconds for plan in plans(open_, 0)] == list(islice(poisson_times(2.0, 0), 100))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workload": "poem"}, "unknown workload 'poem'; choose one of 8k1k"),
        ({"workload": "trace"}, "belong together"),
        ({"trace": Path("x")}, "belong together"),
        ({"rate": 1.0, "concurrency": 1}, "--rate and --concurrency exclude each other"),
        ({"rate": 0.0}, "--rate 0 must be positive"),
        ({"rate": float("nan")}, "--rate nan must be positive"),
        ({"requests": -1}, "--requests -1"),
        ({"scale": -0.5}, "--scale -0.5"),
        ({"sweep": "1,two"}, "write it as 1,2,4,8"),
        ({"sweep": "4,4"}, "write it as"),
        ({"sweep": ""}, "write it as"),
        ({"url": "127.0.0.1:8000"}, "write it as http://"),
        ({"compare": "ftp://host"}, "write it as http://"),
        ({"labels": "a,b"}, "must be one name"),
        ({"compare": "http://h", "labels": "a,a"}, "two different names"),
        ({"workers": "0"}, "--workers '0'"),
        ({"workers": "1,2"}, "one positive number"),
        ({"slo_ttft_ms": 0.0}, "--slo-ttft-ms 0"),
        ({"json_file": Path("/no/such/folder/x.json")}, "create it first"),
        ({"plot_file": Path("x.jpg")}, "must end with .png"),
    ],
)
def test_contradictory_settings_are_refused_with_the_fix(given: dict[str, Any], message: str):
    asked = options(**given)
    with pytest.raises(SettingError, match=message):
        (check_files(asked), loads(asked), targets(asked), slo_of(asked))


def test_targets():
    one, two = targets(options(compare="http://h:1/v1/", workers="2,3"))
    assert (one.label, one.num_workers) == ("disaggregated", 2)
    assert (two.label, two.url, two.num_workers) == ("aggregated", "http://h:1", 3)
    assert base_url("https://h/api/v1") == "https://h/api"
