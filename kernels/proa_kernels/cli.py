"""`proa-kernels`: measure the kernels on the GPU of this machine (tune), or say what works on it (doctor)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import torch

from proa_kernels import doctor, tune
from proa_kernels.arch import SCALE_GROUP, arch_of
from proa_kernels.tables import Kind, LayerShape
from proa_kernels.tune_arms import NoRightArm

USAGE_ERROR = 2
SHAPE_NAMES = ("EXPERTS", "TOPK", "HIDDEN", "WIDTH")


class UsageError(Exception):
    """What the caller has to change, in one line."""


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        code: int = args.run(args)
    except UsageError as error:
        print(f"proa-kernels: {error}", file=sys.stderr)
        return USAGE_ERROR
    return code


def parser() -> argparse.ArgumentParser:
    """`args.run` of the result is the command's function; it returns the exit status."""
    top = argparse.ArgumentParser(prog="proa-kernels", description=(__doc__ or "").strip())
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    measure = commands.add_parser("tune", help="measure every arm and block size per shape; write this GPU's table")
    measure.add_argument(
        "--shape", action="append", metavar="NAME|E,topk,H,I", help="a model or sizes; may be repeated (default: all)"
    )
    measure.add_argument("--kind", action="append", choices=get_args(Kind), help="weights (default: bf16)")
    measure.add_argument("--rows", metavar="T,T,...", help="numbers of tokens to measure (default: 1 to 16384)")
    measure.add_argument("--out", type=Path, required=True, help="the table to write; PROA_KERNELS_TABLE reads it")
    measure.add_argument("--seconds", type=float, default=1800.0, help="start no further row after this time")
    measure.add_argument("--jobs", type=int, default=default_jobs(), help="checks at once")
    measure.set_defaults(run=run_tune)
    examine = commands.add_parser("doctor", help="correctness and timings of every kernel family in one file")
    examine.add_argument("--out", type=Path, default=Path("doctor.json"), help="the file to write")
    examine.add_argument(
        "--correctness-only", action="store_true", help="no timings; runs on a CPU too, with TRITON_INTERPRET=1"
    )
    examine.set_defaults(run=run_doctor)
    return top


def default_jobs() -> int:
    return max(1, min(12, (os.cpu_count() or 1) - 2))


def run_tune(args: argparse.Namespace) -> int:
    """Exit status 1 when a measured arm was wrong; raises UsageError for a shape that no table can be written for."""
    shapes = [parse_shape(text, tune.SHAPES) for text in args.shape or tune.SHAPES]
    kinds = args.kind or ["bf16"]
    for shape in shapes if "a16w8" in kinds else ():
        check_scaled(shape)
    tokens = parse_counts(args.rows) if args.rows else tune.TOKENS
    job = tune.Job(
        shapes=shapes, kinds=kinds, tokens=tokens, out=args.out, seconds=args.seconds,
        parts=max(1, args.jobs),
    )  # fmt: skip
    try:
        wrong = tune.tune(job, gpu(), say)
    except torch.OutOfMemoryError as error:
        raise UsageError(f"a shape does not fit into this GPU's memory ({str(error).splitlines()[0]})") from None
    except NoRightArm as error:
        raise UsageError(f"{error}; leave the shape out, or send what `proa-kernels doctor` writes") from None
    return 1 if wrong else 0


def run_doctor(args: argparse.Namespace) -> int:
    device = doctor_device(correctness_only=args.correctness_only)
    report = doctor.examine(device, has_timings=not args.correctness_only, say=say)
    doctor.write(args.out, report)
    wrong = doctor.wrong_names(report)
    say(f"{args.out}: {len(report['checks'])} checks, {len(wrong)} wrong, {len(report['timings'])} timings")
    return 1 if wrong else 0


def gpu() -> torch.device:
    """The GPU to measure; UsageError without one, or for one that no table was written for."""
    if not torch.cuda.is_available():
        raise UsageError("no GPU here: run it on the machine whose kernels you want to know")
    device = torch.device("cuda")
    try:
        arch_of(device)
    except RuntimeError as error:
        raise UsageError(str(error)) from None
    return device


def doctor_device(*, correctness_only: bool) -> torch.device:
    if torch.cuda.is_available() or not correctness_only:
        return gpu()
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise UsageError("no GPU here: set TRITON_INTERPRET=1 to check the kernels in Triton's interpreter")
    return torch.device("cpu")


def parse_shape(text: str, known: Mapping[str, LayerShape]) -> LayerShape:
    """A name of `known`, or experts, experts per token, hidden and expert width."""
    if text in known:
        return known[text]
    numbers = parse_counts(text)
    if len(numbers) != len(SHAPE_NAMES):
        raise UsageError(f"--shape {text}: give one of {', '.join(known)}, or {','.join(SHAPE_NAMES)}")
    experts, per_token, hidden, width = numbers
    if per_token > experts:
        raise UsageError(f"--shape {text}: {per_token} experts per token of {experts}")
    return LayerShape(num_experts=experts, per_token=per_token, hidden=hidden, width=width)


def check_scaled(shape: LayerShape) -> None:
    """UsageError unless fp8 weights of `shape` have whole blocks of scales."""
    if shape.hidden % SCALE_GROUP or shape.width % SCALE_GROUP:
        sizes = f"hidden {shape.hidden} and width {shape.width}"
        raise UsageError(f"--kind a16w8 wants multiples of {SCALE_GROUP}, not {sizes}; give --kind bf16")


def parse_counts(text: str) -> list[int]:
    """Positive whole numbers with commas between them."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"{text!r}: give positive whole numbers with commas between them")
    return [int(part) for part in parts]


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
