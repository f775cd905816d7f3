"""The rules between fields, each kept once. Limits of one field (ranges, enumerations, patterns) are in its type."""

from __future__ import annotations

import re
from fractions import Fraction

from proa_operator.api.accelerator import Partition
from proa_operator.api.kv_transfer import Backend
from proa_operator.api.noun import DECIMAL
from proa_operator.api.pools import Pool
from proa_operator.api.rule import Rule, TransitionRule
from proa_operator.api.service import ServiceSpec, Topology

MAX_NAME_CHARACTERS = 31  # NAME-<8 of revision>-prefill-<3 digits> must stay within a StatefulSet's 52
NAME = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
URI = "^(hf://[^/]+/[^/]+|pvc://[^/]+(/.*)?|file:///.+|oci://[^/]+/.+|bundled://[a-z0-9]([-a-z0-9.]*[a-z0-9])?)$"
RATIO = "^[1-9][0-9]{0,3}:[1-9][0-9]{0,3}$"


def _fills_its_gpus(spec: ServiceSpec, pool: Pool | None) -> bool:
    if spec.accelerator is None or pool is None:
        return True
    size = pool.parallelism
    return size.tp * size.pp * size.dp == pool.nodes_per_group * spec.accelerator.gpus_per_pod


def _is_one_node(pool: Pool | None) -> bool:
    return pool is None or pool.nodes_per_group == 1


def _is_ratio(text: str) -> bool:
    return re.fullmatch(RATIO, text) is not None


def _is_ordered(low: str, high: str) -> bool:
    """True as well for what is no ratio: another rule says so."""
    return not (_is_ratio(low) and _is_ratio(high)) or _share(low) <= _share(high)


def _share(ratio: str) -> Fraction:
    prefill, decode = ratio.split(":")
    return Fraction(int(prefill), int(decode))


def _fill_rule(pool: str) -> Rule:
    here = f"self.pools.{pool}"
    return Rule(
        path="spec",
        field=f"pools.{pool}.parallelism",
        cel=f"!has(self.accelerator) || !has({here}) || {here}.parallelism.tp * {here}.parallelism.pp * "
        f"{here}.parallelism.dp == {here}.nodesPerGroup * self.accelerator.gpusPerPod",
        holds=lambda spec: _fills_its_gpus(spec, getattr(spec.pools, pool)),
        message="tp*pp*dp must equal nodesPerGroup*gpusPerPod, one rank for each GPU: "
        "change dp, tp, nodesPerGroup or spec.accelerator.gpusPerPod",
    )


def _expert_rule(pool: str) -> Rule:
    return Rule(
        path=f"spec.pools.{pool}.parallelism",
        field="ep",
        cel="self.ep == 1 || self.ep == self.tp * self.dp",
        holds=lambda size: size.ep in (1, size.tp * size.dp),
        message="ep must be 1 (each rank holds all experts) or tp*dp (experts spread over all ranks): set one of them",
    )


def _bounds_rule(pool: str) -> Rule:
    return Rule(
        path=f"spec.autoscaling.{pool}",
        field="min",
        cel="self.min <= self.max",
        holds=lambda bounds: bounds.min <= bounds.max,
        message="min must not exceed max: lower min or raise max",
    )


def _ratio_rule(end: str) -> Rule:
    return Rule(
        path="spec.autoscaling.ratio",
        field=end,
        cel=f"self.{end}.matches('{RATIO}')",
        holds=lambda ratio: _is_ratio(getattr(ratio, end)),
        message='a ratio is prefill groups to decode groups: write it in quotes, such as "1:4"',
    )


def _secret_rule(path: str) -> Rule:
    return Rule(
        path=path,
        field="key",
        cel="(self.name == '') == (self.key == '')",
        holds=lambda ref: (ref.name == "") == (ref.key == ""),
        message="name and key of a Secret belong together: give both, or neither",
    )


