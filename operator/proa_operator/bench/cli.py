"""The `proa bench` command."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import typer
from rich.console import Console

from proa_operator.bench import options as o
from proa_operator.bench.client import Api, Endpoint
from proa_operator.bench.probe import served_model
from proa_operator.bench.progress import LoadProgress
from proa_operator.bench.report import (
    Provenance,
    comparison_table,
    counts_text,
    errors_text,
    hardware_of,
    latency_table,
    write_json,
    write_records,
)
from proa_operator.bench.session import Measured, Session
from proa_operator.bench.settings import Options, check_files, loads, slo_of, targets


def bench(
    url: o.Url,
    model: o.Model = None,
    api: o.ApiChoice = Api.CHAT,
    timeout: o.Timeout = 600.0,
    workload: o.Workload = "chat",
    concurrency: o.Concurrency = None,
    rate: o.Rate = None,
    sweep: o.Sweep = None,
    requests: o.Requests = None,
    seconds: o.Seconds = None,
    scale: o.Scale = 1.0,
    trace: o.Trace = None,
    seed: o.Seed = 0,
    text_seed: o.TextSeed = None,
    ignore_eos: o.IgnoreEos = True,
    slo_ttft_ms: o.SloTtft = None,
    slo_itl_ms: o.SloItl = None,
    slo_tpot_ms: o.SloTpot = None,
    slo_e2e_ms: o.SloE2e = None,
    compare: o.Compare = None,
    labels: o.Labels = None,
    workers: o.Workers = "1",
    json_file: o.JsonFile = None,
    plot_file: o.PlotFile = None,
    records_file: o.RecordsFile = None,
    hardware: o.Hardware = None,
) -> None:
    """Drive load at an OpenAI endpoint; report TTFT, ITL, TPOT, E2E, tokens/s and goodput.

    Metrics mean what they mean in `vllm bench serve`. Exit code 1 when no request was answered, 2 for bad options
    or an endpoint that does not answer. Set OPENAI_API_KEY when the endpoint wants a key.
    """
    results = run_bench(Options(**locals()))
    if not any(measured.summary.num_ok for measured in results):
        raise typer.Exit(1)


def run_bench(options: Options) -> list[Measured]:
    """Checks, measures, prints and writes what `options` ask for.

    Raises BenchError: a setting that makes no sense, a trace or an endpoint that cannot be used.
    """
    check_files(options)
    started = datetime.now(UTC)
    text_seed = time.time_ns() % (1 << 31) if options.text_seed is None else options.text_seed
    aims, levels, limits = targets(options), loads(options), slo_of(options)
    endpoints = asyncio.run(_endpoints(options, [aim.url for aim in aims]))
    with LoadProgress(Console(stderr=True)) as progress:
        session = Session(
            pairs=tuple(zip(aims, endpoints, strict=True)),
            loads=levels,
            slo=limits,
            seed=options.seed,
            text_seed=text_seed,
            on_start=progress.start,
            on_end=progress.end,
        )
        results = asyncio.run(session.measure())
    provenance = Provenance(
        hardware=options.hardware or hardware_of(aims[0].url),
        command=shlex.join(["proa", *sys.argv[1:]]),
        time=started.isoformat(timespec="seconds"),
        model=endpoints[0].model,
        seed=options.seed,
        text_seed=text_seed,
        slo=limits,
    )
    _show(results)
    _write(options, results, provenance)
    return results


async def _endpoints(options: Options, urls: Sequence[str]) -> list[Endpoint]:
    key = os.environ.get("OPENAI_API_KEY")
    first = Endpoint(
        url=urls[0],
        model=options.model or "",
        api=options.api,
        api_key=key,
        is_ignore_eos=options.ignore_eos,
        timeout_seconds=options.timeout,
    )
    return [replace(first, url=url, model=options.model or await served_model(url, key)) for url in urls]


def _show(results: Sequence[Measured]) -> None:
    console = Console()
    for measured in results if len(results) <= 2 else ():
        console.print(latency_table(measured))
        console.print(counts_text(measured.summary), highlight=False, markup=False, soft_wrap=True)
    if len(results) > 1:
        console.print(comparison_table(results))
    if len(results) > 2 and (errors := errors_text(results)):
        console.print(errors, highlight=False, markup=False, soft_wrap=True)


def _write(options: Options, results: Sequence[Measured], provenance: Provenance) -> None:
    if options.json_file is not None:
        write_json(options.json_file, results, provenance)
    if options.records_file is not None:
        write_records(options.records_file, results)
    if options.plot_file is not None:
        from proa_operator.bench.plot import write_plot  # NOTE: matplotlib would cost every other command its start

        title = f"{provenance.model}, workload {results[0].load.workload.name}, on {provenance.hardware}"
        write_plot(options.plot_file, results, title)
