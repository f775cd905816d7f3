"""Write dashboards and rules into the chart; `--check` only compares."""

from __future__ import annotations

import sys
from pathlib import Path

from proa_operator.monitoring import RULES

from tools.monitoring.boards import BOARDS
from tools.monitoring.panel import rendered

FILES = Path(__file__).resolve().parents[2] / "charts" / "proa" / "files"
DASHBOARDS, CHART_RULES = FILES / "dashboards", FILES / "rules"


def fresh() -> dict[Path, str]:
    """Each generated file with its text."""
    boards = {DASHBOARDS / f"{board.uid}.json": rendered(board) for board in BOARDS}
    return boards | {CHART_RULES / path.name: path.read_text("utf-8") for path in sorted(RULES.glob("*.yaml"))}


def main() -> None:
    """Exit status 1 when `--check` finds a difference."""
    files = fresh()
    present = [path for folder in (DASHBOARDS, CHART_RULES) for path in folder.glob("*")]
    stale = sorted(set(present) - set(files))
    changed = [path for path, text in files.items() if not path.exists() or path.read_text("utf-8") != text]
    if "--check" in sys.argv[1:]:
        if changed or stale:
            sys.exit(f"{', '.join(path.name for path in (*changed, *stale))}: not as generated; run make gen")
        return
    for path in stale:
        path.unlink()
    for path in changed:
        path.parent.mkdir(exist_ok=True)
        path.write_text(files[path], encoding="utf-8")


if __name__ == "__main__":
    main()
