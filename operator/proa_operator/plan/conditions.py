"""The conditions of a service: what is so, why in one word, and what to do about it in one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from proa_operator.api.autoscaling import Mode
from proa_operator.api.rollout import OnFailure
from proa_operator.plan import gang, topology
from proa_operator.plan.revisions import serves_fully
from proa_operator.plan.situation import Situation
from proa_operator.plan.standing import Standing
from proa_operator.plan.state import JobState, PodState, ProbeResult
from proa_operator.plan.verdict import is_on_trial

_BY_AUTOSCALER = ("MetricsFresh", "RatioFeasible", "PoolsOwned")
_NO_IMAGE = ("ImagePullBackOff", "ErrImagePull", "InvalidImageName")


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One of them, without its times. `is_true` None is Unknown."""

    type: str
    is_true: bool | None
    reason: str
    message: str

    @property
    def status(self) -> str:
        """As Kubernetes spells it."""
        return {True: "True", False: "False", None: "Unknown"}[self.is_true]


def conditions_of(situation: Situation) -> list[dict[str, Any]]:
    """All conditions for the status; a transition time stays while the status of the condition does.

    MetricsFresh, RatioFeasible and PoolsOwned are the autoscaler's and pass through while it is on.
    """
    before = {old["type"]: old for old in situation.observed.status.get("conditions", [])}
    found = [
        _model_ready(situation),
        _available(situation),
        _progressing(situation),
        _degraded(situation),
        _rolled_back(situation),
        _capacity_available(situation),
    ]
    if situation.observed.nodes is None:
        text = "this install may not see nodes: unhealthy nodes are not left, gangs are tried; install cluster-wide"
        found.append(Condition(type="NodeViewUnavailable", is_true=True, reason="NamespacedInstall", message=text))
    if text := situation.renderer.unscraped(situation.observed):
        found.append(Condition(type="ScrapingUnavailable", is_true=True, reason="NobodyScrapes", message=text))
    written = [_written(condition, before, situation) for condition in found]
    if situation.spec.autoscaling.mode is not Mode.DISABLED:
        written += [before[name] for name in _BY_AUTOSCALER if name in before]
    return written


def _written(condition: Condition, before: Mapping[str, Any], situation: Situation) -> dict[str, Any]:
    old = before.get(condition.type, {})
    since = old.get("lastTransitionTime")
    if old.get("status") != condition.status or since is None:
        since = datetime.fromtimestamp(situation.now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "observedGeneration": situation.observed.generation,
        "lastTransitionTime": since,
    }


def _model_ready(situation: Situation) -> Condition:
    job = situation.observed.job
    if gang.is_model_ready(situation):
        return _condition("ModelReady", True, "Present", "the model is where the pods read it")
    if job is not None and job.failed:
        return _condition("ModelReady", False, "DownloadFailed", job.failed)
    if job is None and (why := _blocked(situation)):
        return _condition("ModelReady", False, "SpecRefused", why)
    return _condition("ModelReady", False, "Downloading", f"downloading {situation.spec.model.uri}: {_done(job)}")


def _blocked(situation: Situation) -> str:
    """Why nothing is started at all; empty when something is, or may be."""
    if situation.target != situation.asked or not situation.refusals or situation.standings:
        return ""
    return f"nothing is started: {'; '.join(situation.refusals)}"


def _done(job: JobState | None) -> str:
    """In whole percent: the status is not to change with each byte."""
    if job is None:
        return "not started"
    if not job.bytes_total:
        return "listing its files"
    return f"{100 * job.bytes_done // job.bytes_total}% of {job.bytes_total / 1e9:.1f} GB"


def _available(situation: Situation) -> Condition:
    routed = [standing for standing in situation.standings if standing.is_ready and standing.is_routable]
    share = situation.capacity(routed)
    gateway = situation.observed.gateway
    target = situation.specs[situation.target]
    floor = topology.floor(target.topology, situation.desired, situation.spec.rollout.max_unavailable_groups)
    if not any(situation.desired.values()):
        return _condition("Available", False, "Asleep", "no groups are wanted; raise the replicas of both pools")
    if share <= 0:
        return _condition("Available", False, "NoPairs", f"no group serves yet: {_first_obstacle(situation)}")
    if gateway is None or (situation.spec.gateway.replicas and not gateway.num_ready):
        waits = next((message for _, message in _gateway_troubles(situation)), "see its events and logs")
        return _condition("Available", False, "NoGateway", f"no pod of the gateway is ready: {waits}")
    if share < floor:
        text = f"{float(share):.0%} of the wanted capacity serves: {_first_obstacle(situation)}"
        return _condition("Available", True, "BelowDesired", text)
    return _condition("Available", True, "Serving", "all wanted groups serve")


def _progressing(situation: Situation) -> Condition:
    if situation.refusals:
        return _condition("Progressing", False, "SpecRefused", "; ".join(situation.refusals))
    failed = situation.revision(situation.asked)
    if failed is not None and failed.failed and situation.spec.rollout.on_failure is OnFailure.PAUSE:
        text = f"revision {situation.asked} failed: {failed.failed}; change the spec, or take it back with proa undo"
        return _condition("Progressing", False, "Paused", text)
    old = [standing for standing in situation.standings if standing.group.revision != situation.target]
    if is_on_trial(situation) or old:
        reason = "RollingBack" if situation.target != situation.asked else "RollingOut"
        return _condition("Progressing", True, reason, _first_obstacle(situation) or f"moving to {situation.target}")
    if not serves_fully(situation) or any(standing.is_leaving for standing in situation.standings):
        return _condition("Progressing", True, "Mending", _first_obstacle(situation) or "groups are leaving")
    return _condition("Progressing", False, "Settled", f"revision {situation.target} is rolled out")


