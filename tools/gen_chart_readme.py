"""Write the tables of values into the charts' READMEs, from the comments in values.yaml; `--check` only compares."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHARTS = Path(__file__).resolve().parent.parent / "charts"
MARKER = "<!-- values -->\n"
_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][A-Za-z0-9]*):(?: (?P<default>.*))?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One key of values.yaml."""

    path: str
    default: str
    """As written in the file; empty for a group of values."""
    text: str


def documented(lines: list[str]) -> Iterator[Value]:
    """Every key with the comment above it. ValueError for a key without one, and for a line that is neither."""
    parents: list[str] = []
    comment: list[str] = []
    for number, line in enumerate(lines, start=1):
        found = _KEY.match(line)
        if line.lstrip().startswith("#"):
            comment.append(line.lstrip("# "))
        elif found is None:
            if line.strip() not in ("", "{}"):
                raise ValueError(f"values.yaml:{number}: is no key and no comment: write lists and maps in one line")
            comment = []
        else:
            parents = [*parents[: len(found["indent"]) // 2], found["key"]]
            path = ".".join(parents)
            if not comment:
                raise ValueError(f"values.yaml:{number}: {path} has no comment above it: say what it is for")
            yield Value(path=path, default=found["default"] or "", text=" ".join(comment))
            comment = []


def readme(chart: Path) -> str:
    """The chart's README: what stands above the marker, then the table."""
    prose, marker, _ = (chart / "README.md").read_text(encoding="utf-8").partition(MARKER)
    if not marker:
        raise ValueError(f"{chart.name}/README.md has no line {MARKER.strip()}: put it where the table belongs")
    values = list(documented((chart / "values.yaml").read_text(encoding="utf-8").splitlines()))
    rows = [f"| `{value.path}` | {f'`{value.default}`' if value.default else ''} | {value.text} |" for value in values]
    table = ["| value | default | meaning |", "| --- | --- | --- |", *rows] if rows else ["This chart has no values."]
    return "\n".join([f"{prose}{marker.strip()}", *table, ""])


def main() -> None:
    """Write the README of every chart; with --check only compare, and exit with status 1 when one is stale."""
    charts = sorted(path.parent for path in CHARTS.glob("*/Chart.yaml"))
    fresh = {chart / "README.md": readme(chart) for chart in charts}
    stale = [path for path, text in fresh.items() if path.read_text(encoding="utf-8") != text]
    if "--check" not in sys.argv[1:]:
        for path in stale:
            path.write_text(fresh[path], encoding="utf-8")
    elif stale:
        names = ", ".join(f"charts/{path.parent.name}/README.md" for path in stale)
        raise SystemExit(f"stale: {names}; run `python tools/gen_chart_readme.py` and commit the result")


if __name__ == "__main__":
    main()
