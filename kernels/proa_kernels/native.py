"""Builds and loads the kernels that exist as CUDA/HIP text, with the compiler that the machine has.

One shared object per text, GPU and compiler, kept in a cache folder (PROA_KERNELS_CACHE, else a folder of the user's
cache) under the hash of everything that went into it; a plain C interface, so no header of torch is needed.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from proa_kernels.arch import MAX_ALIGN_PROGRAMS, Arch, arch_of, whole_xcds

SOURCE = Path(__file__).with_name("align.cu")
MAX_EXPERTS = 512
BUILD_SECONDS = 120


class NativeUnavailable(RuntimeError):
    """There is no compiler here, or it refused the text; the Triton arm does the same work."""


@functools.cache
def library(arch: Arch) -> ctypes.CDLL:
    """The compiled kernels for `arch`; NativeUnavailable with the compiler's first line of complaint."""
    command = _command(arch)
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=False).stdout
    key = hashlib.sha256("\0".join([*command, version, SOURCE.read_text(encoding="utf-8")]).encode()).hexdigest()
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "proa-kernels"
    folder = Path(os.environ.get("PROA_KERNELS_CACHE", default))
    target = folder / f"align-{arch.name}-{key[:16]}.so"
    if not target.exists():
        _build(command, target)
    return ctypes.CDLL(str(target))


def _command(arch: Arch) -> list[str]:
    name, home = ("nvcc", "CUDA_HOME") if arch.name == "sm90" else ("hipcc", "ROCM_PATH")
    compiler = shutil.which(name) or shutil.which(name, path=str(Path(os.environ.get(home, "/")) / "bin"))
    if compiler is None:
        raise NativeUnavailable(f"no {name} on PATH or in {home}/bin; use the Triton arm")
    if name == "nvcc":
        return [compiler, "-O3", "-std=c++17", "-arch=sm_90", "-Xcompiler", "-fPIC", "-shared"]
    return [compiler, "-x", "hip", "-O3", "-std=c++17", f"--offload-arch={arch.name}", "-fPIC", "-shared"]


def _build(command: list[str], target: Path) -> None:
    """Builds beside `target` and renames, so that processes that start together do not load half a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        out = Path(folder) / "kernels.so"
        done = subprocess.run(
            [*command, str(SOURCE), "-o", str(out)], capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
        if done.returncode:
            reason = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
            raise NativeUnavailable(f"{Path(command[0]).name} refused {SOURCE.name}: {reason[0]}")
        out.replace(target)


def launch_align_native(
    ids_TA: torch.Tensor,
    block_rows: int,
    expert_map: torch.Tensor | None,
    num_tokens: torch.Tensor | None,
    outputs: tuple[torch.Tensor, ...],
) -> None:
    """As `launch_align`, for at most 512 experts and ids that start at a multiple of 16 bytes."""
    arch = arch_of(ids_TA.device)
    functions = library(arch)
    num_pairs, num_experts = ids_TA.numel(), outputs[4].numel()
    if num_experts > MAX_EXPERTS or ids_TA.data_ptr() % 16:
        raise ValueError(f"native align wants at most {MAX_EXPERTS} experts and aligned ids; use the Triton arm")
    blocks = functions.proa_align_blocks(num_pairs, num_experts, whole_xcds(MAX_ALIGN_PROGRAMS, arch.num_xcds))
    workspace = torch.empty(blocks * num_experts, dtype=torch.int32, device=ids_TA.device)
    error = functions.proa_align(
        _pointer(ids_TA), _pointer(expert_map), _pointer(num_tokens), num_pairs, ids_TA.shape[1], num_experts,
        0 if expert_map is None else expert_map.numel(), block_rows.bit_length() - 1, blocks,
        _pointer(workspace), *map(_pointer, outputs), ctypes.c_void_p(torch.cuda.current_stream().cuda_stream),
    )  # fmt: skip
    if error:
        raise RuntimeError(f"native align could not be launched: error {error}")


def _pointer(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
