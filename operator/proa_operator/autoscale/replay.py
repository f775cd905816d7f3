"""A record, decided once more: the proof that it tells the whole truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from proa_operator.autoscale.codec import from_json
from proa_operator.autoscale.config import Config
from proa_operator.autoscale.decide import RECORD_VERSION, Decision, decide
from proa_operator.autoscale.memory import Memory
from proa_operator.autoscale.signals import Signals
from proa_operator.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """`differences` names each number that came out otherwise; none when the record is reproduced bit for bit."""

    decision: Decision
    differences: tuple[str, ...]


def replay(record: dict[str, Any]) -> Replay:
    """Decide again from the inputs in the record. UserError for what is no record of this version."""
    version = record.get("version") if isinstance(record, dict) else None
    if version != RECORD_VERSION:
        raise UserError(f"not a decision record of version {RECORD_VERSION}: use the proa version that wrote it")
    for name in ("signals", "memory", "config", "outcome", "after"):
        if name not in record:
            raise UserError(f"the record has no {name}: give a whole line of the decision log")
    decision = decide(
        from_json(Signals, record["signals"], "signals"),
        from_json(Memory, record["memory"], "memory"),
        from_json(Config, record["config"], "config"),
    )
    again = json.loads(json.dumps(decision.record))
    return Replay(decision=decision, differences=tuple(_differences(record, again, "record")))


def _differences(was: Any, now: Any, where: str) -> Iterator[str]:
    if isinstance(was, dict) and isinstance(now, dict):
        for name in sorted(was.keys() | now.keys()):
            yield from _differences(was.get(name), now.get(name), f"{where}.{name}")
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for idx, (old, new) in enumerate(zip(was, now, strict=True)):
            yield from _differences(old, new, f"{where}[{idx}]")
    elif was != now:
        yield f"{where}: recorded {was}, now {now}"
