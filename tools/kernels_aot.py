"""Compile every kernel for gfx942 and gfx950 without a GPU; write docs/kernels-aot.md, or `--check` it.

    python tools/kernels_aot.py [--check] [--only PART_OF_A_NAME]

The exit code is 1 when a kernel breaks a rule (spills, LDS, missing MFMA or 16-byte loads) or the table is stale.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)  # the interpreter replaces the compiler

import triton
from proa_kernels.aot import Case, Resources, compile_case, problems
from proa_kernels.aot_cases import cases_for
from proa_kernels.arch import GFX942, GFX950, Arch

TABLE = Path(__file__).resolve().parent.parent / "docs" / "kernels-aot.md"
COLUMNS = ("kernel", "arch", "VGPR", "SGPR", "LDS bytes", "waves per SIMD", "MFMA", "16-byte loads")


def main() -> None:
    """Compile all cases and write their table; exit status 1 for a case with a problem, or a stale table (--check)."""
    args = _arguments()
    print(f"triton {triton.__version__}")
    rows, broken = [], []
    for arch, case, found in _compiled(args.only):
        broken += problems(case, arch, found)
        rows.append(_row(case, arch, found))
        print(rows[-1])
    if broken:
        raise SystemExit("\n".join(broken))
    if args.only:
        return
    text = _document(rows)
    if not args.check:
        TABLE.write_text(text, encoding="utf-8")
    elif TABLE.read_text(encoding="utf-8") != text:
        raise SystemExit(f"stale {TABLE.name}: run `python tools/kernels_aot.py` with the locked Triton and commit it")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed table, write nothing")
    parser.add_argument("--only", default="", help="kernels with this in their name; no table")
    return parser.parse_args()


def _compiled(only: str) -> Iterator[tuple[Arch, Case, Resources]]:
    for arch in (GFX942, GFX950):
        for case in cases_for(arch):
            if only in case.name:
                yield arch, case, compile_case(case, arch)


def _row(case: Case, arch: Arch, found: Resources) -> str:
    cells = (found.vgpr, found.sgpr, found.lds_bytes, found.occupancy, found.mfma, found.wide_loads)
    return f"| {case.name} | {arch.name} | " + " | ".join(map(str, cells)) + " |"


def _document(rows: list[str]) -> str:
    head = [
        "# Kernels compiled ahead of time for Instinct GPUs",
        "",
        f"Written by `make kernels-aot` with Triton {triton.__version__}; no GPU took part, no kernel spills.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "| " + " | ".join(["---"] * len(COLUMNS)) + " |",
    ]
    return "\n".join([*head, *rows]) + "\n"


if __name__ == "__main__":
    main()
