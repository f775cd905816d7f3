"""What the gateway and gRPC cost per request and per token, beside calling the engine loop in process.

    python -m bench.serving.overhead [--requests 30] [--json bench/serving/overhead.json]

Four ways to the same engine and prompts, alternated round by round in one run: the engine loop in this process, gRPC
to one worker, the gateway in front of one worker, the gateway in front of prefill and decode. A request's time is
`per request + per token * (output tokens - 1)`, from outputs of 1 and of 65 tokens (medians).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path

import grpc
import httpx
import torch
import yaml
from proa_operator.local.options import Options
from proa_operator.local.prepare import prepare
from proa_operator.local.process import LocalPlan
from proa_operator.local.supervise import Supervisor
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import SampleRow
from proa_workers.core.sequence import Sequence
from proa_workers.engine.build import build_engine, build_loop
from proa_workers.engine.loop import EngineLoop, Report
from proa_workers.settings import parse_settings
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc
from tokenizers import Tokenizer

from bench.serving.provenance import provenance

os.environ["OMP_NUM_THREADS"] = "1"  # the workers inherit it: the same number of threads on every way

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "examples/models/tiny-moe"
PROMPT = "In the beginning the river ran down to the sea and the boat went with it. "
LENGTHS = (1, 65)
TIMEOUT_SECONDS = 60.0
Call = Callable[[int, int], Awaitable[None]]


class InProcess:
    """The engine loop of a worker without its servers."""

    def __init__(self) -> None:
        settings = parse_settings(["--model", str(MODEL), "--device", "cpu", "--prefix-cache", "false"], {})
        torch.set_num_threads(1)
        engine = build_engine(settings, lambda fraction: None)
        self._loop: EngineLoop = build_loop(engine, settings, self._deliver)
        self._event_loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        self._loop.start()

    async def call(self, number: int, max_tokens: int) -> None:
        params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        row = SampleRow(params=params, seed=0, prompt_ids=token_ids(number), output_ids=[], eos_token_ids=())
        self._done.clear()
        self._loop.submit([Sequence(seq_id=number, request_id=str(number), row=row)])
        await asyncio.wait_for(self._done.wait(), TIMEOUT_SECONDS)

    def _deliver(self, report: Report) -> None:
        if any(outcome.finish for outcome in report.outcomes):
            self._event_loop.call_soon_threadsafe(self._done.set)


@cache
def token_ids(number: int) -> list[int]:
    return list(Tokenizer.from_file(str(MODEL / "tokenizer.json")).encode(f"{number} {PROMPT}").ids)


def grpc_call(address: str) -> Call:
    """A streamed request straight to one worker."""
    stub = vllm_engine_pb2_grpc.VllmEngineStub(grpc.aio.insecure_channel(address))

    async def call(number: int, max_tokens: int) -> None:
        request = pb.GenerateRequest(
            request_id=f"r{number}",
            tokenized=pb.TokenizedInput(input_ids=token_ids(number)),
            sampling_params=pb.SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True),
            stream=True,
        )
        async for _ in stub.Generate(request, timeout=TIMEOUT_SECONDS):
            pass

    return call


def http_call(url: str, client: httpx.AsyncClient) -> Call:
    """A streamed completion through the gateway."""

    async def call(number: int, max_tokens: int) -> None:
        body = {
            "model": "tiny-moe",
            "prompt": f"{number} {PROMPT}",
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        async with client.stream("POST", f"{url}/v1/completions", json=body) as reply:
            assert reply.status_code == 200, await reply.aread()
            async for _ in reply.aiter_lines():
                pass

    return call


def service(state: Path, port: int, *, is_aggregated: bool) -> LocalPlan:
    """The plan of examples/tiny.yaml without a prefix cache: every request computes its prompt."""
    manifest = yaml.safe_load((ROOT / "examples/tiny.yaml").read_text())
    manifest["spec"]["engine"]["args"] = ["--prefix-cache", "false"]
    state.mkdir()
    (state / "service.yaml").write_text(yaml.safe_dump(manifest))
    options = Options(port=port, device="cpu", is_aggregated=is_aggregated, workers=1 if is_aggregated else None)
    return prepare(state / "service.yaml", options, state)


async def measure(num_requests: int, state: Path) -> dict[str, dict[str, float]]:
    """Fitted milliseconds by way, the ways in turns; raises TimeoutError when a service does not start."""
    plans = {
        "gateway": service(state / "one", 18000, is_aggregated=True),
        "gateway, P/D": service(state / "pd", 18100, is_aggregated=False),
    }
    supervisors = [Supervisor(plan, lambda child, detail: None) for plan in plans.values()]
    runs = [asyncio.create_task(supervisor.run()) for supervisor in supervisors]
    try:
        for supervisor in supervisors:
            await asyncio.wait_for(supervisor.serving(), 120)
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS) as client:
            worker = next(p for p in plans["gateway"].processes if p.name.startswith("worker"))
            calls: dict[str, Call] = {
                "in process": InProcess().call,
                "gRPC": grpc_call(f"127.0.0.1:{worker.port}"),
                **{name: http_call(plan.url, client) for name, plan in plans.items()},
            }
            return fit(await alternate(calls, num_requests))
    finally:
        for supervisor in supervisors:
            supervisor.ask_stop()
        await asyncio.gather(*runs)


async def alternate(calls: dict[str, Call], num_requests: int) -> dict[str, dict[int, list[float]]]:
    """Seconds of each request by way and output length; the first two rounds warm up."""
    seconds: dict[str, dict[int, list[float]]] = {name: {length: [] for length in LENGTHS} for name in calls}
    for number in range(num_requests + 2):
        token_ids(number)
        for name, call in calls.items():
            for length in LENGTHS:
                started = time.perf_counter()
                await call(number, length)
                if number >= 2:
                    seconds[name][length].append(time.perf_counter() - started)
    return seconds


def fit(seconds: dict[str, dict[int, list[float]]]) -> dict[str, dict[str, float]]:
    """Milliseconds per request and per token, and both as ratios to the engine in process."""
    rows: dict[str, dict[str, float]] = {}
    for name, by_length in seconds.items():
        short, long = (statistics.median(by_length[length]) * 1e3 for length in LENGTHS)
        rows[name] = {"ms_per_request": short, "ms_per_token": (long - short) / (LENGTHS[1] - LENGTHS[0])}
    base = rows["in process"]
    for row in rows.values():
        for key in ("ms_per_request", "ms_per_token"):
            row[f"{key}_ratio"] = row[key] / base[key]
    return rows


def main() -> None:
    """Print milliseconds of every route, gateway and worker alone and together, and write them with --json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=30)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as state:
        rows = asyncio.run(measure(args.requests, Path(state)))
    for name, row in rows.items():
        print(f"{name:14} " + "  ".join(f"{key} {value:7.3f}" for key, value in row.items()))
    if args.json:
        args.json.write_text(json.dumps({**provenance(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
