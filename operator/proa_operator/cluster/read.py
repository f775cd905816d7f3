"""Parsed specs and memos, each parsed once."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from proa_operator.api.service import DisaggregatedService, ServiceSpec
from proa_operator.cluster.cache import Stored
from proa_operator.cluster.facts import RevisionFacts, ServiceFacts
from proa_operator.names import Role
from proa_operator.plan.memo import NOTHING, GroupMemo
from proa_operator.plan.state import Revision
from proa_operator.render import RenderError, read_revision

log = logging.getLogger(__name__)


class Reader:
    """Services and revisions as typed objects, each parsed once for each generation of its service."""

    def __init__(self, most: int = 16_384) -> None:
        self._known: OrderedDict[tuple[str | int, ...], Any] = OrderedDict()
        self._most = most

    def service(self, stored: Stored) -> DisaggregatedService:
        """RenderError for one that was stored under an older schema and does not fit this version."""
        assert isinstance(stored.facts, ServiceFacts)
        body = stored.facts.body
        read: DisaggregatedService = self._once(_service_key(stored), lambda: _parsed(body))
        return read

    def revision(self, stored: Stored, service: Stored) -> Revision:
        """RenderError when it is not one of Proa's or does not fit this version."""
        facts = stored.facts
        assert isinstance(facts, RevisionFacts)
        key = (stored.uid, stored.version, *_service_key(service))
        read: Revision = self._once(key, lambda: revision_of(facts, self.service(service).spec))
        return read

    def _once(self, key: tuple[str | int, ...], read: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = read()
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        return self._known[key]


def _service_key(service: Stored) -> tuple[str, int]:
    assert isinstance(service.facts, ServiceFacts)
    return (service.uid, service.facts.body["metadata"]["generation"])


def _parsed(body: dict[str, Any]) -> DisaggregatedService:
    try:
        return DisaggregatedService.model_validate_json(json.dumps(body))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RenderError(f"{field}: {first['msg']}; correct the field and apply the manifest again") from None


def revision_of(facts: RevisionFacts, present: ServiceSpec) -> Revision:
    """A ControllerRevision. RenderError when it is not one of Proa's or does not fit this version."""
    stored = read_revision(facts.body)
    available = json.loads(facts.available) if facts.available else {}
    sizes = {Role(role): int(size) for role, size in available.get("sizes", {}).items()}
    return Revision(
        name=stored.revision,
        number=stored.number,
        spec=stored.spec(present),
        template_version=stored.template_version,
        started_at=datetime.fromisoformat(stored.started_at).timestamp() if stored.started_at else 0.0,
        available_at=available.get("at"),
        sizes=sizes,
        failed=stored.failed,
    )


def available_text(at: float, sizes: dict[Role, int]) -> str:
    """The annotation that `revision_of` reads."""
    return json.dumps({"at": at, "sizes": {role.value: size for role, size in sizes.items()}}, sort_keys=True)


@lru_cache(maxsize=32_768)
def memo_of(text: str) -> GroupMemo:
    """A group's memo. A broken one is as good as none: the planner starts again from what it sees."""
    if not text:
        return NOTHING
    try:
        return GroupMemo.from_text(text)
    except ValueError as error:
        log.warning("a group's memo was edited and is ignored", extra={"error": str(error)})
        return NOTHING
