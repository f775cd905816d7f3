"""Runs guidellm and `proa bench` in turn against one endpoint and compares their numbers.

    python bench/serving/compare_guidellm.py --url http://127.0.0.1:8000 --guidellm PATH/TO/guidellm --out FILE.json

Two checks: (1) our formulas on guidellm's per-request records give guidellm's own numbers (within 1 %);
(2) the medians that the two tools measure, each the median over rounds, agree (within 5 %). Both tools send the same
lengths in the same order at the same concurrency, with different words, so that neither finds the other's prefixes
cached. Exit code 1 when a check fails. guidellm wants its own virtual environment: it pins other versions than Proa.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, fields
from datetime import UTC, datetime
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from proa_operator.bench.client import Endpoint
from proa_operator.bench.connections import Connections
from proa_operator.bench.guidellm import GuidellmReport, deviations, evenly, read_guidellm
from proa_operator.bench.measure import distribution_ms
from proa_operator.bench.probe import measure_density
from proa_operator.bench.prompt import TokenDensity, prompt_text
from proa_operator.bench.record import RequestRecord, Status
from proa_operator.bench.report import hardware_of
from proa_operator.bench.workload import synthetic

RECOMPUTED_LIMIT, AGREEMENT_LIMIT = 0.01, 0.05
RUN_SECONDS = 900
METRICS = ("ttft_ms", "even_itl_ms", "tpot_ms", "e2e_ms")


def main() -> int:
    """Measure --rounds times with both, write the result; exit status 1 when they disagree by more than the limits."""
    args = parse_args()
    density = asyncio.run(density_at(args))
    rounds = [measure_round(args, density, round_idx) for round_idx in range(args.rounds)]
    result = {
        "what": "guidellm beside proa bench on one endpoint",
        "hardware": hardware_of(args.url),
        "service": args.service,
        "commit": commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "versions": {"guidellm": rounds[0]["guidellm_version"], **rounds[0]["proa_versions"]},
        "limits": {"recomputed": RECOMPUTED_LIMIT, "agreement": AGREEMENT_LIMIT},
        "worst_recomputed": max(d["relative"] for r in rounds for d in r["recomputed"]),
        "agreement": agreement(rounds),
        "rounds": rounds,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    return show(result)


def parse_args() -> argparse.Namespace:
    """Addresses, workload and limits of both tools; exits with status 2 when one is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="the endpoint, as http://127.0.0.1:8000")
    parser.add_argument("--model", required=True, help="model name at the endpoint")
    parser.add_argument("--service", required=True, help="one line: what serves there")
    parser.add_argument("--guidellm", required=True, type=Path, help="the guidellm command in its own environment")
    parser.add_argument("--out", required=True, type=Path, help="where the result goes")
    parser.add_argument("--workload", default="1k1k", help="a synthetic workload of proa bench")
    parser.add_argument("--scale", default=0.1, type=float)
    parser.add_argument("--requests", default=100, type=int)
    parser.add_argument("--concurrency", default=4, type=int)
    parser.add_argument("--rounds", default=3, type=int)
    parser.add_argument("--slo-ttft-ms", default=100.0, type=float)
    parser.add_argument("--slo-tpot-ms", default=20.0, type=float)
    parser.add_argument("--fixture", type=Path, help="also write the first guidellm report here, trimmed")
    return parser.parse_args()


