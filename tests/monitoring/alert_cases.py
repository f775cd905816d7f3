"""For each alert: series under which it fires, and series close to them under which it does not.

Values are promtool's: `1x20` is 1 for 20 more samples, `0+6x20` rises by 6 each; a sample comes every 30 s.
"""

from __future__ import annotations

from dataclasses import dataclass

Series = dict[str, str]

HOURS = 200
"""Samples of a case: 100 minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Both are looked at after `minutes`."""

    fires: Series
    quiet: Series
    minutes: int = 90


SVC = 'namespace="a",service="s"'
POD = f'{SVC},role="decode",pod="p"'


def flat(value: float) -> str:
    return f"{value}x{HOURS}"


def rising(per_sample: float) -> str:
    return f"0+{per_sample}x{HOURS}"


def condition(kind: str, bad: float) -> Case:
    name = f'proa_service_condition{{{SVC},type="{kind}"}}'
    return Case(fires={name: flat(bad)}, quiet={name: flat(1 - bad)})


def gauge(name: str, bad: float, good: float, labels: str = SVC) -> Case:
    return Case(fires={f"{name}{{{labels}}}": flat(bad)}, quiet={f"{name}{{{labels}}}": flat(good)})


def counter(name: str, bad: float, good: float, labels: str = SVC) -> Case:
    return Case(fires={f"{name}{{{labels}}}": rising(bad)}, quiet={f"{name}{{{labels}}}": rising(good)})


def answers(failed: float) -> Series:
    """100 answers a sample, `failed` of them 5xx."""
    good, bad = (f'smg_http_responses_total{{{SVC},path="/v1/chat/completions",status_code="{c}"}}' for c in (200, 503))
    return {good: rising(100 - failed), bad: rising(failed)}


def latencies(name: str, labels: str, slow: float, slo: str) -> Series:
    """A histogram whose p95 lies between 1 s and 2 s when `slow` of 100 are slow, else below 1 s; an SLO of 1 s."""
    return {
        f'{name}_bucket{{{labels},le="1.0"}}': rising(100 - slow),
        f'{name}_bucket{{{labels},le="2.0"}}': rising(100),
        f'{name}_bucket{{{labels},le="+Inf"}}': rising(100),
        f"{slo}{{{SVC}}}": flat(1),
    }


def slo(name: str, labels: str, slo_name: str) -> Case:
    return Case(fires=latencies(name, labels, 20, slo_name), quiet=latencies(name, labels, 2, slo_name))


def groups(desired: int, routable: int, progressing: int) -> Series:
    name = f'proa_service_groups{{{SVC},role="decode",state="%s"}}'
    return {
        name % "desired": flat(desired),
        name % "routable": flat(routable),
        f'proa_service_condition{{{SVC},type="Progressing"}}': flat(progressing),
    }


def queue(waiting: int, running: int) -> Series:
    return {f"vllm:num_requests_waiting{{{POD}}}": flat(waiting), f"vllm:num_requests_running{{{POD}}}": flat(running)}


def steps(per_sample: float) -> Series:
    return {f"vllm:num_requests_running{{{POD}}}": flat(3), f"proa_engine_steps_total{{{POD}}}": rising(per_sample)}


def hand_offs(failed: float) -> Series:
    return {
        f'proa_kv_transfer_seconds_count{{{POD},transport="tcp"}}': rising(100 - failed),
        f'proa_kv_transfer_failures_total{{{POD},error="TransferFailed"}}': rising(failed),
    }


def transfers(slow: float) -> Series:
    name = f'proa_kv_transfer_seconds_bucket{{{POD},transport="tcp",le="%s"}}'
    return {name % "0.1": rising(100 - slow), name % "1.0": rising(100), name % "+Inf": rising(100)}


def leaders(first: int, second: int) -> Series:
    name = 'proa_operator_is_leader{namespace="o",job="o/proa",pod="%s"}'
    return {name % "a": flat(first), name % "b": flat(second)}


