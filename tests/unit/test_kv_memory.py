"""Host pools: probe block, and files that outlive their process."""

from __future__ import annotations

import subprocess
import sys

from proa_workers.kv.layout import BlockRun, KvLayout
from proa_workers.kv.memory import SHM_ROOT, HostKvMemory, probe_pattern

LAYOUT = KvLayout(model="m", kind="mla", dtype="uint8", block_tokens=1, block_shape=(600,))
MAKE_AND_DIE = """
import os, signal
from proa_workers.kv.layout import KvLayout
from proa_workers.kv.memory import HostKvMemory
pool = HostKvMemory(KvLayout(model="m", kind="mla", dtype="uint8", block_tokens=1, block_shape=(8,)), 1)
print(pool.shm_name, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_pool_of_a_dead_process_is_removed_and_a_live_one_is_not() -> None:
    alive = HostKvMemory(LAYOUT, 1)
    killed = subprocess.run(
        [sys.executable, "-c", MAKE_AND_DIE], capture_output=True, text=True, timeout=120, check=False
    )
    left_over = SHM_ROOT / killed.stdout.strip()
    assert left_over.name.startswith("proa-kv-")
    assert left_over.exists()
    HostKvMemory(LAYOUT, 1).close()
    assert not left_over.exists()
    assert alive.shm_name is not None
    assert (SHM_ROOT / alive.shm_name).exists()
    alive.close()
    alive.close()
    assert not (SHM_ROOT / alive.shm_name).exists()


def test_probe_block_follows_the_last_one() -> None:
    pool = HostKvMemory(LAYOUT, 3)
    assert bytes(pool.read_run(BlockRun(3, 1))) == probe_pattern(600)
    pool.close()


def test_shifted_probe_is_another_one() -> None:
    pattern = probe_pattern(2000)
    assert len(pattern) == 2000
    assert all(pattern[shift : shift + 500] != pattern[:500] for shift in range(1, 251))
