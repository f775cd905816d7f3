"""The compiler gives scaled MFMA instructions for gfx950, and a product that decodes its operands is caught there."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

# In a process of its own: this one has the interpreter in place of the compiler.
SCRIPT = """
from dataclasses import replace
from proa_kernels.aot import compile_case, problems
from proa_kernels.aot_mxfp_cases import mx_cases
from proa_kernels.arch import GFX950
case = next(case for case in mx_cases(GFX950) if case.name.startswith("gemm2 mxfp8 x mxfp4 16x"))
decoded = replace(case, constants={**case.constants, "SCALED": False})
print([problems(case, GFX950, compile_case(case, GFX950)) for case in (case, decoded)])
"""


def test_scaled_instructions_are_there_and_missed_where_operands_are_decoded():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    good, decoded = ast.literal_eval(done.stdout)
    assert good == []
    assert [line for line in decoded if line.endswith("on gfx950: no MFMA instruction that takes scales")]
