"""Builds and loads the kernels that exist as CUDA/HIP text, with the compiler that the machine has.

One shared object per text, GPU and compiler, kept in a cache folder (PROA_KERNELS_CACHE, else a folder of the user's
cache) under the hash of everything that went into it; a plain C interface, so no header of torch is needed.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

import torch

from proa_kernels.arch import Arch

BUILD_SECONDS = 120
INCLUDE = re.compile(r'^#include "(\w+\.cuh)"\n', re.MULTILINE)
Text = Literal["align", "gate"]
log = logging.getLogger(__name__)


class NativeUnavailable(RuntimeError):
    """No compiler here, or it refused the text, or the driver its result; the Triton arm does the same work."""


def text_of(text: Text) -> str:
    """The source with our own includes in their places."""
    folder = Path(__file__).parent
    whole = (folder / f"{text}.cu").read_text(encoding="utf-8")
    while INCLUDE.search(whole):
        whole = INCLUDE.sub(lambda found: (folder / found[1]).read_text(encoding="utf-8"), whole)
    return whole


@functools.cache
def is_available(text: Text, arch: Arch) -> bool:
    """Whether this machine can build and load `text`, which the first call does: seconds, then the cache serves."""
    try:
        library(text, arch)
    except NativeUnavailable as error:
        _say_once(str(error))
        return False
    return True


@functools.cache
def _say_once(reason: str) -> None:
    log.warning("align or gate run in Triton", extra={"reason": reason})


@functools.cache
def library(text: Text, arch: Arch) -> ctypes.CDLL:
    """The compiled kernels for `arch`, which can launch; NativeUnavailable with the compiler's first complaint."""
    command, whole = _command(arch), text_of(text)
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=False).stdout
    key = hashlib.sha256("\0".join([*command, version, whole]).encode()).hexdigest()
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "proa-kernels"
    folder = Path(os.environ.get("PROA_KERNELS_CACHE", default))
    target = folder / f"{text}-{arch.name}-{key[:16]}.so"
    try:
        if not target.exists():
            _build(command, f"{text}.cu", whole, target)
        functions = ctypes.CDLL(str(target))
    except OSError as error:
        raise NativeUnavailable(f"{text}.cu cannot be kept or loaded: {error}; set PROA_KERNELS_CACHE") from error
    if code := functions.proa_runtime_error():
        raise NativeUnavailable(
            f"the runtime of {command[0]} does not work with this driver (error {code}); install a toolkit of its age"
        )
    return functions


def _command(arch: Arch) -> list[str]:
    name, home = ("nvcc", "CUDA_HOME") if arch.name == "sm90" else ("hipcc", "ROCM_PATH")
    compiler = shutil.which(name) or shutil.which(name, path=str(Path(os.environ.get(home, "/")) / "bin"))
    if compiler is None:
        raise NativeUnavailable(f"no {name} on PATH or in {home}/bin; use the Triton arm")
    if name == "nvcc":
        return [compiler, "-O3", "-std=c++17", "-arch=sm_90", "-Xcompiler", "-fPIC", "-shared"]
    return [compiler, "-x", "hip", "-O3", "-std=c++17", f"--offload-arch={arch.name}", "-fPIC", "-shared"]


def _build(command: list[str], name: str, whole: str, target: Path) -> None:
    """Builds beside `target` and renames, so that processes that start together do not load half a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        source, out = Path(folder) / name, Path(folder) / "kernels.so"
        source.write_text(whole, encoding="utf-8")
        full = [*command, str(source), "-o", str(out)]
        try:
            done = subprocess.run(full, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise NativeUnavailable(f"{command[0]} took more than {BUILD_SECONDS} s for {name}") from error
        if done.returncode:
            reason = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
            raise NativeUnavailable(f"{Path(command[0]).name} refused {name}: {reason[0]}")
        out.replace(target)


def pointer(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    """Its address for a C function; null for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def current_stream() -> ctypes.c_void_p:
    return ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