RULES: tuple[Rule, ...] = (
    Rule(
        path="",
        field="metadata.name",
        cel=f"self.metadata.name.size() <= {MAX_NAME_CHARACTERS} && self.metadata.name.matches('{NAME}')",
        holds=lambda service: (
            len(service.metadata.name) <= MAX_NAME_CHARACTERS and re.fullmatch(NAME, service.metadata.name) is not None
        ),
        message=f"a name has at most {MAX_NAME_CHARACTERS} characters, small letters, digits and hyphens, "
        "starting with a letter: choose such a name",
    ),
    Rule(
        path="spec.model",
        field="uri",
        cel=f"self.uri.matches('{URI}')",
        holds=lambda model: re.fullmatch(URI, model.uri) is not None,
        message="use hf://ORG/NAME, pvc://CLAIM/PATH, file:///ABSOLUTE/PATH, oci://REGISTRY/IMAGE or bundled://NAME",
    ),
    _secret_rule("spec.model.tokenSecretRef"),
    _secret_rule("spec.gateway.apiKeySecretRef"),
    Rule(
        path="spec",
        field="pools.prefill",
        cel="self.topology == 'Aggregated' || has(self.pools.prefill)",
        holds=lambda spec: spec.topology is Topology.AGGREGATED or spec.pools.prefill is not None,
        message="topology Disaggregated needs a prefill pool: add pools.prefill or set topology to Aggregated",
    ),
    _fill_rule("prefill"),
    _fill_rule("decode"),
    _expert_rule("prefill"),
    _expert_rule("decode"),
    Rule(
        path="spec",
        field="accelerator.partition",
        cel="!has(self.accelerator) || self.accelerator.partition == 'SPX' || (self.pools.decode.nodesPerGroup == 1 && "
        "(!has(self.pools.prefill) || self.pools.prefill.nodesPerGroup == 1))",
        holds=lambda spec: (
            spec.accelerator is None
            or spec.accelerator.partition is Partition.SPX
            or (_is_one_node(spec.pools.prefill) and _is_one_node(spec.pools.decode))
        ),
        message="groups over several nodes need whole GPUs: set partition to SPX, or nodesPerGroup to 1",
    ),
    Rule(
        path="spec.kvTransfer",
        field="backend",
        cel="self.backend != 'shm'",
        holds=lambda transfer: transfer.backend is not Backend.SHM,
        message="shm moves KV blocks within one machine and works with `proa up` only: set auto, tcp, nixl or mori",
        is_cluster_only=True,
    ),
    Rule(
        path="spec",
        field="drain.timeoutSeconds",
        cel="self.drain.timeoutSeconds >= self.kvTransfer.leaseSeconds",
        holds=lambda spec: spec.drain.timeout_seconds >= spec.kv_transfer.lease_seconds,
        message="a drain must outlast the KV leases: raise drain.timeoutSeconds to kvTransfer.leaseSeconds or more",
    ),
    _bounds_rule("prefill"),
    _bounds_rule("decode"),
    _ratio_rule("min"),
    _ratio_rule("max"),
    Rule(
        path="spec.autoscaling.ratio",
        field="min",
        cel=f"!self.min.matches('{RATIO}') || !self.max.matches('{RATIO}') || "
        "int(self.min.split(':')[0]) * int(self.max.split(':')[1]) <= "
        "int(self.max.split(':')[0]) * int(self.min.split(':')[1])",
        holds=lambda ratio: _is_ordered(ratio.min, ratio.max),
        message="ratio.min must not exceed ratio.max as a fraction prefill/decode: swap or change them",
    ),
    Rule(
        path="spec.autoscaling",
        field="prefill.min",
        cel="(self.prefill.min == 0) == (self.decode.min == 0)",
        holds=lambda scaling: (scaling.prefill.min == 0) == (scaling.decode.min == 0),
        message="the pools sleep and wake together: set min to 0 in both, or in neither",
    ),
    Rule(
        path="spec.rollout",
        field="maxSurgeGroups",
        cel="self.maxSurgeGroups + self.maxUnavailableGroups >= 1",
        holds=lambda rollout: rollout.max_surge_groups + rollout.max_unavailable_groups >= 1,
        message="a rollout that may neither add nor remove a group cannot move: set maxSurgeGroups to 1",
    ),
    Rule(
        path="spec.rollout.analysis",
        field="maxErrorRate",
        cel=f"!self.maxErrorRate.matches('{DECIMAL}') || double(self.maxErrorRate) <= 1.0",
        holds=lambda analysis: Fraction(analysis.max_error_rate) <= 1,
        message='the error rate is a share of requests: set it between "0" and "1"',
    ),
    Rule(
        path="spec.rollout.analysis",
        field="maxTTFTRatio",
        cel=f"!self.maxTTFTRatio.matches('{DECIMAL}') || double(self.maxTTFTRatio) >= 1.0",
        holds=lambda analysis: Fraction(analysis.max_ttft_ratio) >= 1,
        message='a new revision need not be faster than the old one: set maxTTFTRatio to "1" or more',
    ),
)

TRANSITION_RULES: tuple[TransitionRule, ...] = (
    TransitionRule(
        path="spec.model",
        field="name",
        cel="self.name == oldSelf.name",
        holds=lambda old, new: old.name == new.name,
        message="clients ask for the model by this name, so it cannot change: make a second service for another name",
    ),
)
