"""Counter-based uniforms: the draw of a sequence's n-th token is a pure function of (seed, n).

Nothing is stored between steps, so batching, preemption and a move to another worker cannot change a seeded output.
Mixer: SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014), Stafford's mix 13.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
MASK_64 = 0xFFFF_FFFF_FFFF_FFFF
U64 = npt.NDArray[np.uint64]


def mix64(x: U64) -> U64:
    """Bijective scrambling of 64-bit words; arithmetic is modulo 2**64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(MIX_1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(MIX_2)
    return x ^ (x >> np.uint64(31))


def mix64_int(x: int) -> int:
    """`mix64` of one word in Python's own integers: ten times faster than numpy for a single one."""
    x = ((x ^ (x >> 30)) * MIX_1) & MASK_64
    x = ((x ^ (x >> 27)) * MIX_2) & MASK_64
    return x ^ (x >> 31)


def uniforms(seeds: Sequence[int], counters: Sequence[int]) -> npt.NDArray[np.float64]:
    """One float64 in [0, 1) with 53 random bits per (seed, counter); seeds may be any Python int."""
    seed = np.array([s & MASK_64 for s in seeds], dtype=np.uint64)
    count = np.array(counters, dtype=np.uint64)
    stream = mix64(seed + np.uint64(GOLDEN))
    bits = mix64(stream + (count + np.uint64(1)) * np.uint64(GOLDEN))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
