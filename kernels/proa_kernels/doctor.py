"""`proa-kernels doctor`: what works on this GPU and how fast, in one file that its owner can send back.

Checks come first, each on its own: a kernel that the compiler refuses, or that answers wrongly, is named and hides no
other. Timings of a family are left out, by name, when a launch in it fails.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import triton
from triton.errors import TritonError

from proa_kernels import doctor_attention, doctor_checks, doctor_fp8, doctor_mxfp, doctor_sample
from proa_kernels.aiter_arm import why_no_aiter
from proa_kernels.arch import Arch, arch_of
from proa_kernels.doctor_checks import Check, half_of
from proa_kernels.doctor_timings import FAMILIES
from proa_kernels.tables_file import TableError, kernels_fingerprint, measured_table
from proa_kernels.timing import Ceilings, measure_ceilings
from proa_kernels.tune_checks import guarded

Report = dict[str, Any]
Say = Callable[[str], None]


def examine(device: torch.device, *, has_timings: bool, say: Say) -> Report:
    """The whole report; every finding is also said as it is made."""
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    checks = {}
    for name, check in all_checks(device):
        verdict = guarded(check)
        checks[name] = verdict
        say(f"{'WRONG' if is_wrong(verdict) else 'left out'} {name}: {verdict}" if verdict else f"ok {name}")
    report: Report = {**about(device), "checks": checks, "ceilings": None, "timings": [], "timings_left_out": {}}
    if has_timings:
        ceilings = measure_ceilings()
        report["ceilings"] = asdict(ceilings)
        report["timings"], report["timings_left_out"] = timings(device, ceilings, say)
    return report


def all_checks(device: torch.device) -> Iterator[tuple[str, Check]]:
    return chain(
        doctor_checks.checks(device),
        doctor_fp8.checks(device),
        doctor_attention.checks(device, half_of(device)),
        doctor_sample.checks(device),
        doctor_mxfp.checks(device),
    )


def is_wrong(verdict: str) -> bool:
    """Everything but silence and what is not there: native kernels without a compiler, AITER."""
    return bool(verdict) and not verdict.startswith("not built")


def wrong_names(report: Mapping[str, Any]) -> list[str]:
    return [name for name, verdict in report["checks"].items() if is_wrong(verdict)]


def timings(device: torch.device, ceilings: Ceilings, say: Say) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows of all families, and the families that stopped with the reason."""
    rows, left_out = [], {}
    for family in FAMILIES:
        try:
            for row in family(device, ceilings):
                rows.append(asdict(row))
                say(f"{row.name:36} {row.us:9.2f} us  floor {row.floor_us:9.2f} ({row.floor_us / row.us:4.2f})")
        except (RuntimeError, TritonError, TableError) as error:
            left_out[family.__name__] = str(error).splitlines()[0] if str(error) else type(error).__name__
            say(f"left out {family.__name__}: {left_out[family.__name__]}")
        torch.cuda.empty_cache()
    return rows, left_out


def about(device: torch.device) -> Report:
    """The device and every version that decides what its kernels are."""
    arch = arch_of(device)
    on_gpu = device.type == "cuda"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{platform.processor() or 'CPU'} (interpreter)",
        "arch": asdict(arch),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "runtime": torch.version.hip or torch.version.cuda,
        "aiter": _aiter_version(arch),
        "kernels": kernels_fingerprint(),
        "table": _table_in_use(device),
    }


def _aiter_version(arch: Arch) -> str:
    """Or the reason why it does not run here."""
    if reason := why_no_aiter(arch):
        return reason
    try:
        return version("amd-aiter")
    except PackageNotFoundError:
        return "unknown"


def _table_in_use(device: torch.device) -> str:
    try:
        table = measured_table(device)
    except TableError as error:
        return f"refused: {error}"
    return "defaults of arch.py" if table is None else f"measured, {len(table.layers)} layers"


def write(path: Path, report: Report) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
