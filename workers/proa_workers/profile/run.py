"""`proa-worker --profile FILE`: load the engine, measure it, write the cost model as JSON, serve nothing."""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from proa_workers.engine.base import Engine
from proa_workers.engine.build import build_engine
from proa_workers.errors import SettingsError
from proa_workers.profile.fit import Fit, fit
from proa_workers.profile.measure import Point, Sizes, measure
from proa_workers.settings import Settings
from proa_workers.sim.engine import SimEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is known after a run."""

    fit: Fit
    num_steps: int
    startup_seconds: float


def profile(settings: Settings) -> None:
    """SettingsError when the file cannot be written, or the time was too short for a fit."""
    started = time.monotonic()
    engine = build_engine(settings, lambda _: None)
    startup_seconds = time.monotonic() - started
    sizes = Sizes(max_num_seqs=settings.max_num_seqs, max_num_batched_tokens=settings.max_num_batched_tokens)
    steps = measure(engine, sizes, settings.profile_seconds, _tell)
    try:
        found = fit(steps)
    except ValueError as error:
        raise SettingsError(f"{error}: raise --profile-seconds above {settings.profile_seconds:g}") from None
    record = as_json(engine, Measured(fit=found, num_steps=len(steps), startup_seconds=startup_seconds))
    try:
        Path(settings.profile).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"--profile {settings.profile} cannot be written: {error.strerror}") from None
    finally:
        engine.close()


def as_json(engine: Engine, measured: Measured) -> dict[str, Any]:
    """Keys of the cost model beside where the numbers come from; a simulated engine has its own KV sizes."""
    layout = engine.kv.layout
    own = layout.block_bytes // layout.block_tokens
    return {
        "coefficients": measured.fit.coefficients,
        "fit_error": measured.fit.error,
        "num_steps": measured.num_steps,
        "kv_bytes_per_token": engine.profile.cost.kv_bytes_per_token if isinstance(engine, SimEngine) else own,
        "kv_cache_tokens": engine.kv.num_blocks * layout.block_tokens,
        "startup_seconds": math.ceil(measured.startup_seconds),
        "is_simulated": isinstance(engine, SimEngine),
        "dtype": engine.info.dtype,
        "device": _device_name(engine.info.device),
        "program": f"proa-worker {version('proa')}, Python {platform.python_version()}",
    }


def _device_name(device: str) -> str:
    if not device.startswith("cuda"):
        return f"{platform.machine()} CPU"
    import torch

    return str(torch.cuda.get_device_name())


def _tell(point: Point) -> None:
    print(f"batch {point.batch}, context {point.context}", file=sys.stderr, flush=True)
