"""Names of children, at their limits."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from proa_operator import names
from proa_operator.api.rules import MAX_NAME_CHARACTERS
from proa_operator.names import Component, Role

LONGEST = "s" * names.MAX_SERVICE_CHARACTERS
DIGEST = "89abcdef"


def test_the_rule_and_the_names_agree_on_the_longest_service() -> None:
    assert names.MAX_SERVICE_CHARACTERS == MAX_NAME_CHARACTERS


def test_a_group_is_named_by_service_revision_role_and_index() -> None:
    assert names.group_name("tiny", DIGEST, Role.DECODE, 7) == "tiny-89abcdef-decode-007"


def test_the_longest_group_just_fits_a_stateful_set() -> None:
    assert len(names.group_name(LONGEST, DIGEST, Role.PREFILL, names.MAX_GROUP_INDEX)) == names.MAX_GROUP_CHARACTERS


@pytest.mark.parametrize(
    ("service", "revision", "index", "said"),
    [
        pytest.param(LONGEST + "s", DIGEST, 0, "53 characters", id="service too long"),
        pytest.param("tiny", DIGEST, 1000, "0..999", id="index too high"),
        pytest.param("tiny", DIGEST, -1, "0..999", id="index negative"),
        pytest.param("tiny", "abc", 0, "8 characters", id="revision too short"),
    ],
)
def test_a_group_name_past_a_limit_is_refused(service: str, revision: str, index: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        names.group_name(service, revision, Role.PREFILL, index)


def _all_names(service: str) -> list[str]:
    make: list[Callable[[], str]] = [
        lambda: names.gateway_name(service),
        lambda: names.revision_name(service, DIGEST),
        lambda: names.model_name(service, DIGEST),
        lambda: names.jit_name(service, DIGEST),
        lambda: names.policy_name(service, f"{DIGEST}-kv"),
        lambda: names.pod_name(names.group_name(service, DIGEST, Role.PREFILL, 999), 99),
        *(lambda role=role: names.pool_name(service, role) for role in Role),
        *(lambda part=part: names.monitor_name(service, part) for part in Component),
    ]
    return [one() for one in make]


def test_every_name_of_the_longest_service_fits_a_label() -> None:
    assert max(len(name) for name in _all_names(LONGEST)) <= names.MAX_LABEL_CHARACTERS


def test_names_of_one_service_differ() -> None:
    kinds = {"tiny-gateway": 2}  # the Deployment and the PodMonitor, which are of different kinds
    found = _all_names("tiny")
    assert {name: found.count(name) for name in found if found.count(name) > 1} == kinds


def test_ports_are_unique_in_a_pod_and_their_names_short() -> None:
    for ports in (names.WORKER_PORTS, names.GATEWAY_PORTS, names.DOWNLOAD_PORTS):
        assert len(set(ports.values())) == len(ports)
        assert all(len(port.value) <= 15 for port in ports)


def test_labels_are_under_the_projects_prefix_and_distinct() -> None:
    ours = [value for name, value in vars(names).items() if name.endswith(("_LABEL", "_ANNOTATION", "_GATE"))]
    assert len(set(ours)) == len(ours)
    assert all(
        one.startswith((f"{names.GROUP}/", "app.kubernetes.io/", "apps.kubernetes.io/", "kubernetes.io/"))
        for one in ours
    )
    assert all(a != b for a, b in itertools.combinations(ours, 2))
