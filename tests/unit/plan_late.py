"""The simulated cluster under an operator as slow as a real one: it sees late, and carries out its plans late.

What it plans from is a cache. News of each kind arrive in order, some seconds late, and the streams of two kinds know
nothing of each other; answers to its own writes are there at once. A plan is carried out one action at a time, and
spec changes, crashes and news come in between. The invariants judge each action by what the cache holds at that moment:
an operator cannot know more, and has no excuse for acting on less.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from proa_operator.plan.actions import (
    Action,
    Apply,
    Delete,
    DrainWorker,
    MarkAvailable,
    MarkFailed,
    Probe,
    Remember,
    Route,
    Scale,
    StartRevision,
    Ungate,
    takes_away,
)
from proa_operator.plan.state import Observed, PodState, WorkerLoad

from tests.unit.plan_invariants import Invariants, one_revision_per_protocol
from tests.unit.plan_world import Pod, Set, World

FROM_WORKER = frozenset(
    ("running", "leases", "finished", "stepped_at", "phase", "fraction", "probe", "probed_at", "is_stalled")
)
"""Fields of a pod that the operator has from its worker, without a watch."""
STREAMS = ("sets", "pods", "pools", "revisions", "nodes", "service", "gateway", "job", "present")


@dataclass
class LateWorld(World):
    """`view` is the operator's cache, a world of its own that `known` judges."""

    watch_seconds: float = 4.0
    """News take up to so long."""
    act_seconds: float = 1.5
    """Each action takes up to so long."""
    is_careless: bool = False
    """The operator carries out every plan to its end, whatever it hears meanwhile."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.dice = Random(self.seed)
        self.known = Invariants()
        self.num_outdated = 0
        self.truth: World = self
        self._steps: list[Action] | None = None
        self._seen_uids: dict[str, str] = {}
        self._planned_at = (0, 0)
        self._versions = itertools.count(1)
        self._sent: dict[tuple[str, str], object] = {}
        self._have: dict[tuple[str, str], int] = {}
        self._arrival: dict[str, float] = {}
        self._num_news = 0
        self.view = copy.copy(self)
        self.view.sets, self.view.pods, self.view.pools, self.view.revisions = {}, {}, {}, {}
        self.view.nodes = None if self.nodes is None else {}
        self._publish(at_once={(stream, "") for stream in STREAMS} | {("nodes", name) for name in self.nodes or ()})

    # -- news ---------------------------------------------------------------------------------------------------------

    def seen(self, action: Action | None) -> None:
        routed = self.view.pods.get(action.pod) if isinstance(action, Route) else None
        self._publish(at_once=_written(action))
        super().seen(action)
        one_revision_per_protocol(self)
        view = self._whole_view()
        if routed is not None:  # that it has loaded again the operator may learn from the answer only
            view.pods[routed.name] = copy.copy(view.pods[routed.name])
            view.pods[routed.name].is_loaded = routed.is_loaded
        for pod in view.pods.values():
            if (live := self.pods.get(pod.name)) is not None and live.uid == pod.uid:
                pod.running, pod.leases = live.running, live.leases
        self.known(view, action)

    def _publish(self, *, at_once: set[tuple[str, str]]) -> None:
        """Send what has changed to the cache; `at_once` names what the operator wrote itself."""
        for stream in STREAMS:
            present = self._present(stream)
            gone = [(kind, name) for kind, name in self._sent if kind == stream and name not in present]
            for key in gone:
                del self._sent[key]
                self._send(key, None, key in at_once)
            for name, body in present.items():
                if self._sent.get((stream, name)) != (stamp := _stamp(body)):
                    self._sent[stream, name] = stamp
                    self._send((stream, name), copy.copy(body), (stream, name) in at_once)

    def _present(self, stream: str) -> dict[str, Any]:
        if stream == "service":
            return {"": (self.service, self.generation)}
        found = getattr(self, stream)
        return found if isinstance(found, dict) else {} if found is None else {"": found}

    def _send(self, key: tuple[str, str], body: Any, is_at_once: bool) -> None:
        version, delay = next(self._versions), 0.0
        if not is_at_once:
            arrival = max(self._arrival.get(key[0], 0.0), self.now + self.dice.uniform(0.0, self.watch_seconds))
            self._arrival[key[0]], delay = arrival, arrival - self.now
        if delay:
            self.after(delay, lambda: self._receive(key, body, version))
        else:
            self._receive(key, body, version)

    def _receive(self, key: tuple[str, str], body: Any, version: int) -> None:
        stream, name = key
        if version <= self._have.get(key, 0):
            return
        self._have[key] = version
        self._num_news += 1
        if stream == "service":
            self.view.service, self.view.generation = body
        elif not isinstance(held := getattr(self.view, stream), dict):
            setattr(self.view, stream, body)
        elif body is None:
            held.pop(name, None)
        else:
            held[name] = body

    # -- the operator -------------------------------------------------------------------------------------------------

    def observe(self) -> Observed:
        return World.observe(self._whole_view())

    def _whole_view(self) -> World:
        """Without pods whose StatefulSet has not been seen, or is not seen any more."""
        whole = copy.copy(self.view)
        whole.pods = {name: pod for name, pod in self.view.pods.items() if pod.set_name in self.view.sets}
        whole.now, whole.status = self.now, self.status
        return whole

    def _pod(self, owner: Set, pod: Pod) -> PodState:
        live = self.truth.pods.get(pod.name)
        told = pod if live is None or live.uid != pod.uid else live
        return replace(super()._pod(owner, pod), probe=told.probe, probed_at=told.probed_at)

    def _load_of(self, owner: Set, pod: Pod) -> WorkerLoad | None:
        live = self.truth.pods.get(pod.name)
        return None if live is None or live.uid != pod.uid else World._load_of(self.truth, owner, live)

    def reconcile(self, limit: int = 25) -> None:
        """Begin a plan, unless one is being carried out."""
        if self._steps is not None:
            return
        made = self.plan()
        if made.wake_at is not None and made.wake_at not in self._wakes:
            self._wakes.add(made.wake_at)
            self.after(max(0.0, made.wake_at - self.now), lambda: None)
        self._planned_at = (self._num_news, self.view.generation)
        self._seen_uids = {pod.name: pod.uid for pod in self.view.pods.values()}
        self.status = made.status
        if made.actions:
            self._steps = list(made.actions)
            self._pause()

    def _pause(self) -> None:
        self.after(self.dice.uniform(0.01, self.act_seconds), self._step)

    def _step(self) -> None:
        """As the shell has it: before it takes a group away it reads the spec again, and news may come meanwhile."""
        assert self._steps is not None
        action = self._steps.pop(0)
        if self.is_careless or not takes_away(action):
            self._finish_step(action)
            return
        version, body = next(self._versions), (self.service, self.generation)
        self.after(self.dice.uniform(0.01, self.act_seconds), lambda: self._have_read(action, body, version))

    def _have_read(self, action: Action, body: Any, version: int) -> None:
        if self.view.generation != body[1]:
            self._receive(("service", ""), body, version)
        self._finish_step(action)

    def _finish_step(self, action: Action) -> None:
        if self._is_outdated(action):
            self.num_outdated += 1
            self._steps = None
            return
        if not self._can(action) or not self.act(action) or not self._steps:
            self._steps = None
            return
        self._pause()

    def _is_outdated(self, action: Action) -> bool:
        """What takes a group away is planned anew after any news, and all else after another spec."""
        if self.is_careless:
            return False
        has_news = takes_away(action) and self._num_news != self._planned_at[0]
        return has_news or self.view.generation != self._planned_at[1]

    def _can(self, action: Action) -> bool:
        """Names are good for what had them when the plan was made, as the uids in the shell's writes see to."""
        pods: tuple[str, ...] = ()
        match action:
            case Remember():
                return action.group in self.sets
            case Delete():
                return action.kind != "StatefulSet" or action.name in self.sets
            case Ungate():
                pods = action.pods
            case Route() | DrainWorker():
                pods = (action.pod,)
            case Probe():
                pods = (action.prefill_pod, action.decode_pod)
        return all(name in self.pods and self.pods[name].uid == self._seen_uids[name] for name in pods)


def _written(action: Action | None) -> set[tuple[str, str]]:
    """What the answer to a write holds."""
    match action:
        case Remember():
            return {("sets", action.group)}
        case Delete():
            return {("sets", action.name), ("pods", action.name), ("revisions", action.name.removeprefix("s-"))}
        case Ungate():
            return {("pods", name) for name in action.pods}
        case Route():
            return {("pods", action.pod)}
        case Apply():
            return {("sets", item["metadata"]["name"]) for item in action.objects} | {("present", "")}
        case Scale():
            return {("pools", action.role)}
        case MarkAvailable() | MarkFailed() | StartRevision():
            return {("revisions", action.revision)}
    return set()


def _stamp(body: Any) -> object:
    """Equal for an object that has not changed."""
    if isinstance(body, Pod):
        return tuple(value for name, value in vars(body).items() if name not in FROM_WORKER)
    if isinstance(body, Set):
        return tuple(vars(body).values())
    return frozenset(body) if isinstance(body, set) else body
