"""Tables on disk: JSON, refused in one line where they do not belong to this GPU, these kernels or this compiler.

PROA_KERNELS_TABLE names a file that must fit; else one that ships for the device is taken where it fits.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch

from proa_kernels.arch import ROW_TILES, SCALE_GROUP, DecodeBlocks, GemmBlocks, arch_of
from proa_kernels.tables import Kind, LayerArm, LayerKey, LayerRow, LayerShape, LayerTable, Table, layer_of

FORMAT = 1
HERE = Path(__file__).parent
SHIPPED = HERE / "tables"
TUNED = ("moe_decode_triton.py", "moe_gemm_triton.py", "tiles.py")
log = logging.getLogger(__name__)
T = TypeVar("T")


class TableError(ValueError):
    """A table that cannot be used here; the message says which fact differs and how to get one that fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a table must have been measured with."""

    arch: str
    device: str
    kernels: str
    triton: str

    @property
    def slug(self) -> str:
        return f"{self.arch}-{self.device.lower().replace(' ', '-')}"


def identity_of(device: torch.device) -> Identity:
    return Identity(
        arch=arch_of(device).name,
        device=torch.cuda.get_device_name(device),
        kernels=kernels_fingerprint(),
        triton=triton_version(),
    )


def triton_version() -> str:
    """Of the module, whatever its distribution is called (ROCm's has another name)."""
    return str(importlib.import_module("triton").__version__)


@functools.cache
def kernels_fingerprint() -> str:
    """Changes with the text of the kernels whose blocks a table holds."""
    return hashlib.sha256(b"\0".join((HERE / name).read_bytes() for name in TUNED)).hexdigest()[:12]


@functools.cache
def measured_table(device: torch.device) -> Table | None:
    """The table of this device, read once; None without one. TableError if PROA_KERNELS_TABLE does not fit it."""
    if device.type != "cuda":
        return None
    expected = identity_of(device)
    if path := os.environ.get("PROA_KERNELS_TABLE"):
        return load(Path(path), expected)
    shipped = SHIPPED / f"{expected.slug}.json"
    if not shipped.exists():
        return None
    try:
        return load(shipped, expected)
    except TableError as error:
        log.warning("the table that ships for this GPU is left aside", extra={"reason": str(error)})
        return None


@functools.cache
def layer_on(device: torch.device, key: LayerKey | None) -> LayerTable | None:
    """What `device` has measured of a layer; launches ask in every step."""
    return layer_of(measured_table(device), key)


def load(path: Path, expected: Identity) -> Table:
    """The table in `path`. TableError for a file that cannot be read, is malformed, or is not `expected`'s."""
    remedy = f"run `proa-kernels tune --out {path}` on this machine, or unset PROA_KERNELS_TABLE"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        table = parse(raw)
    except OSError as error:
        raise TableError(f"cannot read kernel table {path}: {error.strerror}; {remedy}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise TableError(f"kernel table {path} is malformed ({error}); {remedy}") from None
    for field in fields(Identity):
        found, wanted = getattr(table, field.name), getattr(expected, field.name)
        if found != wanted:
            raise TableError(f"kernel table {path} was measured with {field.name} {found}, not {wanted}; {remedy}")
    return table


def parse(raw: Any) -> Table:
    """A table from its JSON form; ValueError, TypeError or KeyError for anything else."""
    if not isinstance(raw, Mapping) or raw.get("format") != FORMAT:
        raise ValueError(f"format is not {FORMAT}")
    identity = {field.name: str(raw[field.name]) for field in fields(Identity)}
    return Table(**identity, layers=tuple(_layer(one) for one in raw["layers"]))


def dump(table: Table) -> dict[str, Any]:
    """The JSON form of `table`."""
    return {"format": FORMAT, **asdict(table)}


def _layer(raw: Mapping[str, Any]) -> LayerTable:
    if raw["kind"] not in get_args(Kind):
        raise ValueError(f"kind {raw['kind']}")
    rows = tuple(_row(row) for row in raw["rows"])
    if not rows:
        raise ValueError("a layer without rows")
    if raw["kind"] == "a16w8" and not all(_is_within_scales(row) for row in rows):
        raise ValueError(f"blocks that cross a block of {SCALE_GROUP} scales")
    return LayerTable(shape=_numbers(LayerShape, raw["shape"]), kind=raw["kind"], rows=rows)


def _is_within_scales(row: LayerRow) -> bool:
    """A program loads one scale for each step; steps of few pairs are whole groups of them."""
    products = [SCALE_GROUP % one.cols == SCALE_GROUP % one.depth == 0 for one in (row.first, row.second) if one]
    few = [SCALE_GROUP % one.cols == one.depth % SCALE_GROUP == 0 for one in (row.up, row.down) if one]
    return all([*products, *few])


def _row(raw: Mapping[str, Any]) -> LayerRow:
    arm = raw["arm"]
    wanted = {"decode": ("up", "down"), "grouped": ("first", "second")}
    if arm not in get_args(LayerArm):
        raise ValueError(f"arm {arm}")
    if any((raw.get(name) is not None) != (name in wanted[arm]) for name in ("up", "down", "first", "second")):
        raise ValueError(f"arm {arm} wants {' and '.join(wanted[arm])} alone")
    blocks: dict[str, Any] = {}
    for name in wanted[arm]:
        blocks[name] = _numbers(DecodeBlocks if arm == "decode" else GemmBlocks, raw[name])
    if arm == "grouped" and (blocks["first"].rows not in ROW_TILES or blocks["first"].rows != blocks["second"].rows):
        raise ValueError(f"row tiles {blocks['first'].rows} and {blocks['second'].rows}")
    tokens, us, aiter_us = raw["tokens"], float(raw["us"]), float(raw.get("aiter_us", 0.0))
    if not isinstance(tokens, int) or tokens < 1 or not us > 0 or not aiter_us >= 0:
        raise ValueError(f"{tokens} tokens in {us} us")
    return LayerRow(tokens=tokens, arm=arm, us=us, aiter_us=aiter_us, **blocks)


def _numbers(kind: type[T], raw: Mapping[str, Any]) -> T:
    """A value whose fields are all whole numbers; unknown and missing names are TypeErrors."""
    value = kind(**raw)
    for name, number in raw.items():
        is_tile = name in ("rows", "cols", "depth")
        if not isinstance(number, int) or isinstance(number, bool) or number < (name != "num_shared"):
            raise ValueError(f"{name} {number}")
        if is_tile and number & (number - 1):
            raise ValueError(f"{name} {number} is not a power of two")
    return value
