"""What the renderer keeps is made once for each spec and key, and never given to another spec."""

from __future__ import annotations

import json
from functools import partial

from proa_operator.api.service import DisaggregatedService, ServiceSpec
from proa_operator.plan.renderer import Kept

from tests.unit.cluster_objects import service_body


def spec() -> ServiceSpec:
    return DisaggregatedService.model_validate_json(json.dumps(service_body())).spec


def test_each_spec_and_key_is_made_once() -> None:
    kept, made = Kept(), list[str]()
    one, equal = spec(), spec()
    for asked, key in ((one, "a"), (one, "a"), (one, "b"), (equal, "a"), (one, "b")):
        kept.once(asked, key, partial(made.append, key))
    assert made == ["a", "b", "a"]


def test_the_oldest_is_forgotten_and_no_identity_is_used_twice() -> None:
    kept, made = Kept(most=2), list[int]()
    for number in range(50):
        kept.once(spec(), "a", partial(made.append, number))
    assert made == list(range(50)), "a spec that was freed may leave its identity to another"
