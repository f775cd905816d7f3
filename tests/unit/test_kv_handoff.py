"""What a decode worker accepts as kv_transfer_params_json."""

from __future__ import annotations

import json
from typing import Any

import pytest
from proa_workers.errors import InvalidRequest
from proa_workers.kv.handoff import HandOff

HAND_OFF = HandOff(
    engine_id="p", epoch=2**63, transfer_id="t", generation=3, num_tokens=17, control="[::1]:80", layout="ab"
)


def test_round_trip_with_keys_of_a_gateway() -> None:
    params = HAND_OFF.to_params()
    assert (params["do_remote_prefill"], params["connector"]) == (True, "ProaConnector")
    assert HandOff.parse(json.dumps({**params, "remote_host": "x"})) == HAND_OFF


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"do_remote_prefill": False}, "not a hand-off of ProaConnector"),
        ({"connector": "NixlConnector"}, "not a hand-off of ProaConnector"),
        ({"engine_id": ""}, "engine_id must be a non-empty string, not ''"),
        ({"transfer_id": 5}, "transfer_id must be a non-empty string, not 5"),
        ({"epoch": -1}, "epoch must be a whole number of at most 64 bits, not -1"),
        ({"epoch": 2**64}, "epoch must be a whole number of at most 64 bits"),
        ({"generation": 1.0}, "generation must be a whole number of at most 64 bits, not 1.0"),
        ({"num_tokens": True}, "num_tokens must be a whole number"),
        ({"num_tokens": 0}, "num_tokens above 0"),
        ({"control": "10.0.0.1"}, "control as host:port"),
        ({"layout": None}, "layout must be a non-empty string, not None"),
    ],
)
def test_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        HandOff.parse(json.dumps({**HAND_OFF.to_params(), **change}))


@pytest.mark.parametrize(("text", "reason"), [("{", "is not JSON"), ("[1]", "must be a JSON object"), ("", "not JSON")])
def test_not_an_object(text: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        HandOff.parse(text)
