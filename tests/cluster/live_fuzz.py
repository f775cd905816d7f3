"""The random rollouts of tests/unit/plan_fuzz.py on a real API server, with kwok's pods and a fleet of doubles."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from proa_operator import names
from proa_operator.api.service import DisaggregatedService, ServiceSpec
from proa_operator.names import Role
from proa_operator.plan.actions import Action
from proa_operator.render import revision_of

from testbed.cluster import Document
from testbed.control_plane import ControlPlane
from testbed.errors import BedError
from tests.cluster.live_api import MERGE, RawApi, Seen, Watches
from tests.cluster.live_fleet import Fleet, PlayedWorker, addressed_nodes
from tests.cluster.live_mirror import KINDS, Frame, Judged, Mirror, judge, pod_of
from tests.cluster.live_services import LABEL, NODE_LABELS, NODE_RESOURCES, PLAYED, played_service
from tests.unit.plan_fakes import FakeRenderer
from tests.unit.plan_fuzz import Drawn
from tests.unit.plan_invariants import Broken
from tests.unit.plan_world import Pod

SPEED = 20.0
LONGEST_SECONDS = 900.0
RUNNING, RUN_SECONDS, LEASE_SECONDS = 2, 1.0, 1.0


@dataclass(frozen=True, kw_only=True)
class LiveRenderer(FakeRenderer):
    """Revisions as the real operator calls them."""

    name: str
    drawn: Drawn

    def revision_of(self, spec: ServiceSpec, *, template_version: int | None, restart: str) -> str:
        return revision_of(ServiceSpec.model_validate_json(json.dumps(self.live_spec(spec))))

    def live_spec(self, spec: ServiceSpec) -> Document:
        """What is applied for a spec of the generator: its model is an annotation that tells how long pods load."""
        pools, seconds = spec.pools, round(self.drawn.start_seconds[spec.model.uri] / SPEED)
        assert pools.prefill is not None
        found: Document = played_service(
            self.name,
            prefill=pools.prefill.replicas,
            decode=pools.decode.replicas,
            nodes=(pools.prefill.nodes_per_group, pools.decode.nodes_per_group),
            has_gpus=spec.accelerator is not None,
            notes={"model": spec.model.uri, f"{PLAYED}ready-seconds": str(seconds)},
            rollout=spec.rollout.model_dump(mode="json", by_alias=True),
        )["spec"]
        return found


class LiveWorld(Mirror):
    """What the generator does to its world is done to the cluster. A second of the test is SPEED of the generator's."""

    api: RawApi
    namespace: str
    watches: Watches

    def attach(self, api: RawApi, namespace: str, watches: Watches) -> None:
        """Before anything else."""
        self.api, self.namespace, self.watches = api, namespace, watches
        self._plans: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._started = time.monotonic()
        self.now = 0.0

    def start(self) -> None:
        """The first install."""
        self.api.apply("DisaggregatedService", self.namespace, self.document())

    def see(self, frame: Frame) -> Action | None:
        """The service is the generator's own; the time is the test's."""
        done = None if frame.seen.kind == "DisaggregatedService" else super().see(frame)
        self.now = self._virtual()
        return done

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        self._plans.append((self._virtual() + seconds, next(self._numbers), do))

    def run(self, seconds: float, *, until: Callable[[], bool] | None = None) -> bool:
        end = self._virtual() + min(seconds, LONGEST_SECONDS * SPEED)
        while self._virtual() < end:
            with self.watches.lock:
                for plan in [plan for plan in sorted(self._plans) if plan[0] <= self._virtual()]:
                    self._plans.remove(plan)
                    plan[2]()
                if until is not None and until():
                    return True
            time.sleep(0.1)  # the pace of the generator
        self.now = self._virtual()
        return False

    def change(self, service: DisaggregatedService) -> None:
        self.service = service
        self.api.apply("DisaggregatedService", self.namespace, self.document())

    def crash(self, pod: Pod) -> None:
        """Its container ends at once, and starts again after a second; a pod that is gone already has no other end."""
        notes = {f"{PLAYED}crash-seconds": "1", f"{PLAYED}crash-times": str(pod.num_restarts + 1)}
        if pod.node and not pod.is_terminating:
            with suppress(BedError):
                self._patch("Pod", pod.name, {"metadata": {"uid": pod.uid, "annotations": notes}})

    def lose_pod(self, pod: Pod) -> None:
        with suppress(BedError):
            self.api.call("DELETE", self.api.path("Pod", pod.name, self.namespace))

    def set_node(self, name: str, **fields: Any) -> None:
        for field, value in fields.items():
            if field == "is_unschedulable":
                self._patch("Node", name, {"spec": {"unschedulable": value}})
            elif field == "is_ready":
                notes = {f"{PLAYED}not-ready": None if value else "true"}
                self._patch("Node", name, {"metadata": {"annotations": notes}})
            else:
                amounts = {key: str(number) for key, number in value.items()}
                self._patch("Node", name, {"status": {"allocatable": amounts}}, "status")

    def document(self) -> Document:
        """The service as it is applied."""
        assert isinstance(self.renderer, LiveRenderer)
        name = self.renderer.name
        meta = {"name": name, "namespace": self.namespace}
        spec = self.renderer.live_spec(self.service.spec)
        return {"apiVersion": "proa.dev/v1alpha1", "kind": "DisaggregatedService", "metadata": meta, "spec": spec}

    def _patch(self, kind: str, name: str, body: Document, subresource: str = "") -> None:
        namespace = "" if kind == "Node" else self.namespace
        self.api.call("PATCH", self.api.path(kind, name, namespace, subresource), body, MERGE)

    def _virtual(self) -> float:
        return (time.monotonic() - self._started) * SPEED


