"""What the project's own engines cannot honour, whoever starts them: the operator and `proa up` refuse it alike."""

from __future__ import annotations

from collections.abc import Iterator

from proa_operator.api.engine import EngineType
from proa_operator.api.model import Dtype
from proa_operator.api.pools import FarSkip, Pool, Switch
from proa_operator.api.service import ServiceSpec

_DTYPES = (Dtype.AUTO, Dtype.FLOAT32, Dtype.BFLOAT16)
_PLAYED = "engine sim plays the speeds of a profile and would ignore this"


def engine_limits(spec: ServiceSpec) -> Iterator[tuple[str, str]]:
    """Fields below spec that the engine would ignore or get wrong, each with the reason and the fix; none of vllm."""
    engine = spec.engine.type
    if engine is EngineType.VLLM:
        return
    if spec.model.dtype not in _DTYPES:
        dtype = spec.model.dtype.value
        yield "model.dtype", f"engine {engine.value} does not compute in {dtype}; set auto, bfloat16 or float32"
    for role, pool in (("prefill", spec.pools.prefill), ("decode", spec.pools.decode)):
        for field, reason, fix in _asked(pool) if pool is not None else ():
            why = _PLAYED if engine is EngineType.SIM else reason
            yield f"pools.{role}.{field}", f"{why}; {fix}"


def _asked(pool: Pool) -> Iterator[tuple[str, str, str]]:
    """Field, why engine native does not do it, and the fix."""
    if pool.overlap.two_batch is Switch.ON:
        yield "overlap.twoBatch", "needs expert parallelism, which engine native does not have yet", "set auto or off"
    if pool.overlap.prefill_delayer is Switch.ON:
        reason = "needs data parallelism, which engine native does not have yet"
        yield "overlap.prefillDelayer", reason, "set auto or off"
    if pool.overlap.farskip is not FarSkip.OFF:
        yield "overlap.farskip", "engine native does not run FarSkip checkpoints yet", 'set "off"'
    if pool.speculative.mtp > 0:
        yield "speculative.mtp", "engine native does not draft with the MTP head yet", "set 0"
