"""What the planner needs from the renderer: child objects for the service as observed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from proa_operator import render
from proa_operator.api.service import ServiceSpec
from proa_operator.names import Role
from proa_operator.plan.state import Observed

Objects = tuple[dict[str, Any], ...]
T = TypeVar("T")


class NodeRule(Protocol):
    """A condition on a node's labels. A negated one is about health: it may start to fail under a running pod."""

    @property
    def is_negated(self) -> bool:
        """The label must not have one of some values."""

    @property
    def key(self) -> str:
        """The label."""

    def holds(self, labels: dict[str, str]) -> bool:
        """Whether a node with these labels may run the pod."""


class Renderer(Protocol):
    """Pure; `spec` is the present one or an older revision's."""

    def revision_of(self, spec: ServiceSpec, *, template_version: int | None, restart: str) -> str:
        """8 hexadecimal digits; template_version None is the renderer's own."""

    def group(self, observed: Observed, spec: ServiceSpec, *, revision: str, role: Role, index: int) -> Objects:
        """All objects of a group."""

    def revision(
        self, observed: Observed, spec: ServiceSpec, *, revision: str, number: int, template_version: int | None
    ) -> Objects:
        """A ControllerRevision that starts now; template_version None is the renderer's own."""

    def policies(self, observed: Observed, spec: ServiceSpec, *, revision: str) -> Objects:
        """Objects that a revision has once."""

    def gateway(self, observed: Observed, spec: ServiceSpec) -> Objects:
        """The gateway in front of groups of that spec."""

    def service(self, observed: Observed) -> Objects:
        """Objects that the service has once."""

    def download(self, observed: Observed) -> Objects:
        """The Job that fetches the model, created once; empty for a model that is already there."""

    def refusals(self, observed: Observed) -> tuple[str, ...]:
        """What the present spec asks for and cannot be done here, each with its fix."""

    def unscraped(self, observed: Observed) -> str:
        """Why metrics that somebody counts on reach nobody, with the fix; or empty."""

    def node_rules(self, spec: ServiceSpec) -> tuple[NodeRule, ...]:
        """What the labels of a node must say."""


class Kept:
    """What was made from specs lately, by the spec's identity: a service is planned far more often than changed."""

    def __init__(self, most: int = 16_384) -> None:
        self._known: OrderedDict[tuple[int, Hashable], tuple[ServiceSpec, Any]] = OrderedDict()
        self._most = most

    def once(self, spec: ServiceSpec, key: Hashable, make: Callable[[], T]) -> T:
        """The kept value, or a new one. It is shared: nobody may change it."""
        place = (id(spec), key)
        known = self._known.get(place)  # it holds the spec, so the identity is not another's
        if known is None:
            known = self._known[place] = (spec, make())
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        found: T = known[1]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRenderer:
    """The real one. Keeps all but the objects of groups, which are many and seldom asked for."""

    settings: render.RenderSettings
    kept: Kept = field(default_factory=Kept, compare=False)

    def revision_of(self, spec: ServiceSpec, *, template_version: int | None, restart: str) -> str:
        version = render.TEMPLATE_VERSION if template_version is None else template_version
        return render.revision_of(spec, template_version=version, restart=restart)

    def group(self, observed: Observed, spec: ServiceSpec, *, revision: str, role: Role, index: int) -> Objects:
        service = _service(observed, spec)
        return tuple(render.group_objects(service, revision=revision, role=role, index=index, settings=self.settings))

    def revision(
        self, observed: Observed, spec: ServiceSpec, *, revision: str, number: int, template_version: int | None
    ) -> Objects:
        started_at = datetime.fromtimestamp(observed.now, UTC).isoformat(timespec="milliseconds")
        stored = render.controller_revision(
            _service(observed, spec),
            revision=revision,
            number=number,
            started_at=started_at.replace("+00:00", "Z"),
            settings=self.settings,
            template_version=render.TEMPLATE_VERSION if template_version is None else template_version,
        )
        return (stored,)

    def policies(self, observed: Observed, spec: ServiceSpec, *, revision: str) -> Objects:
        service = _service(observed, spec)
        return self._once(
            "policies", service, lambda: tuple(render.revision_objects(service, revision=revision)), revision
        )

    def gateway(self, observed: Observed, spec: ServiceSpec) -> Objects:
        service = _service(observed, spec)
        return self._once("gateway", service, lambda: tuple(render.gateway_objects(service, settings=self.settings)))

    def service(self, observed: Observed) -> Objects:
        service = _service(observed, observed.service.spec)
        return self._once("service", service, lambda: tuple(render.service_objects(service, settings=self.settings)))

    def download(self, observed: Observed) -> Objects:
        service = _service(observed, observed.service.spec)
        return self._once("download", service, lambda: tuple(render.download_objects(service, settings=self.settings)))

    def refusals(self, observed: Observed) -> tuple[str, ...]:
        service = _service(observed, observed.service.spec)
        return self._once(
            "refusals", service, lambda: tuple(map(str, render.refusals(service, settings=self.settings)))
        )

    def unscraped(self, observed: Observed) -> str:
        return render.unscraped(_service(observed, observed.service.spec), self.settings)

    def node_rules(self, spec: ServiceSpec) -> tuple[NodeRule, ...]:
        return render.node_requirements(spec)

    def _once(self, what: str, service: render.Service, make: Callable[[], T], *more: str) -> T:
        return self.kept.once(service.spec, (what, service.namespace, service.name, service.uid, *more), make)


def _service(observed: Observed, spec: ServiceSpec) -> render.Service:
    meta = observed.service.metadata
    return render.Service(name=meta.name, namespace=meta.namespace, uid=observed.uid, spec=spec)


def key_of(item: Mapping[str, Any]) -> tuple[str, str]:
    """(kind, name) of a rendered object, as in `Observed.present`."""
    return item["kind"], item["metadata"]["name"]
