"""How vLLM spells the metrics that the autoscaler reads, version by version.

vLLM renames a metric in one version, hides the old name in a later one (a flag brings it back), and then drops it.
Its metrics page names no version, so that comes from the tag of the image. The versions are those of the notes about
deprecated names in vLLM's `v1/metrics/loggers.py` (0.9 to 0.12); the newest names are those of a running 0.32.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from proa_operator import names
from proa_operator.api.engine import EngineType
from proa_operator.api.pools import Pool
from proa_operator.api.service import ServiceSpec

Version = tuple[int, int, int]
NEWEST_KNOWN: Version = (0, 32, 0)
_TAG = re.compile(r":[^:/@]*?(\d+)\.(\d+)(?:\.(\d+))?[^:/@]*(?:@.*)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rename:
    """One metric, without the suffix of a histogram's series."""

    new: str
    old: str
    since: Version
    """First version with the new name."""
    hidden: Version
    """First version without the old name, unless a flag brings it back."""


RENAMES = (
    Rename(new="vllm:kv_cache_usage_perc", old="vllm:gpu_cache_usage_perc", since=(0, 9, 2), hidden=(0, 11, 0)),
    Rename(
        new="vllm:prefix_cache_queries_total",
        old="vllm:gpu_prefix_cache_queries_total",
        since=(0, 9, 2),
        hidden=(0, 11, 0),
    ),
    Rename(
        new="vllm:prefix_cache_hits_total",
        old="vllm:gpu_prefix_cache_hits_total",
        since=(0, 9, 2),
        hidden=(0, 11, 0),
    ),
    Rename(
        new="vllm:inter_token_latency_seconds",
        old="vllm:time_per_output_token_seconds",
        since=(0, 10, 2),
        hidden=(0, 12, 0),
    ),
)
_BY_NEW = {rename.new: rename for rename in RENAMES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Whose metrics a service's workers export."""

    is_vllm: bool = False
    """False: Proa's own workers, which have the newest names."""
    version: Version | None = None
    """Of vLLM; None where the image's tag does not tell it."""


def spellings(name: str, suffix: str = "") -> tuple[str, ...]:
    """All names of a metric, newest first; `name` is the newest one."""
    rename = _BY_NEW.get(name)
    return (name + suffix, rename.old + suffix) if rename else (name + suffix,)


def engine_of(spec: ServiceSpec) -> Engine:
    """From the manifest: the image of the pools' own container `worker`, else the service's."""
    if spec.engine.type is not EngineType.VLLM:
        return Engine()
    images = [_own_image(pool) for pool in (spec.pools.decode, spec.pools.prefill) if pool is not None]
    return Engine(is_vllm=True, version=version_of(next(filter(None, images), spec.engine.image)))


def version_of(image: str) -> Version | None:
    """Of an image such as `vllm/vllm-openai:v0.11.0`; None without a tag, or with one that is no version."""
    found = _TAG.search(image)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def explained(name: str, engine: Engine) -> str:
    """A missing metric by the name under which this engine should export it; `name` is the newest one."""
    rename = _BY_NEW.get(name)
    if not engine.is_vllm:
        return name
    if engine.version is None:
        return f"{name} (before vLLM {_text(rename.since)}: {rename.old})" if rename else name
    version = f"vLLM {_text(engine.version)}"
    if engine.version[:2] > NEWEST_KNOWN[:2]:
        return f"{name} ({version} may have renamed it: names are known up to {_text(NEWEST_KNOWN)})"
    return f"{rename.old if rename and engine.version < rename.since else name} (as {version} names it)"


def _own_image(pool: Pool) -> str:
    containers = (pool.pod_template.get("spec") or {}).get("containers") or ()
    named = (one for one in containers if isinstance(one, dict) and one.get("name") == names.WORKER_CONTAINER)
    return next((str(one.get("image", "")) for one in named), "")


def _text(version: Version) -> str:
    return ".".join(map(str, version))
