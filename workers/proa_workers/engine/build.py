"""Settings to a loaded engine and its loop; torch is imported only when the native engine is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from proa_workers.core.block_pool import BlockPool
from proa_workers.core.scheduler import Limits, Scheduler
from proa_workers.engine.base import Engine
from proa_workers.engine.loop import EngineLoop, Report
from proa_workers.errors import CheckpointError
from proa_workers.settings import Settings


def build_engine(settings: Settings, progress: Callable[[float], None]) -> Engine:
    """Load the engine that `settings` name; CheckpointError or SettingsError for what the user can mend."""
    folder = Path(settings.model)
    if not folder.is_dir():
        raise CheckpointError(f"model folder {folder} does not exist: give --model a Hugging Face checkpoint folder")
    return _sim(folder, settings) if settings.engine == "sim" else _native(folder, settings, progress)


def build_loop(engine: Engine, settings: Settings, on_report: Callable[[Report], None]) -> EngineLoop:
    """Scheduler and block pool over an engine's KV memory, in a loop that is not started yet."""
    pool = BlockPool(engine.kv.num_blocks, settings.block_size, has_prefix_cache=settings.prefix_cache)
    limits = Limits(
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        max_model_len=engine.info.max_model_len,
        max_num_waiting=settings.max_num_waiting,
    )
    return EngineLoop(engine, Scheduler(pool, limits), on_report)


def _native(folder: Path, settings: Settings, progress: Callable[[float], None]) -> Engine:
    from proa_workers.engine.native import NativeEngine
    from proa_workers.engine.native_settings import NativeSettings

    native = NativeSettings(
        dtype=settings.dtype,
        device=settings.device,
        block_tokens=settings.block_size,
        num_blocks=settings.num_kv_blocks or None,
        kv_bytes=settings.kv_cache_memory or None,
        max_model_len=settings.max_model_len or None,
    )
    return NativeEngine.from_checkpoint(folder, native, progress)


def _sim(folder: Path, settings: Settings) -> Engine:
    from proa_workers.sim.engine import SimEngine

    return SimEngine.from_settings(folder, settings)
