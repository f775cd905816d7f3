"""`proa bench` as a user calls it: files, tables, exit codes, one line for a mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PNG = b"\x89PNG\r\n\x1a\n"


def proa_bench(*args: object, key: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "proa_operator.cli.main", "bench", *map(str, args)]
    environment = os.environ | {"COLUMNS": "100"} | ({"OPENAI_API_KEY": key} if key else {})
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)


def test_one_load_writes_table_json_records_and_picture(double, make_answer, tmp_path: Path):
    double.script = lambda idx: make_answer(gap=0.002, error_event_after=1 if idx == 3 else None)
    files = {name: tmp_path / name for name in ("out.json", "out.png", "out.jsonl")}
    outputs = ("--json", files["out.json"], "--plot", files["out.png"], "--records", files["out.jsonl"])
    limits = ("--slo-ttft-ms", 60000, "--hardware", "a test")
    load = ("--workload", "1k1k", "--scale", 0.01, "--requests", 10, "--concurrency", 2, "--text-seed", 4)
    done = proa_bench("--url", double.url, *load, *limits, *outputs)
    assert done.returncode == 0, done.stderr
    assert "9 ok, 0 failed, 1 cut in the middle" in done.stdout
    assert "1 x cut: stream_error" in done.stdout
    result = json.loads(files["out.json"].read_text())
    assert (result["hardware"], result["model"], result["text_seed"]) == ("a test", "double", 4)
    assert set(result["versions"]) == {"proa", "httpx", "numpy", "python"}
    assert result["command"].startswith("proa bench --url http://127.0.0.1:")
    run = result["runs"][0]
    assert (run["num_ok"], run["num_cut"], run["slo_attainment"], run["ttft_ms"]["count"]) == (9, 1, 0.9, 9)
    assert run["goodput_per_second"] == pytest.approx(9 / run["duration_seconds"])
    records = [json.loads(line) for line in files["out.jsonl"].read_text().splitlines()]
    assert sorted(record["status"] for record in records) == ["cut"] + ["ok"] * 9
    assert files["out.png"].read_bytes().startswith(PNG)


def test_a_sweep_of_two_endpoints_is_one_table_and_one_picture(double, second_double, make_answer, tmp_path: Path):
    second_double.script = lambda _: make_answer(http_error=(503, "down"))
    picture, out = tmp_path / "frontier.png", tmp_path / "out.json"
    where = ("--url", double.url, "--compare", second_double.url, "--labels", "[good],dead", "--workers", "2,1")
    long_enough = ("--workload", "1k1k", "--scale", 0.05)  # ten words or more: two prompts of one word are often equal
    files = ("--plot", picture, "--json", out)
    done = proa_bench(*where, *long_enough, "--sweep", "1,3", "--text-seed", 4, *files)
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(PNG)
    assert "dead: 16 x failed: HTTP 503: down" in done.stdout
    assert "[good]" in done.stdout  # what looks like markup is printed as it is
    runs = json.loads(out.read_text())["runs"]
    assert [(run["label"], run["concurrency"], run["num_ok"]) for run in runs] == [
        ("[good]", 1, 4), ("dead", 1, 0), ("[good]", 3, 12), ("dead", 3, 0),
    ]  # fmt: skip
    for run in runs:
        assert run["output_tokens_per_second_per_worker"] * run["num_workers"] == run["output_tokens_per_second"]
    asked, dead = ([len(served.body["messages"][0]["content"].split()) for served in d.served]
                   for d in (double, second_double))  # fmt: skip
    assert sorted(asked) == pytest.approx(sorted(dead), abs=1)  # the same lengths
    assert not {str(s.body) for s in double.served} & {str(s.body) for s in second_double.served}  # other words


def test_two_calls_do_not_find_each_other_in_a_prefix_cache(double):
    for _ in range(2):
        assert proa_bench("--url", double.url, "--workload", "1k1k", "--scale", 0.05, "--requests", 3).returncode == 0
    assert len({served.body["messages"][0]["content"] for served in double.served}) == 6


def test_nothing_answered_is_exit_code_1(double, make_answer):
    double.script = lambda _: make_answer(http_error=(500, "broken"))
    done = proa_bench("--url", double.url, "--workload", "1k1k", "--scale", 0.01, "--requests", 3)
    assert done.returncode == 1
    assert "3 x failed: HTTP 500: broken" in done.stdout


def test_a_key_is_sent_but_written_nowhere(double, tmp_path: Path):
    out = tmp_path / "out.json"
    done = proa_bench(
        "--url", double.url, "--workload", "1k1k", "--scale", 0.01, "--requests", 1, "--json", out, key="sk-secret"
    )
    assert done.returncode == 0
    assert double.served[0].authorization == "bearer sk-secret"
    assert "secret" not in done.stdout + done.stderr + out.read_text()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--url", "http://127.0.0.1:9"), "cannot reach http://127.0.0.1:9"),
        (("--url", "nonsense"), "write it as http://127.0.0.1:8000"),
        (("--url", "http://h", "--workload", "poem"), "unknown workload 'poem'"),
        (("--url", "http://h", "--rate", "1", "--concurrency", "2"), "exclude each other"),
        (("--url", "http://h", "--workload", "trace", "--trace", "/none.jsonl"), "cannot read the trace"),
        (("--url", "http://h", "--json", "/none/x.json"), "create it first"),
        (("--url", "http://h", "--api", "soap"), "soap"),
        ((), "--url"),
    ],
)
def test_a_users_mistake_is_exit_code_2_without_a_traceback(args: tuple[str, ...], message: str):
    done = proa_bench(*args)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
