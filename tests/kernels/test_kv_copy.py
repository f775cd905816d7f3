"""KV block copies in the interpreter against plain indexing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from proa_kernels.kv_copy import kv_gather, kv_scatter, levels
from proa_kernels.kv_copy_triton import launch_kv_copy
from proa_kernels.testing import Guarded, is_poison, poison_

CPU = torch.device("cpu")
BLOCKS = torch.tensor([3, 0, 6, 5])
# a pool as stored -> the view that is copied
VIEWS: dict[str, tuple[tuple[int, ...], Callable[[torch.Tensor], torch.Tensor]]] = {
    "whole blocks": ((7, 2, 2, 3, 4, 8), lambda pool: pool),
    "some heads": ((7, 2, 2, 3, 4, 8), lambda pool: pool[:, :, :, 1:3]),
    "one layer": ((7, 2, 2, 3, 4, 8), lambda pool: pool[:, 1]),
    "tokens before heads": ((7, 2, 4, 3, 8), lambda pool: pool.transpose(2, 3)),
    "latent": ((7, 3, 4, 24), lambda pool: pool),
    "latent without rotated dims": ((7, 3, 4, 24), lambda pool: pool[..., :16]),
    "one number": ((7, 1), lambda pool: pool),
}


@pytest.mark.parametrize(("shape", "view"), VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("packed_type", [torch.float32, torch.float16])
def test_gather_equals_indexing(shape: tuple[int, ...], view: Callable[..., torch.Tensor], packed_type: torch.dtype):
    pool = view(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    packed = Guarded.empty((4, *pool.shape[1:]), packed_type, CPU)
    launch_kv_copy(pool, levels(pool), BLOCKS, packed.tensor, is_gather=True)
    assert packed.is_intact()
    assert torch.equal(packed.tensor, pool[BLOCKS].to(packed_type))
    assert torch.equal(kv_gather(pool, BLOCKS, packed_type), packed.tensor)


@pytest.mark.parametrize(("shape", "view"), VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("packed_type", [torch.float32, torch.float16])
def test_scatter_writes_those_places_alone(
    shape: tuple[int, ...], view: Callable[..., torch.Tensor], packed_type: torch.dtype
):
    stored, expected = Guarded.empty(shape, torch.float32, CPU), poison_(torch.empty(shape))
    pool = view(stored.tensor)
    packed = torch.randn(4, *pool.shape[1:], generator=torch.Generator().manual_seed(1)).to(packed_type)
    launch_kv_copy(pool, levels(pool), BLOCKS, packed, is_gather=False)
    kv_scatter(packed, BLOCKS, view(expected))
    assert stored.is_intact()
    assert torch.equal(is_poison(stored.tensor), is_poison(expected))
    assert torch.equal(stored.tensor.nan_to_num(), expected.nan_to_num())
    assert torch.equal(view(expected)[BLOCKS], packed.float())


def test_places_past_31_bits():
    """Layer-major pool of 2^31 bytes and more; only the pages that are touched are ever backed by memory."""
    stored = torch.empty(3, 4, (1 << 28) + 64, dtype=torch.int8)
    pool = stored.transpose(0, 1)[..., :16]
    pool[:2] = torch.arange(96, dtype=torch.int8).view(2, 3, 16)
    blocks, packed = torch.tensor([1, 0]), torch.empty(2, 3, 16, dtype=torch.int8)
    assert 2 * pool.stride(1) > 1 << 31
    launch_kv_copy(pool, levels(pool), blocks, packed, is_gather=True)
    assert torch.equal(packed, pool[blocks])
    launch_kv_copy(pool, levels(pool), blocks, packed.neg(), is_gather=False)
    assert torch.equal(pool[blocks], packed.neg())


def test_equal_types_move_every_bit():
    pool = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(64, 1024).view(torch.float16)
    assert torch.equal(kv_gather(pool, torch.tensor([5, 63])).view(torch.int16), pool.view(torch.int16)[[5, 63]])


def test_no_blocks_is_fine():
    pool = torch.randn(3, 4)
    assert kv_gather(pool, torch.zeros(0, dtype=torch.int64)).shape == (0, 4)


def test_checker_catches_a_swapped_block():
    pool, swapped = torch.randn(7, 8), BLOCKS[[1, 0, 2, 3]]
    packed = torch.empty(4, 8)
    launch_kv_copy(pool, levels(pool), swapped, packed, is_gather=True)
    assert not torch.equal(packed, pool[BLOCKS])


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (torch.empty(7, 2, 2, 3, 4, 8), [(384, 1)]),
        (torch.empty(7, 2, 2, 3, 4, 8)[:, :, :, 1:3], [(4, 96), (64, 1)]),
        (torch.empty(7, 2, 4, 3, 8).transpose(2, 3), [(2, 96), (3, 8), (4, 24), (8, 1)]),
        (torch.empty(7, 1, 3)[:, :, :2], [(2, 1)]),
    ],
)
def test_levels(pool: torch.Tensor, expected: list[tuple[int, int]]):
    assert levels(pool) == expected


@pytest.mark.parametrize(
    ("pool", "blocks", "dtype", "message"),
    [
        (torch.zeros(3, 4), BLOCKS, torch.int32, "no cast"),
        (torch.zeros(3, 4), BLOCKS.float(), torch.float32, "blocks must be"),
        (torch.zeros(4, 3).T, BLOCKS, torch.float32, "last dim"),
        (torch.zeros(3, 4, 4, 4, 4, 4)[:, ::2, ::3, ::3, ::3], BLOCKS, torch.float32, "more than 3 levels"),
    ],
)
def test_bad_input_is_named(pool: torch.Tensor, blocks: torch.Tensor, dtype: torch.dtype, message: str):
    with pytest.raises(ValueError, match=message):
        kv_gather(pool, blocks, dtype)


def test_bad_packed_is_named():
    with pytest.raises(ValueError, match="packed must be"):
        kv_scatter(torch.zeros(3, 4), BLOCKS, torch.zeros(7, 4))


def test_ops_have_fake_versions_with_the_same_shapes():
    pool = torch.randn(7, 2, 8)
    for op, arguments in (
        (torch.ops.proa.kv_gather, (pool, BLOCKS, torch.float16)),
        (torch.ops.proa.kv_scatter, (torch.randn(4, 2, 8), BLOCKS, pool)),
    ):
        torch.library.opcheck(op.default, arguments, test_utils=("test_schema", "test_faketensor"))
