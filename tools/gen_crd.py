"""Generate the CRDs of charts/proa-crds from the API types; `--check` only compares bytes with what is committed."""

from __future__ import annotations

import sys
from pathlib import Path

from proa_operator.crd.definition import definition_yaml
from proa_operator.crd.kinds import KINDS

TEMPLATES = Path(__file__).resolve().parent.parent / "charts" / "proa-crds" / "templates"


def generated() -> dict[str, str]:
    """File name -> content of every CRD."""
    return {f"{kind.plural}.yaml": definition_yaml(kind) for kind in KINDS}


def stale(folder: Path) -> list[str]:
    """Names of files in `folder` that are missing, differ from what the types say, or belong to no kind."""
    wanted = generated()
    present = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.yaml")}
    return sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))


def main() -> None:
    if "--check" in sys.argv[1:]:
        if names := stale(TEMPLATES):
            raise SystemExit(f"stale CRDs: {', '.join(names)}; run `python tools/gen_crd.py` and commit the result")
        return
    TEMPLATES.mkdir(parents=True, exist_ok=True)
    for name, text in generated().items():
        (TEMPLATES / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
