"""The compiler gives scaled MFMA instructions for gfx950, and a product that decodes its operands is caught there."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

# In a process of its own: this one has the interpreter in place of the compiler.
SCRIPT = """
from dataclasses import replace
from proa_kernels import aot
from proa_kernels.aot_mxfp_cases import mx_cases
from proa_kernels.arch import GFX950
case = next(case for case in mx_cases(GFX950) if case.name.startswith("gemm2 mxfp8 x mxfp4 16x"))
decoded = replace(case, constants={**case.constants, "SCALED": False})
texts, read = [], aot.read_assembly
aot.read_assembly = lambda text, lds_bytes: texts.append(text) or read(text, lds_bytes)
found = [aot.problems(case, GFX950, aot.compile_case(case, GFX950)) for case in (case, decoded)]
print((*found, [".amdhsa_float_denorm_mode_32 3" in text for text in texts]))
"""


def test_scaled_instructions_are_there_and_missed_where_operands_are_decoded():
    """Decoding multiplies subnormal numbers (0.5 of e2m1 is one), so the hardware must not flush them: mode 3."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    good, decoded, keeps_subnormals = ast.literal_eval(done.stdout)
    assert good == []
    assert [line for line in decoded if line.endswith("on gfx950: no MFMA instruction that takes scales")]
    assert keeps_subnormals == [True, True]
