"""What one `proa bench` call measures: values checked once, before anything is sent. Pure."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from proa_operator.bench.client import Api
from proa_operator.bench.errors import SettingError
from proa_operator.bench.measure import Slo
from proa_operator.bench.trace import read_trace
from proa_operator.bench.workload import SYNTHETIC, Workload, synthetic

DEFAULT_CONCURRENCY = 8
DEFAULT_REQUESTS = 100
DEFAULT_LABELS = {1: "endpoint", 2: "disaggregated,aggregated"}
SWEEP_ROUNDS = 4  # requests of a sweep level = rounds * concurrency, unless --requests or --seconds says otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One endpoint under a label; `num_workers` is the number of workers (or GPUs) behind it."""

    label: str
    url: str
    num_workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One level of load: `concurrency` for a closed loop, else `rate` (Poisson), else the trace's own times.

    At least one of `num_requests` and `seconds` bounds it, or the trace's length does.
    """

    workload: Workload
    concurrency: int | None
    rate: float | None
    num_requests: int | None
    seconds: float | None

    def __str__(self) -> str:
        if self.concurrency is not None:
            return f"{self.concurrency} at a time"
        return f"{self.rate:g} requests/s" if self.rate is not None else "recorded times"

    @property
    def short(self) -> str:
        if self.concurrency is not None:
            return f"x{self.concurrency}"
        return f"{self.rate:g}/s" if self.rate is not None else "trace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line as given; `options.py` explains each."""

    url: str
    model: str | None
    api: Api
    timeout: float
    workload: str
    concurrency: int | None
    rate: float | None
    sweep: str | None
    requests: int | None
    seconds: float | None
    scale: float
    trace: Path | None
    seed: int
    text_seed: int | None
    ignore_eos: bool
    slo_ttft_ms: float | None
    slo_itl_ms: float | None
    slo_tpot_ms: float | None
    slo_e2e_ms: float | None
    compare: str | None
    labels: str | None
    workers: str
    json_file: Path | None
    plot_file: Path | None
    records_file: Path | None
    hardware: str | None


def loads(options: Options) -> tuple[Load, ...]:
    """One load, or one for each level of a sweep.

    Raises SettingError for options that contradict each other or are out of range, TraceError for a bad trace.
    """
    _check(options)
    workload = _workload(options)
    if options.sweep is not None:
        return tuple(_load(options, workload, level) for level in sweep_levels(options.sweep))
    is_timed = options.rate is not None or options.trace is not None
    default = None if is_timed else DEFAULT_CONCURRENCY
    return (_load(options, workload, options.concurrency or default),)


def _load(options: Options, workload: Workload, concurrency: int | None) -> Load:
    num_requests = options.requests
    if num_requests is None and options.seconds is None and options.trace is None:
        num_requests = SWEEP_ROUNDS * concurrency if options.sweep and concurrency else DEFAULT_REQUESTS
    rate = None if concurrency is not None else options.rate
    return Load(
        workload=workload, concurrency=concurrency, rate=rate, num_requests=num_requests, seconds=options.seconds
    )


def _workload(options: Options) -> Workload:
    if options.trace is not None:
        return read_trace(options.trace, scale=options.scale, rate=options.rate)
    return synthetic(options.workload, options.scale)


def _check(options: Options) -> None:
    known = (*SYNTHETIC, "trace")
    if options.workload not in known:
        raise SettingError(f"unknown workload {options.workload!r}; choose one of {', '.join(known)}")
    if (options.workload == "trace") != (options.trace is not None):
        raise SettingError("--workload trace and --trace FILE belong together; give both or neither")
    ways = [name for name in ("rate", "concurrency", "sweep") if getattr(options, name) is not None]
    if len(ways) > 1:
        raise SettingError(f"--{' and --'.join(ways)} exclude each other; give one")
    for name in ("rate", "concurrency", "requests", "seconds", "scale"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise SettingError(f"--{name} {value:g} must be positive")


def sweep_levels(text: str) -> tuple[int, ...]:
    """`1,2,4` as numbers. Raises SettingError for anything but positive integers, each once."""
    try:
        levels = tuple(int(part) for part in text.split(","))
    except ValueError:
        levels = ()
    if not levels or min(levels) < 1 or len(set(levels)) < len(levels):
        raise SettingError(f"--sweep {text!r} is no list of concurrencies; write it as 1,2,4,8")
    return levels


def targets(options: Options) -> tuple[Target, ...]:
    """The endpoints with their labels and worker counts (`2`, or `2,3` for two endpoints).

    Raises SettingError for a bad URL, a wrong number of labels or worker counts.
    """
    urls = [base_url(text) for text in (options.url, options.compare) if text is not None]
    names = (options.labels or DEFAULT_LABELS[len(urls)]).split(",")
    if len(names) != len(urls) or len(set(names)) < len(names):
        wanted = "one name" if len(urls) == 1 else "two different names with a comma between them"
        raise SettingError(f"--labels {options.labels!r} must be {wanted}")
    counts = _worker_counts(options.workers, len(urls))
    zipped = zip(names, urls, counts, strict=True)
    return tuple(Target(label=name, url=address, num_workers=count) for name, address, count in zipped)


def _worker_counts(text: str, num_targets: int) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts) or len(parts) not in (1, num_targets):
        raise SettingError(f"--workers {text!r} must be one positive number, or one for each endpoint as in 2,3")
    counts = [int(part) for part in parts]
    return counts if len(counts) == num_targets else counts * num_targets


def base_url(text: str) -> str:
    """The endpoint's address without `/v1` and trailing slash. Raises SettingError unless it is http(s)://host."""
    try:
        parts = urlsplit(text)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good:
        raise SettingError(f"{text!r} is no endpoint; write it as http://127.0.0.1:8000")
    return text.rstrip("/").removesuffix("/v1").rstrip("/")


def slo_of(options: Options) -> Slo:
    """The limits. Raises SettingError for one that is not positive."""
    for name in ("ttft", "itl", "tpot", "e2e"):
        limit = getattr(options, f"slo_{name}_ms")
        if limit is not None and not limit > 0:
            raise SettingError(f"--slo-{name}-ms {limit:g} must be positive")
    return Slo(
        ttft_ms=options.slo_ttft_ms,
        itl_ms=options.slo_itl_ms,
        tpot_ms=options.slo_tpot_ms,
        e2e_ms=options.slo_e2e_ms,
    )


def check_files(options: Options) -> None:
    """Raises SettingError for a file that could not be written after an hour of measuring."""
    for path in (options.json_file, options.plot_file, options.records_file):
        if path is not None and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
            raise SettingError(f"cannot write {path}: no writable folder {path.parent}; create it first")
    if options.plot_file is not None and options.plot_file.suffix != ".png":
        raise SettingError(f"--plot {options.plot_file} must end with .png")
