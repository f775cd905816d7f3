"""PerformanceProfiles of the cluster, read now and then, and which of them speaks for a pool."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from proa_operator import names
from proa_operator.api.performance_profile import Origin, PerformanceProfile, PerformanceProfileSpec
from proa_operator.api.pools import Pool
from proa_operator.api.service import ServiceSpec
from proa_operator.cluster.api import Api
from proa_operator.cluster.kinds import Kind

log = logging.getLogger(__name__)
PROFILE = Kind(
    name="PerformanceProfile", group=names.GROUP, version="v1alpha1", plural="performanceprofiles", is_child=False
)


class Profiles:
    """By namespace: a profile speaks for the services beside it."""

    def __init__(self, api: Api, namespaces: Iterable[str]) -> None:
        self._api, self._namespaces = api, tuple(namespaces) or ("",)
        self._known: dict[str, list[PerformanceProfileSpec]] = {}

    async def read(self) -> None:
        """All of them. Raises ApiError and Unreachable."""
        found: dict[str, list[PerformanceProfileSpec]] = {}
        for namespace in self._namespaces:
            async for items, _ in self._api.pages(PROFILE, namespace, {}):
                for body in items:
                    if (spec := _spec(body)) is not None:
                        found.setdefault(body["metadata"]["namespace"], []).append(spec)
        self._known = found

    def of(self, namespace: str, spec: ServiceSpec, pool: Pool | None) -> PerformanceProfileSpec | None:
        """The measured one before a simulated one, the newer before the older; None where no profile fits."""
        if pool is None:
            return None
        fitting = [profile for profile in self._known.get(namespace, ()) if fits(profile, spec, pool)]
        return max(fitting, key=_merit, default=None)


def fits(profile: PerformanceProfileSpec, spec: ServiceSpec, pool: Pool) -> bool:
    """Same model, engine, hardware and split."""
    return (
        profile.model == spec.model.uri
        and profile.engine == spec.engine.type
        and profile.dtype == spec.model.dtype
        and profile.accelerator == spec.accelerator
        and profile.nodes_per_group == pool.nodes_per_group
        and profile.parallelism == pool.parallelism
    )


def _merit(profile: PerformanceProfileSpec) -> tuple[bool, str]:
    return profile.provenance.origin is Origin.MEASURED, profile.provenance.date


def _spec(body: Mapping[str, Any]) -> PerformanceProfileSpec | None:
    """One that was stored under another schema is as good as none."""
    try:
        return PerformanceProfile.model_validate_json(json.dumps(body)).spec
    except ValidationError as error:
        log.warning("profile ignored", extra={"profile": body["metadata"]["name"], "error": str(error.errors()[0])})
        return None
