"""Revisions in `proa rollout`, and the spec that `proa undo` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from proa_operator import names
from proa_operator.api.engine import EngineType
from proa_operator.api.load import load
from proa_operator.api.service import ServiceSpec, Topology
from proa_operator.cli.errors import NotFound
from proa_operator.cli.revision_view import changes, find, previous_good, revision_rows
from proa_operator.cli.rollout import unfinished
from proa_operator.cli.status_view import view_of
from proa_operator.cli.undo_spec import undo_spec
from proa_operator.errors import ServeError, UserError
from proa_operator.render import RenderSettings, Service, controller_revision, read_revision, revision_of

SPEC = load(Path(__file__).parents[2] / "examples" / "tiny.yaml").spec
SETTINGS = RenderSettings(
    operator_image="operator:1",
    engine_images={EngineType.NATIVE: "native:1"},
    operator_namespace="proa-system",
    operator_labels={},
)


def _spec(**fields: Any) -> ServiceSpec:
    return SPEC.model_copy(update=fields)


def _stored(
    number: int, spec: ServiceSpec = SPEC, *, failed: str = "", served: bool = True, restart: str = ""
) -> dict[str, Any]:
    service = Service(name="tiny", namespace="team", uid="u", spec=spec)
    body = controller_revision(
        service,
        revision=revision_of(spec, restart=restart),
        number=number,
        started_at="2027-01-15T08:00:00Z",
        settings=SETTINGS,
        failed=failed,
    )
    if served:
        body["metadata"]["annotations"][names.AVAILABLE_ANNOTATION] = json.dumps(
            {"at": 1_800_000_000.0, "sizes": {"prefill": 1}}
        )
    return body


OTHER = _spec(engine=SPEC.engine.model_copy(update={"args": ("--max-num-seqs", "8")}))
FIRST, SECOND = _stored(1), _stored(2, OTHER, failed="crashed 6 times", served=False)


def test_rows_are_in_order_with_state_and_changes() -> None:
    first, second = (read_revision(body).revision for body in (FIRST, SECOND))
    counts = {"name": first, "prefill": {"routable": 1, "replicas": 2}, "decode": {"routable": 1, "replicas": 1}}
    rows = revision_rows([SECOND, FIRST], {"revision": first, "revisions": [counts]})
    assert [(row.number, row.revision, row.state) for row in rows] == [(1, first, "Target"), (2, second, "Failed")]
    assert rows[0].groups == "prefill 1/2, decode 1/1"
    assert (rows[0].available, rows[1].available) == ("2027-01-15T08:00:00Z", "")
    assert rows[1].changed == ('engine.args: ["--kv-cache-memory", "256MiB"] -> ["--max-num-seqs", "8"]',)


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 1}}, ()),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ("a.b: 1 -> 2",)),
        ({"a": 1}, {"c": "x"}, ("a: 1 -> unset", 'c: unset -> "x"')),
        ({"a": {}}, {"a": {"b": None}}, ("a: {} -> unset",)),
    ],
)
def test_changes(before: Any, after: Any, found: tuple[str, ...]) -> None:
    assert changes(before, after) == found


@pytest.mark.parametrize("wanted", ["1", read_revision(FIRST).revision, read_revision(FIRST).revision[:4]])
def test_a_revision_is_found_by_number_name_and_start(wanted: str) -> None:
    assert find([FIRST, SECOND], wanted, name="tiny") is FIRST


@pytest.mark.parametrize(("wanted", "error"), [("9", NotFound), ("zzzz", NotFound), ("", UserError)])
def test_no_revision_and_several(wanted: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="it has"):
        find([FIRST, SECOND], wanted, name="tiny")


@pytest.mark.parametrize(
    ("stored", "number"),
    [
        ([FIRST, SECOND], 1),
        ([FIRST, _stored(2, OTHER), _stored(3)], 2),
        ([FIRST, SECOND, _stored(3, _spec(topology=Topology.AGGREGATED))], 1),
    ],
)
def test_undo_goes_to_the_last_good_revision_before_the_present_one(stored: list[dict[str, Any]], number: int) -> None:
    assert previous_good(stored, name="tiny")["revision"] == number


@pytest.mark.parametrize("stored", [[], [FIRST], [SECOND, FIRST]])
def test_undo_without_an_earlier_good_revision_is_refused(stored: list[dict[str, Any]]) -> None:
    numbered = [{**body, "revision": number} for number, body in enumerate(stored)]
    with pytest.raises(NotFound, match="--to"):
        previous_good(numbered, name="tiny")


@pytest.mark.parametrize(
    ("stored", "present_restart", "restart"),
    [
        (FIRST, "", ""),
        (FIRST, "2027", ""),
        (_stored(1, restart="2027"), "2027", "2027"),
        (_stored(1, _spec(engine=SPEC.engine.model_copy(update={"image": "mine:1"}))), "", ""),
    ],
    ids=["image of the chart", "before a restart", "after a restart", "own image"],
)
def test_an_undo_gives_the_revision_its_own_digest_again(
    stored: dict[str, Any], present_restart: str, restart: str
) -> None:
    found = undo_spec(read_revision(stored), OTHER, present_restart)
    again = revision_of(ServiceSpec.model_validate_json(json.dumps(found.spec)), restart=found.restart)
    assert (found.is_same_revision, found.restart, again) == (True, restart, read_revision(stored).revision)


def test_an_undo_keeps_what_rolls_nothing() -> None:
    pools = SPEC.pools.model_copy(update={"decode": SPEC.pools.decode.model_copy(update={"replicas": 5})})
    found = undo_spec(read_revision(FIRST), _spec(pools=pools), "")
    assert found.spec["pools"]["decode"]["replicas"] == 5


def test_a_revision_of_a_forgotten_restart_is_not_the_same() -> None:
    assert not undo_spec(read_revision(_stored(1, restart="2026")), OTHER, "2027").is_same_revision


def _view(*conditions: tuple[str, str, str], generation: int = 1) -> Any:
    held = [{"type": kind, "status": status, "reason": reason, "message": "m"} for kind, status, reason in conditions]
    meta = {"namespace": "team", "name": "tiny", "generation": generation}
    return view_of({"metadata": meta, "spec": {}, "status": {"observedGeneration": 1, "conditions": held}})


@pytest.mark.parametrize(
    ("view", "missing"),
    [
        (_view(("Progressing", "False", "Settled")), ""),
        (_view(("Progressing", "True", "RollingOut")), "m"),
        (_view(("Progressing", "False", "Settled"), generation=2), "the operator has not seen the latest change yet"),
    ],
)
def test_a_rollout_is_done_when_it_is_settled(view: Any, missing: str) -> None:
    assert unfinished(view) == missing


@pytest.mark.parametrize(
    "conditions",
    [
        [("Progressing", "False", "Settled"), ("RolledBack", "True", "RevisionFailed")],
        [("Progressing", "False", "Paused")],
        [("Progressing", "False", "SpecRefused")],
    ],
)
def test_a_failed_rollout_ends_the_wait(conditions: list[tuple[str, str, str]]) -> None:
    with pytest.raises(ServeError, match="m"):
        unfinished(_view(*conditions))