def measure_round(args: argparse.Namespace, density: TokenDensity, round_idx: int) -> dict[str, Any]:
    """Both tools once; they take turns in going first."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if round_idx % 2 == 0:
            ours, report = run_proa(args, folder), run_guidellm(args, folder, density)
        else:
            report, ours = run_guidellm(args, folder, density), run_proa(args, folder)
        if args.fixture and round_idx == 0:
            args.fixture.write_text(json.dumps(trimmed(folder / "guidellm.json"), indent=0) + "\n")
    theirs = asdict(report.summary()) | {"even_itl_ms": even_itl_ms(report.records)}
    return {
        "guidellm_version": report.version,
        "proa_versions": ours["versions"],
        "proa": {name: ours[name] for name in (*METRICS, *COUNTS)},
        "guidellm": {name: theirs[name] for name in (*METRICS, *COUNTS)},
        "recomputed": [asdict(d) | {"relative": d.relative} for d in deviations(report)],
    }


async def density_at(args: argparse.Namespace) -> TokenDensity:
    endpoint = Endpoint(url=args.url, model=args.model, timeout_seconds=RUN_SECONDS)
    num_tokens = next(synthetic(args.workload, args.scale).plans(0)).input_tokens
    async with Connections(endpoint) as connections:
        return await measure_density(connections, endpoint, num_tokens, time.time_ns() % (1 << 31))


RATES = ("output_tokens_per_second", "goodput_per_second")
COUNTS = ("num_ok", "num_failed", "num_cut", "duration_seconds", *RATES)


def run_proa(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The one run of `proa bench`; raises CalledProcessError or TimeoutExpired when it does not end well."""
    out, records = folder / "proa.json", folder / "proa.jsonl"
    load = ("--workload", args.workload, "--scale", args.scale, "--requests", args.requests)
    limits = ("--slo-ttft-ms", args.slo_ttft_ms, "--slo-tpot-ms", args.slo_tpot_ms)
    where = ("--url", args.url, "--model", args.model, "--concurrency", args.concurrency)
    files = ("--json", out, "--records", records)
    command = [sys.executable, "-m", "proa_operator.cli.main", "bench", *where, *load, *limits, *files]
    subprocess.run([str(part) for part in command], check=True, timeout=RUN_SECONDS, stdout=subprocess.DEVNULL)
    result = json.loads(out.read_text())
    even = even_itl_ms(read_records(records))
    return {**result["runs"][0], "versions": result["versions"], "even_itl_ms": even}


def read_records(path: Path) -> list[RequestRecord]:
    names = {field.name for field in fields(RequestRecord)}
    lines = (json.loads(line) for line in path.read_text().splitlines())
    return [RequestRecord(**{name: value for name, value in line.items() if name in names}) for line in lines]


def even_itl_ms(records: Iterable[RequestRecord]) -> dict[str, Any]:
    """ITL as guidellm defines it, the one definition that both tools' records can serve (`evenly` says why)."""
    ok = [record for record in records if record.status == Status.OK]
    spread = (evenly(r.chunk_seconds[0], r.chunk_seconds[-1], r.output_tokens) for r in ok)
    gaps = [later - earlier for times in spread for earlier, later in pairwise(times)]
    found = distribution_ms(gaps, method="inverted_cdf")
    assert found is not None, "no request of more than one token ended ok"
    return asdict(found)


def run_guidellm(args: argparse.Namespace, folder: Path, density: TokenDensity) -> GuidellmReport:
    """The same load by guidellm, with prompts that no cache holds; raises CalledProcessError when it fails."""
    prompts, out = folder / "prompts.jsonl", folder / "guidellm.json"
    write_prompts(args, prompts, density, text_seed=time.time_ns() % (1 << 31))
    slo = {"ttft_ms": args.slo_ttft_ms, "tpot_ms": args.slo_tpot_ms}
    options = {
        "backend": {"kind": "openai_http", "target": args.url, "model": args.model, "http2": False},
        "profile": {"kind": "concurrent", "streams": args.concurrency},
        "constraint": {"kind": "max_requests", "count": args.requests},
        "data": {"kind": "json_file", "path": str(prompts)},
        "metrics": {"kind": "generative", "slo": slo},
        "output": {"kind": "json", "path": str(out)},
    }
    command = [str(args.guidellm.absolute()), "run", "--disable-console"]
    for name, value in options.items():
        command += [f"--{name}", json.dumps(value)]
    # One worker process: proa bench has one too, and ten of them would fight for a small machine's cores.
    settings = {"GUIDELLM__MAX_WORKER_PROCESSES": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        command, check=True, timeout=RUN_SECONDS, env=os.environ | settings, stdout=subprocess.DEVNULL, cwd=folder
    )
    return read_guidellm(out)