class Theatre:
    """Services side by side in one namespace, each with its own nodes, world and record."""

    def __init__(
        self, bed: ControlPlane, fleet: Fleet, namespace: str, drawn: Mapping[str, Drawn], *, first_node: int = 0
    ) -> None:
        """By name of the service. Nothing exists yet; `first_node` numbers the nodes' blocks of addresses."""
        self.api, self.fleet, self.namespace, self.drawn = RawApi(bed), fleet, namespace, drawn
        self.watches = Watches(self.api, namespace, KINDS, self._see)
        self.worlds = {name: self._world(name, drawn) for name, drawn in self.drawn.items()}
        self.frames: dict[str, list[Frame]] = {name: [] for name in self.worlds}
        self._first_node = first_node

    def play(self, acts: Mapping[str, Callable[[LiveWorld], object]]) -> dict[str, Judged]:
        """All at once, each from the first install on; the first failure is raised."""
        with self.watches, ThreadPoolExecutor(len(self.worlds)) as threads:
            self._add_nodes()
            for world in self.worlds.values():
                world.start()
            list(threads.map(lambda name: acts[name](self.worlds[name]), self.worlds))
        return {name: self.judge(name) for name in self.worlds}

    def judge(self, name: str) -> Judged:
        """What was seen so far of a service."""
        drawn = self.drawn[name]
        try:
            return judge(self.frames[name], drawn.first, has_nodes=bool(drawn.num_nodes))
        except Broken as error:
            raise Broken(f"{name}: {error}") from None

    def _world(self, name: str, drawn: Drawn) -> LiveWorld:
        renderer = LiveRenderer(name=name, drawn=drawn)
        world = LiveWorld(drawn.first, renderer=renderer, nodes={} if drawn.num_nodes else None)
        world.attach(self.api, self.namespace, self.watches)
        return world

    def _add_nodes(self) -> None:
        """Two without devices for a service that asks for none: a group has up to two pods, and they live apart."""
        number = self._first_node
        for name, drawn in self.drawn.items():
            own = [f"{name}-{index}" for index in range(drawn.num_nodes or 2)]
            resources, labels = NODE_RESOURCES if drawn.num_nodes else {}, {LABEL: name, **NODE_LABELS}
            for node in addressed_nodes(*own, first=number, resources=resources, labels=labels):
                self.api.call("POST", self.api.path("Node"), node)
            number += len(own)

    def _see(self, seen: Seen) -> None:
        """Under the lock of the watches."""
        labels = seen.body["metadata"].get("labels", {})
        name = labels.get(LABEL if seen.kind == "Node" else names.SERVICE_LABEL, seen.body["metadata"]["name"])
        if name not in self.worlds or (seen.kind == "Node" and not self.drawn[name].num_nodes):
            return
        if seen.kind == "Pod":
            self._work(seen)
        work = {
            uid: (worker.running, worker.leases) for uid, worker in self.fleet.workers.items() if worker.service == name
        }
        frame = Frame(seen=seen, work=work)
        self.frames[name].append(frame)
        self.worlds[name].see(frame)

    def _work(self, seen: Seen) -> None:
        """A leader has work from the moment it is routable, and ends it some time after it is no more."""
        worker = self.fleet.see_pod(seen.type, seen.body)
        if worker is None or not worker.pod.endswith("-0"):
            return
        is_routable = pod_of(seen.body).is_routable
        if is_routable and not worker.is_routed:
            worker.running, worker.leases = RUNNING, RUNNING if worker.role == Role.PREFILL else 0
        elif worker.is_routed and not is_routable:
            self.fleet.after(RUN_SECONDS, lambda: self._finish(worker))
        worker.is_routed = is_routable

    def _finish(self, worker: PlayedWorker) -> None:
        if not worker.is_routed:
            worker.running = 0
            self.fleet.after(LEASE_SECONDS, lambda: self._expire(worker))

    def _expire(self, worker: PlayedWorker) -> None:
        if not worker.is_routed:
            worker.leases = 0
