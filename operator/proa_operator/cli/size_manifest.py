"""The documents of `proa size`: a service, and the profile that it was sized with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import yaml

from proa_operator.autoscale.config import Config, Speed
from proa_operator.autoscale.demand import Demand
from proa_operator.autoscale.estimate import Shape
from proa_operator.autoscale.solve import Need, Prediction

_NODE_GPUS = 8
_LABEL = "# ESTIMATE from data sheets, not a measurement; replace it with what proa profile writes.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """The result."""

    shape: Shape
    gpu: str
    num_gpus: int
    """GPUs of a group."""
    need: Need
    config: Config
    demand: Demand
    predicted: Prediction
    headroom: float


def manifests(sized: Sized) -> str:
    """YAML with the margins in comments."""
    service = yaml.safe_dump(_service(sized), sort_keys=False, width=120)
    profile = yaml.safe_dump(_profile(sized), sort_keys=False, width=120)
    return f"{_comment(sized)}{service}---\n{_LABEL}{profile}"


def _comment(sized: Sized) -> str:
    slo, seen, demand = sized.config.slo, sized.predicted, sized.demand
    total = (sized.need.prefill + sized.need.decode) * sized.num_gpus
    lines = [
        f"{sized.shape.name} on {sized.gpu} for {demand.requests_per_second:g} requests/s of "
        f"{demand.mean_prompt:.0f} + {demand.mean_output:.0f} tokens: {total} GPUs.",
        "ESTIMATES from data sheets, not measurements. At the percentile of the SLO:",
        f"  TTFT {_ms(seen.ttft_seconds)} of {_ms(slo.ttft_seconds)}",
        f"  ITL {_ms(seen.itl_seconds)} of {_ms(slo.itl_seconds)}",
        f"  the load may grow by {sized.headroom:.0%} before another group is needed",
        "Engine vllm is refused until proa-worker has it; engine sim tries groups and placement (proa validate).",
    ]
    return "".join(f"# {line}\n" for line in lines)


def _ms(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds * 1e3:.0f} ms"


def _service(sized: Sized) -> dict[str, Any]:
    need = sized.need
    slo = sized.config.slo
    return {
        "apiVersion": "proa.dev/v1alpha1",
        "kind": "DisaggregatedService",
        "metadata": {"name": _name(sized.shape)},
        "spec": {
            "topology": "Disaggregated",
            "model": {
                "uri": f"hf://{sized.shape.name}",
                "name": sized.shape.name.rpartition("/")[2].lower(),
                "dtype": _dtype(sized),
            },
            "engine": {"type": "vllm"},
            "accelerator": _accelerator(sized),
            "pools": {"prefill": _pool(sized, need.prefill), "decode": _pool(sized, need.decode)},
            "slo": {
                "ttftMs": round(slo.ttft_seconds * 1e3),
                "itlMs": round(slo.itl_seconds * 1e3),
                "percentile": round(slo.percentile * 100),
            },
            "autoscaling": {
                "mode": "Active",
                "prefill": {"min": 1, "max": 2 * need.prefill},
                "decode": {"min": 1, "max": 2 * need.decode},
            },
            "security": {"profile": "Rdma"},
        },
    }


def _name(shape: Shape) -> str:
    """A DNS label of at most 31 characters."""
    letters = (letter if letter.isalnum() else "-" for letter in shape.name.rpartition("/")[2].lower())
    return "".join(letters)[:31].strip("-")


def _dtype(sized: Sized) -> str:
    return "fp8" if sized.shape.weight_bytes <= 1.0 else "bfloat16"


def _accelerator(sized: Sized) -> dict[str, Any]:
    own = {"product": sized.gpu, "gpusPerPod": min(_NODE_GPUS, sized.num_gpus)}
    return own if sized.gpu.startswith("MI") else own | {"resourceName": "nvidia.com/gpu"}


def _split(sized: Sized) -> dict[str, Any]:
    nodes = max(1, sized.num_gpus // _NODE_GPUS)
    split = {"tp": 1, "dp": sized.num_gpus, "ep": sized.num_gpus}
    return {"nodesPerGroup": nodes, "parallelism": split}


def _pool(sized: Sized, replicas: int) -> dict[str, Any]:
    return {"replicas": replicas, **_split(sized)}


def _profile(sized: Sized) -> dict[str, Any]:
    return {
        "apiVersion": "proa.dev/v1alpha1",
        "kind": "PerformanceProfile",
        "metadata": {"name": f"{_name(sized.shape)}-estimate"},
        "spec": {
            "model": f"hf://{sized.shape.name}",
            "dtype": _dtype(sized),
            "engine": "vllm",
            "accelerator": _accelerator(sized),
            **_split(sized),
            **_costs(sized.config.prefill),
            "provenance": {
                "origin": "simulated",
                "date": f"{datetime.now(UTC):%Y-%m-%d}",
                "source": "proa size: estimate from data sheets",
            },
        },
    }


def _costs(speed: Speed) -> dict[str, Any]:
    return {
        "step": {
            "baseSeconds": _number(speed.step_base),
            "expertsSeconds": _number(speed.step_experts),
            "expertShare": _number(speed.expert_share),
        },
        "prefill": {"tokenSeconds": _number(speed.prefill_token)},
        "decode": {
            "sequenceSeconds": _number(speed.decode_seq),
            "contextTokenSeconds": _number(speed.decode_context_token),
        },
        "transfer": {
            "latencySeconds": _number(speed.transfer_latency),
            "bytesPerSecond": round(speed.transfer_bytes_per_second),
        },
        "kvBytesPerToken": round(speed.kv_bytes_per_token),
        "kvCacheTokens": round(speed.kv_cache_tokens),
        "startupSeconds": round(speed.startup),
    }


def _number(value: float) -> str:
    """Four digits without an exponent: some readers of YAML take 2e-05 for a number, and the API wants text."""
    return f"{Decimal(f'{value:.4g}'):f}"
