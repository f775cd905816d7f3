"""A double of the API server's client: keeps objects, counts writes, refuses what it is told to."""

from __future__ import annotations

import itertools
from typing import Any

from proa_operator.cluster.api import Ref
from proa_operator.cluster.errors import ApiError, Gone

Json = dict[str, Any]


class FakeApi:
    """As much of `Api` as the shell's writers use; merging is shallow."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Json] = {}
        self.calls: list[tuple[str, str, str]] = []
        self.bodies: list[Any] = []
        self.refusals: dict[tuple[str, str], ApiError] = {}
        self._versions = itertools.count(100)

    async def apply(self, ref: Ref, body: Json, *, manager: str) -> Json:
        return self._store("apply", ref, body)

    async def merge_patch(self, ref: Ref, patch: Json, *, manager: str) -> Json:
        return self._store("merge", ref, patch)

    async def strategic_patch(self, ref: Ref, patch: Json) -> Json:
        return self._store("strategic", ref, patch)

    async def json_patch(self, ref: Ref, patch: list[Json], *, manager: str = "") -> Json:
        old = self._found(ref)
        self._record("json", ref, patch)
        for step in patch:
            if step["path"] == "/status":
                old = {**old, "status": step["value"]}
        return self._stamped(ref, old)

    async def create(self, ref: Ref, body: Json) -> Json:
        return self._store("create", ref, body)

    async def delete(self, ref: Ref, *, uid: str = "") -> Json:
        self._found(ref)
        self._record("delete", ref, uid)
        del self.objects[ref.kind.name, ref.name]
        return {"kind": "Status", "status": "Success"}

    def seed(self, body: Json) -> Json:
        self.objects[body["kind"], body["metadata"]["name"]] = body
        return body

    def _store(self, verb: str, ref: Ref, body: Json) -> Json:
        self._record(verb, ref, body)
        old = self.objects.get((ref.kind.name, ref.name), {"metadata": {"uid": f"uid-{ref.name}", "generation": 1}})
        meta = {**old["metadata"], **body.get("metadata", {})}
        notes = {**old["metadata"].get("annotations", {}), **body.get("metadata", {}).get("annotations", {})}
        meta["annotations"] = {name: value for name, value in notes.items() if value is not None}
        return self._stamped(ref, {**old, **body, "metadata": meta})

    def _stamped(self, ref: Ref, body: Json) -> Json:
        named = {"name": ref.name, "namespace": ref.namespace, "resourceVersion": str(next(self._versions))}
        stored = {**body, "metadata": {"creationTimestamp": "2026-01-31T00:00:00Z", **body["metadata"], **named}}
        self.objects[ref.kind.name, ref.name] = stored
        return stored

    def _found(self, ref: Ref) -> Json:
        if (ref.kind.name, ref.name) not in self.objects:
            raise Gone(404, "NotFound", f"{ref.kind.plural} {ref.name} not found")
        return self.objects[ref.kind.name, ref.name]

    def _record(self, verb: str, ref: Ref, body: Any) -> None:
        name = f"{ref.name}/{ref.subresource}" if ref.subresource else ref.name
        self.calls.append((verb, ref.kind.name, name))
        self.bodies.append(body)
        if (ref.kind.name, ref.name) in self.refusals:
            raise self.refusals[ref.kind.name, ref.name]
