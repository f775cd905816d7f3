"""The control plane at scale, measured on a real API server whose nodes and pods are played by kwok.

    python -m bench.k8s                                          1000 services, 16,000 pods, 2,000 nodes
    python -m bench.k8s --services 100 --nodes 200 --changes 60  a tenth of it

One after the other: bring-up, rest, changes, cold start, failover. README.md says what each number means.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from bench.k8s.report import table, write_plot
from bench.k8s.run import measure
from bench.k8s.scale import Scale

FOLDER = Path(__file__).parent


def main() -> int:
    """Measure, or with --redraw only tell again. Exit status 2 when the sizes contradict each other."""
    args = _arguments()
    if args.redraw:
        record = json.loads(args.json.read_text())
    else:
        try:
            scale = _scale(args)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        record = asyncio.run(measure(scale, seed=args.seed, up_seconds=args.up_minutes * 60))
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    text = table(record)
    print(text)
    args.json.with_suffix(".md").write_text(text + "\n")
    write_plot(args.json.with_suffix(".png"), record)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=2000)
    parser.add_argument("--namespaces", type=int, default=20)
    parser.add_argument("--changes", type=int, default=300)
    parser.add_argument("--changes-per-second", type=float, default=2.0)
    parser.add_argument("--rest-seconds", type=float, default=60.0)
    parser.add_argument(
        "--up-minutes",
        type=float,
        default=45.0,
        help="give up when no more come up for so long; the first of 1000 takes half an hour on two cores",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=FOLDER / "scale.json")
    parser.add_argument("--redraw", action="store_true", help="only print and draw what --json holds")
    return parser.parse_args()


def _scale(args: argparse.Namespace) -> Scale:
    return Scale(
        services=args.services,
        nodes=args.nodes,
        namespaces=args.namespaces,
        changes=args.changes,
        changes_per_second=args.changes_per_second,
        rest_seconds=args.rest_seconds,
    )


if __name__ == "__main__":
    sys.exit(main())