CASES: dict[str, Case] = {
    "ProaServiceUnavailable": condition("Available", 0),
    "ProaServiceDegraded": condition("Degraded", 1),
    "ProaModelNotReady": condition("ModelReady", 0),
    "ProaGroupsMissing": Case(fires=groups(3, 2, 0), quiet=groups(3, 2, 1)),
    "ProaErrorsFast": Case(fires=answers(10), quiet=answers(4)),
    "ProaErrorsSlow": Case(fires=answers(2), quiet=answers(0.5)),
    "ProaTtftAboveSlo": slo("smg_router_ttft_seconds", SVC, "proa_autoscaler_slo_ttft_seconds"),
    "ProaItlAboveSlo": slo("vllm:inter_token_latency_seconds", POD, "proa_autoscaler_slo_itl_seconds"),
    "ProaWorkerDown": gauge("up", 0, 1, POD),
    "ProaEngineStalled": Case(fires=steps(0), quiet=steps(1)),
    "ProaEngineErrors": counter("proa_engine_errors_total", 1, 0, POD),
    "ProaQueueGrows": Case(fires=queue(30, 10), quiet=queue(15, 10)),
    "ProaKvCacheFull": gauge("vllm:kv_cache_usage_perc", 0.99, 0.9, POD),
    "ProaPreemptions": counter("vllm:num_preemptions_total", 6, 1, POD),
    "ProaKvTransfersFail": Case(fires=hand_offs(5), quiet=hand_offs(0.5)),
    "ProaKvTransfersSlow": Case(fires=transfers(20), quiet=transfers(1)),
    "ProaLeasesExpire": counter("proa_kv_lease_outcomes_total", 1, 0, f'{POD},outcome="expired"'),
    "ProaPromptsRecomputed": counter("proa_kv_recomputed_total", 3, 1, POD),
    "ProaGatewayDown": gauge("up", 0, 1, f'{SVC},pod="g",job="a/s-gateway"'),
    "ProaCircuitOpen": gauge("smg_worker_cb_state", 1, 2, f'{SVC},pod="g",worker="grpc://w"'),
    "ProaRetriesExhausted": counter("smg_worker_retries_exhausted_total", 1, 0, f'{SVC},pod="g",endpoint="chat"'),
    "ProaPoolEmpty": gauge("smg_worker_pool_size", 0, 1, f'{SVC},pod="g",worker_type="decode"'),
    "ProaOperatorNoLeader": Case(fires=leaders(0, 0), quiet=leaders(1, 0)),
    "ProaOperatorTwoLeaders": Case(fires=leaders(1, 1), quiet=leaders(0, 1)),
    "ProaOperatorBehind": gauge("proa_operator_queue_age_seconds", 40, 20, 'namespace="o",pod="a"'),
    "ProaOperatorRefused": Case(
        fires={'proa_operator_api_requests_total{verb="patch",kind="Pod",code="403"}': rising(1)},
        quiet={'proa_operator_api_requests_total{verb="patch",kind="Pod",code="409"}': rising(1)},
    ),
    "ProaOperatorDefect": Case(
        fires={'proa_operator_reconcile_seconds_count{outcome="defect"}': rising(1)},
        quiet={'proa_operator_reconcile_seconds_count{outcome="ok"}': rising(1)},
    ),
    "ProaRolloutStalls": gauge("proa_service_rollout_stalled_seconds", 1000, 600),
    "ProaRolledBack": condition("RolledBack", 1),
    "ProaDrainLong": gauge("proa_service_groups", 1, 0, f'{SVC},role="decode",state="draining"'),
    "ProaAutoscalerBlind": gauge("proa_autoscaler_metrics_fresh", 0, 1),
    "ProaAutoscalerAtLimit": gauge("proa_autoscaler_binding", 1, 0, f'{SVC},constraint="maxGPUs"'),
    "ProaAutoscalerFlaps": Case(
        fires={f'proa_autoscaler_desired_groups{{{SVC},role="decode"}}': " ".join(["1 2"] * 100)},
        quiet={f'proa_autoscaler_desired_groups{{{SVC},role="decode"}}': "1x99 2x100"},
    ),
    "ProaGpuUnhealthy": gauge("gpu_health", 0, 1, 'hostname="n",gpu_id="3"'),
    "ProaGpuEccErrors": counter("gpu_ecc_uncorrect_total", 1, 0, 'hostname="n",gpu_id="3"'),
    "ProaGpuHot": gauge("gpu_junction_temperature", 105, 90, 'hostname="n",gpu_id="3"'),
}
