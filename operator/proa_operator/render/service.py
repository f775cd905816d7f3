"""The service that children are rendered for: its identity in the cluster and one spec of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from proa_operator.api.pools import Pool
from proa_operator.api.service import DisaggregatedService, ServiceSpec, Topology
from proa_operator.names import Role
from proa_operator.render.errors import RenderError

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """`spec` is the user's present one, or that of an older revision."""

    name: str
    namespace: str
    uid: str
    spec: ServiceSpec

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Service:
        """From the object as the API server keeps it. RenderError when it was stored before a schema change."""
        try:
            read = DisaggregatedService.model_validate_json(json.dumps(dict(body)))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise RenderError(f"{field}: {first['msg']}; correct the field and apply the manifest again") from None
        meta = body["metadata"]
        return cls(name=meta["name"], namespace=meta["namespace"], uid=meta["uid"], spec=read.spec)

    def pool(self, role: Role) -> Pool:
        """The pool of a role. RenderError when the spec has none."""
        pool = self.spec.pools.prefill if role is Role.PREFILL else self.spec.pools.decode
        if pool is None:
            raise RenderError(f"spec.pools.{role.value} is missing: add it, or set topology to Aggregated")
        return pool

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that have a pool."""
        return (Role.DECODE,) if self.spec.pools.prefill is None else (Role.PREFILL, Role.DECODE)

    @property
    def is_aggregated(self) -> bool:
        """Every worker serves both phases."""
        return self.spec.topology is Topology.AGGREGATED
