"""Compile the Gluon kernels for sm90 without a GPU: registers, stack, shared memory, products and bulk copies of each.

    python tools/kernels_sm90.py [--only PART_OF_A_NAME]

The exit code is 1 when one spills more than is allowed or needs more shared memory than a block may have.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # the interpreter replaces the compiler

import torch
import triton
from proa_kernels import mla_decode_sm90, moe_gemm_sm90, prefill_sm90
from proa_kernels.arch import SM90
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.driver import CudaDriver
from triton.runtime import driver

BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn
RESOURCES = re.compile(r"REG:(?P<registers>\d+) STACK:(?P<stack>\d+)")
# Descriptors of the operands in shared memory, which do not change; sums and scores stay in registers.
ALLOWED_STACK = {"mla_decode": 224}
COUNTED = ("HGMMA", "QGMMA", "UTMALDG", "LDGSTS", "STL")


class NoDevice(CudaDriver):  # type: ignore[misc]
    """What the compiler asks a driver, answered for sm90."""

    def __init__(self) -> None:
        """No library of the GPU is loaded."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int | None = None) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


class CompileOnly:
    """Stands in for a kernel: a launch compiles it and keeps the result."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.compiled = kernel, None

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def compile_(*args: Any, **options: Any) -> None:
            self.compiled = self.kernel.warmup(*args, grid=grid, **options)

        return compile_


def main() -> None:
    """Compile every kernel with --only in its name; exit status 1 when one needs more than it may have."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="kernels with this in their name")
    args = parser.parse_args()
    driver.set_active(NoDevice())
    print(f"triton {triton.__version__}")
    broken = []
    for name, module, kernel, launch in _launches():
        if args.only not in name:
            continue
        recorder = CompileOnly(getattr(module, kernel))
        setattr(module, kernel, recorder)
        launch()
        setattr(module, kernel, recorder.kernel)
        broken += _report(name, recorder.compiled)
    if broken:
        raise SystemExit("\n".join(broken))


def _launches() -> Iterator[tuple[str, Any, str, Callable[[], None]]]:
    """Name, module, kernel and a launch of it; the tensors only have shapes that matter."""
    ints, floats = torch.zeros(8, dtype=torch.int32), torch.zeros(8, 64)
    table, lengths = torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)
    w13, w2, x = (torch.zeros(2, rows, 512).to(FP8) for rows in (1024, 512, 64))
    out = torch.zeros(128, 512, dtype=BF16)
    first = partial(moe_gemm_sm90.launch_gemm1_sm90, x[0], w13, ints, ints, ints, out, 1, floats, floats)
    yield "gemm1", moe_gemm_sm90, "gemm_sm90_kernel", partial(first, SM90.num_cus)
    second = partial(moe_gemm_sm90.launch_gemm2_sm90, x[0], w2, ints, ints, out, floats, floats, SM90.num_cus)
    yield "gemm2", moe_gemm_sm90, "gemm_sm90_kernel", second
    q, q_rot, latents = (torch.zeros(size, dtype=BF16) for size in ((4, 128, 512), (4, 128, 64), (4, 32, 576)))
    attend = partial(mla_decode_sm90.launch_mla_decode_sm90, q, q_rot, latents, table, lengths, 1.0, q, 1)
    yield "mla_decode", mla_decode_sm90, "mla_decode_sm90_kernel", attend
    for dim in (64, 128):
        tokens, cache = torch.zeros(64, 32, dim, dtype=BF16), torch.zeros(4, 2, 4, 32, dim, dtype=BF16)
        places = (table, lengths, lengths[:3], 64, 1.0)
        prefill = partial(prefill_sm90.launch_prefill_sm90, tokens, cache, *places, tokens)
        yield f"gqa_prefill {dim}", prefill_sm90, "prefill_sm90_kernel", prefill


def _report(name: str, compiled: Any) -> list[str]:
    """Print one line; what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        resources, text = (_dump(flag, binary) for flag in ("-res-usage", "-sass"))
    found = RESOURCES.search(resources)
    if found is None:
        raise ValueError(f"{name}: cuobjdump names no registers")
    shared = int(compiled.metadata.shared)
    counts = {instruction: len(re.findall(rf"\b{instruction}", text)) for instruction in COUNTED}
    print(f"{name}: {found['registers']} registers, stack {found['stack']}, {shared} bytes shared, {counts}")
    wrong = []
    if int(found["stack"]) > ALLOWED_STACK.get(name, 0):
        wrong.append(f"{name}: spills registers, {found['stack']} bytes of them")
    if shared > SM90.lds_bytes:
        wrong.append(f"{name}: needs {shared} bytes of shared memory, a block may have {SM90.lds_bytes}")
    return wrong


def _dump(flag: str, binary: Path) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([tool, flag, binary], capture_output=True, text=True, check=True, timeout=60).stdout


if __name__ == "__main__":
    main()