def _degraded(situation: Situation) -> Condition:
    """Something that does not mend itself, or a group that served and does not now."""
    for refusal in situation.observed.refusals:
        return _condition("Degraded", True, refusal.reason, refusal.message)
    if situation.refusals:
        return _condition("Degraded", True, "SpecRefused", "; ".join(situation.refusals))
    for reason, message in _troubles(situation):
        return _condition("Degraded", True, reason, message)
    return _condition("Degraded", False, "Healthy", "no group has a problem")


def _troubles(situation: Situation) -> Iterator[tuple[str, str]]:
    job = situation.observed.job
    if job is not None and job.failed:
        yield "DownloadFailed", job.failed
    for standing in situation.standings:
        group = standing.group
        for pod in standing.live:
            if pod.waiting_reason:
                yield _waits(pod.name, pod.waiting_reason, pod.waiting_message, "spec.engine.image and pull secrets")
            elif pod.probe is ProbeResult.FAILED:
                yield "ProbeFailed", f"pod {pod.name} fails its probe transfer: check kvTransfer and the pod network"
        if standing.is_lost:
            yield "NodeLost", f"the node of group {group.name} is not ready; another group replaces it"
        elif standing.ailment:
            yield "NodeUnhealthy", f"group {group.name} moves: {standing.ailment}"
        elif group.memo.served_at is not None and not standing.is_leaving and not standing.is_ready:
            yield "GroupDown", f"group {group.name} has served and does not now; it starts again by itself"
    yield from _gateway_troubles(situation)


def _gateway_troubles(situation: Situation) -> Iterator[tuple[str, str]]:
    gateway = situation.observed.gateway
    if gateway is not None and gateway.waiting_reason:
        fix = "the chart's values image and image.pullSecrets"
        yield _waits(gateway.waiting_pod, gateway.waiting_reason, gateway.waiting_message, fix)


def _waits(pod: str, reason: str, message: str, image_fix: str) -> tuple[str, str]:
    """Reason and message for a pod whose container waits."""
    if reason in _NO_IMAGE:
        return "ImagePullError", f"pod {pod} cannot pull its image: check {image_fix} ({message or reason})"
    return reason, f"pod {pod}: {message or 'see its logs'}"


def _rolled_back(situation: Situation) -> Condition:
    asked = situation.revision(situation.asked)
    if asked is not None and asked.failed and situation.target != situation.asked:
        text = f"revision {situation.asked} failed: {asked.failed}; {situation.target} serves. Change the spec to retry"
        return _condition("RolledBack", True, "RevisionFailed", text)
    return _condition("RolledBack", False, "NotNeeded", "the revision that the spec asks for is the target")


def _capacity_available(situation: Situation) -> Condition:
    waiting = gang.short_of_room(situation)
    unbound = [
        pod for standing in situation.standings for pod in standing.live if pod.unschedulable_since and not pod.node
    ]
    if not waiting and not unbound:
        return _condition("CapacityAvailable", True, "Fits", "all groups have found their nodes")
    accelerator = situation.spec.accelerator
    need = f"{accelerator.gpus_per_pod} free {accelerator.resource_name}" if accelerator else "room"
    text = "add nodes, or lower the replicas, or relax spec.placement"
    if not waiting:
        return _condition("CapacityAvailable", False, "Unschedulable", _unschedulable(unbound[0], text))
    first = waiting[0].group
    number = f"{first.num_pods} healthy nodes" if first.num_pods > 1 else "a healthy node"
    message = f"group {first.name} needs {number} with {need} for each pod: {text}"
    return _condition("CapacityAvailable", False, "NoNodeFits", message)


def _unschedulable(pod: PodState, fix: str) -> str:
    """A claim is nothing that more nodes would bring."""
    if "persistentvolumeclaim" in pod.unschedulable_message.lower():
        fix = "make the claim, or correct spec.model.uri or the podTemplate that names it"
    why = f" ({pod.unschedulable_message})" if pod.unschedulable_message else ""
    return f"pod {pod.name} finds no node{why}: {fix}"


def _first_obstacle(situation: Situation) -> str:
    """What the service waits for next; empty for nothing."""
    if why := _blocked(situation):
        return why
    if not gang.is_model_ready(situation):
        return "the model is being downloaded"
    for standing in situation.of(situation.target):
        if not standing.is_leaving and not (standing.is_ready and standing.is_routable):
            return f"group {standing.group.name} {_stage(standing)}"
    return ""


def _stage(standing: Standing) -> str:
    if any(pod.is_gated for pod in standing.live):
        return "waits for free nodes"
    if not standing.is_up:
        load = next((pod.load for pod in standing.live if pod.load is not None and not pod.is_loaded), None)
        return f"starts ({load.phase.value} {load.fraction:.0%})" if load else "starts"
    return "waits for a partner" if standing.is_proven else "waits for its probe transfer"


def _condition(kind: str, is_true: bool, reason: str, message: str) -> Condition:
    return Condition(type=kind, is_true=is_true, reason=reason, message=message)
