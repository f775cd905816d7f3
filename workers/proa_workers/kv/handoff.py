"""`kv_transfer_params_json`: how a prefill worker tells a decode worker, through the gateway, where KV is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from proa_workers.core.lease import Reader, Transfer
from proa_workers.errors import InvalidRequest

CONNECTOR = "ProaConnector"


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOff:
    """`num_tokens` KV rows from position 0; `control` is the holder's KvControl as host:port, `layout` its hash."""

    engine_id: str
    epoch: int
    transfer_id: str
    generation: int
    num_tokens: int
    control: str
    layout: str

    @property
    def transfer(self) -> Transfer:
        return Transfer(self.engine_id, self.epoch, self.transfer_id, self.generation)

    @property
    def holder(self) -> Reader:
        return Reader(self.engine_id, self.epoch)

    def to_params(self) -> dict[str, object]:
        """The value whose JSON travels."""
        return {"do_remote_prefill": True, "connector": CONNECTOR, **asdict(self)}

    @classmethod
    def parse(cls, json_text: str) -> HandOff:
        """Inverse of `to_params` on JSON; keys that a gateway added are ignored.

        Raises InvalidRequest naming what is wrong.
        """
        params = load_object(json_text)
        if params.get("do_remote_prefill") is not True or params.get("connector") != CONNECTOR:
            raise InvalidRequest(
                f"kv_transfer_params_json is not a hand-off of {CONNECTOR} with do_remote_prefill=true: "
                "use prefill and decode workers of the same kind"
            )
        texts = {key: text_of(params, key) for key in ("engine_id", "transfer_id", "control", "layout")}
        numbers = {key: count_of(params, key) for key in ("epoch", "generation", "num_tokens")}
        port = texts["control"].rpartition(":")[2]
        if not port.isdigit() or not numbers["num_tokens"]:
            raise InvalidRequest("kv_transfer_params_json needs control as host:port and num_tokens above 0")
        return cls(**texts, **numbers)  # type: ignore[arg-type]  # keys are the fields, by kind


def load_object(json_text: str) -> dict[str, object]:
    try:
        params = json.loads(json_text)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"kv_transfer_params_json is not JSON: {error}") from None
    if not isinstance(params, dict):
        raise InvalidRequest("kv_transfer_params_json must be a JSON object")
    return params


def text_of(params: dict[str, object], key: str) -> str:
    value = params.get(key)
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"kv_transfer_params_json.{key} must be a non-empty string, not {value!r}")
    return value


def count_of(params: dict[str, object], key: str) -> int:
    value = params.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise InvalidRequest(f"kv_transfer_params_json.{key} must be a whole number of at most 64 bits, not {value!r}")
    return value