def write_prompts(args: argparse.Namespace, path: Path, density: TokenDensity, text_seed: int) -> None:
    with path.open("w") as file:
        for plan in islice(synthetic(args.workload, args.scale).plans(0), args.requests):
            text = prompt_text(plan, density, text_seed)
            file.write(json.dumps({"prompt": text, "output_tokens_count": plan.output_tokens}) + "\n")


def agreement(rounds: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """For each metric the median over rounds of each tool's p50 (or rate), and how far ours is from guidellm's."""
    found = {}
    for name in (*METRICS, *RATES):
        ours, theirs = (statistics.median(middle(r[tool][name]) for r in rounds) for tool in ("proa", "guidellm"))
        found[name] = {"proa": ours, "guidellm": theirs, "relative": abs(ours - theirs) / theirs}
    return found


def middle(value: dict[str, float] | float) -> float:
    return value["p50"] if isinstance(value, dict) else value


def show(result: dict[str, Any]) -> int:
    print(f"recomputed from guidellm's records: worst deviation {result['worst_recomputed']:.3%}")
    for name, found in result["agreement"].items():
        print(f"{name:25} proa {found['proa']:9.3f}  guidellm {found['guidellm']:9.3f}  {found['relative']:.2%}")
    is_good = result["worst_recomputed"] <= RECOMPUTED_LIMIT
    is_good &= all(found["relative"] <= AGREEMENT_LIMIT for found in result["agreement"].values())
    print("both within limits" if is_good else "OUT OF LIMITS")
    return 0 if is_good else 1


def commit() -> str:
    run = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
    return run.stdout.strip()


TIMINGS = (
    "resolve_start", "request_start", "first_token_iteration", "last_token_iteration", "token_iterations",
    "request_end", "resolve_end",
)  # fmt: skip
STATED_REQUEST = ("time_to_first_token_ms", "inter_token_latency_ms", "request_latency")
STATED = (
    "time_to_first_token_ms", "inter_token_latency_ms", "time_per_output_token_ms", "request_latency",
    "requests_per_second", "output_tokens_per_second", "request_goodput",
)  # fmt: skip


def trimmed(path: Path) -> dict[str, Any]:
    """A guidellm report with every request but only the fields that the check reads."""
    report = json.loads(path.read_text())
    benchmark = report["benchmarks"][0]
    metrics = {name: {"successful": _trimmed_metric(benchmark["metrics"][name]["successful"])} for name in STATED}
    kept = {
        "config": {"slo": benchmark["config"]["slo"]},
        "start_time": benchmark["start_time"],
        "duration": benchmark["duration"],
        "metrics": metrics | {"slo_attainment": benchmark["metrics"]["slo_attainment"]},
        "requests": {
            group: [_trimmed_request(request) for request in benchmark["requests"][group]]
            for group in ("successful", "errored", "incomplete")
        },
    }
    versions = {name: report["metadata"][name] for name in ("version", "guidellm_version")}
    return {"metadata": versions, "benchmarks": [kept]}


def _trimmed_metric(metric: dict[str, Any]) -> dict[str, Any]:
    return {"mean": metric["mean"], "percentiles": metric["percentiles"]}


def _trimmed_request(request: dict[str, Any]) -> dict[str, Any]:
    info = request["info"]
    return {
        "info": {"status": info["status"], "error": info["error"], "timings": {n: info["timings"][n] for n in TIMINGS}},
        "input_metrics": {"total_tokens": request["input_metrics"]["total_tokens"]},
        "output_metrics": {"total_tokens": request["output_metrics"]["total_tokens"]},
        **{name: request[name] for name in STATED_REQUEST},
    }


if __name__ == "__main__":
    sys.exit(main())
