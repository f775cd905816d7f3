"""What every type of the API shares: camelCase in YAML, snake_case in Python, unknown fields refused, values frozen."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

QUANTITY = r"^[0-9]+(\.[0-9]+)?([KMGTPE]i|[mkMGTPE])?$"


class Noun(BaseModel):
    """Base of every API type. The JSON schema of a subclass is the schema of the custom resource.

    Strict, as the API server is: "3" is no integer. Validate JSON text, not Python objects: strict mode takes
    enumerations and arrays from JSON only.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
    )


def _number_to_text(value: Any) -> Any:
    """Kubernetes takes `size: 5` and `size: "5"` for the same quantity; bool is an int in Python and is neither."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


# NOTE: pydantic leaves the pattern out of the JSON schema when a validator stands before it.
_QUANTITY_SCHEMA: JsonDict = {"x-kubernetes-int-or-string": True, "pattern": QUANTITY, "minimum": 0}
Quantity = Annotated[
    str,
    BeforeValidator(_number_to_text),
    Field(pattern=QUANTITY, json_schema_extra=_QUANTITY_SCHEMA),
]
# NOTE: short maximum lengths keep the cost of CEL rules within the API server's budget.
Ratio = Annotated[str, Field(max_length=16)]
"""Groups of prefill to groups of decode, such as "1:4"; quoted, for YAML may read 1:4 as a number."""
DECIMAL = "^[0-9]+([.][0-9]+)?$"
Decimal = Annotated[str, Field(pattern=DECIMAL, max_length=16)]
"""A decimal number as a string, such as "0.02": Kubernetes APIs hold no floating-point fields."""
# NOTE: these maxima keep the products in CEL rules within 64 bits, and group indices within their three digits.
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Size = Annotated[int, Field(ge=1, le=65536)]
"""Ranks along one axis of parallelism."""
Groups = Annotated[int, Field(ge=0, le=500)]
"""Number of groups of a pool; a rollout may double it."""
