"""Engine without a model: production scheduler, leases and transfers over modelled time and provable KV rows.

Every step proves the rows that its sequences stand on, so KV that a hand-off lost, mixed up or damaged raises instead
of passing as a plausible answer. Imports no torch.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from proa_workers.core.plan import Sampled, SampleRow, SeqSlice, StepOutput, StepPlan
from proa_workers.engine.base import EngineInfo, check_pool
from proa_workers.errors import SettingsError
from proa_workers.kv.layout import KvLayout
from proa_workers.kv.memory import HostKvMemory
from proa_workers.model.hf_config import read_json, reading_values, token_ids
from proa_workers.sampling.token_bytes import load_tokenizer
from proa_workers.settings import Settings
from proa_workers.sim.cost import attended_pairs
from proa_workers.sim.fingerprint import ROW_BYTES, RowStore, make_row, make_rows
from proa_workers.sim.pace import Pace
from proa_workers.sim.profile import SimProfile, read_profile
from proa_workers.sim.tokens import TokenSource, readable_tokens

VERIFY_WINDOW = 512  # rows proved per decoding sequence and step; a longer context is covered by turns


class SimEngine:
    """Engine (engine/base.py). Keeps the profile's pace; prefixes, chunks and hand-offs work as with a model."""

    def __init__(
        self,
        info: EngineInfo,
        tokens: TokenSource,
        profile: SimProfile,
        *,
        num_blocks: int,
        block_tokens: int,
        pace: Pace,
        verify_window: int = VERIFY_WINDOW,
    ) -> None:
        layout = KvLayout(
            model=f"sim-1:{info.architecture}:{info.vocab_size}",
            kind="sim",
            dtype="uint8",
            block_tokens=block_tokens,
            block_shape=(block_tokens, ROW_BYTES),
        )
        self.info = info
        self.profile = profile
        self.kv = HostKvMemory(layout, num_blocks)
        self._store = RowStore(self.kv.buffer, block_tokens)
        self._tokens = tokens
        self._pace = pace
        self._verify_window = verify_window

    @classmethod
    def from_settings(cls, folder: Path, settings: Settings) -> SimEngine:
        """Engine for a checkpoint folder, of which config.json and tokenizer.json are read.

        Waits the profile's start-up time. Raises CheckpointError for a bad folder, SettingsError for a bad profile.
        """
        default_bytes = next(f.default for f in fields(Settings) if f.name == "kv_cache_memory")
        if settings.kv_cache_memory != default_bytes:
            raise SettingsError("--engine sim has no KV bytes: size it with --num-kv-blocks or the profile's tokens")
        profile = read_profile(Path(settings.sim_profile)) if settings.sim_profile else SimProfile()
        info = read_info(folder, settings.max_model_len)
        num_blocks = settings.num_kv_blocks or max(profile.cost.kv_cache_tokens // settings.block_size, 1)
        check_pool(num_blocks, settings.block_size, info.max_model_len)
        readable = readable_tokens(load_tokenizer(folder), info.vocab_size)
        pace = Pace(settings.sim_speed)
        pace.begin()
        pace.finish(profile.cost.startup_seconds)
        return cls(
            info,
            TokenSource(readable, info.vocab_size, profile.mean_output_tokens),
            profile,
            num_blocks=num_blocks,
            block_tokens=settings.block_size,
            pace=pace,
        )

    def step(self, plan: StepPlan) -> StepOutput:
        """AssertionError when a row that the step builds on is not the one that was written for it."""
        self._pace.begin()
        sampled = tuple(self._run(piece, plan.step_id) for piece in plan.slices)
        self._pace.finish(self._seconds(plan))
        return StepOutput(sampled=sampled)

    def close(self) -> None:
        self.kv.close()

    def _run(self, piece: SeqSlice, step_id: int) -> Sampled | None:
        prefix = self._verify(piece, step_id)
        if len(piece.token_ids) == 1:
            row = make_row(piece.start, piece.token_ids[0], prefix)
            self._store.append(piece.block_table, row)
            prefix = row[2]
        else:
            rows = make_rows(piece.start, np.array(piece.token_ids, dtype=np.int64), prefix)
            self._store.write(piece.block_table, piece.start, rows)
            prefix = int(rows[-1, 2])
        return None if piece.row is None else self._tokens.next(prefix, piece.row)

    def _verify(self, piece: SeqSlice, step_id: int) -> int:
        """Prove the rows before the slice: all of them when they may be new here, else a window and the last one."""
        row, table, start = piece.row, piece.block_table, piece.start
        if row is None:
            return self._store.check(piece.seq_id, table, 0, start)
        assert _tokens(row, start, piece.end).tolist() == piece.token_ids, f"foreign slice of sequence {piece.seq_id}"
        is_decoding = len(piece.token_ids) == 1 and len(row.output_ids) > 1
        if not is_decoding or start <= self._verify_window:
            return self._store.check(piece.seq_id, table, 0, _tokens(row, 0, start))
        first = (step_id % -(-start // self._verify_window)) * self._verify_window
        last = min(first + self._verify_window, start)
        self._store.check(piece.seq_id, table, first, _tokens(row, first, last))
        return self._store.prefix_at(piece.seq_id, table, start - 1, int(_tokens(row, start - 1, start)[0]))

    def _seconds(self, plan: StepPlan) -> float:
        prefills = [p for p in plan.slices if len(p.token_ids) > 1 or p.row is None]
        decodes = [p for p in plan.slices if not (len(p.token_ids) > 1 or p.row is None)]
        return self.profile.cost.step_seconds(
            prefill_tokens=sum(len(p.token_ids) for p in prefills),
            prefill_pairs=sum(attended_pairs(p.start, len(p.token_ids)) for p in prefills),
            decode_seqs=len(decodes),
            decode_context=sum(p.end for p in decodes),
        )


def _tokens(row: SampleRow, start: int, end: int) -> npt.NDArray[np.int64]:
    cut = len(row.prompt_ids)
    ids = row.prompt_ids[start:end] + row.output_ids[max(start - cut, 0) : max(end - cut, 0)]
    return np.array(ids, dtype=np.int64)


def read_info(folder: Path, max_model_len: int) -> EngineInfo:
    """What a gateway needs of config.json and generation_config.json; CheckpointError for missing or wrong values."""
    keys = read_json(folder / "config.json")
    with reading_values(keys):
        longest = int(keys.need("max_position_embeddings"))
        if max_model_len > longest:
            raise SettingsError(f"max_model_len {max_model_len} is out of range; this model serves 1..{longest}")
        return EngineInfo(
            model_path=str(folder),
            model_type=str(keys.need("model_type")),
            architecture=str(keys.need("architectures")[0]),
            vocab_size=int(keys.need("vocab_size")),
            max_model_len=max_model_len or longest,
            dtype="sim",
            device="cpu",
            **token_ids(folder, keys),
        )
