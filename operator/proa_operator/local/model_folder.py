"""From a model URI to a checkpoint folder on this machine."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from proa_operator.errors import PlanError


def resolve(uri: str) -> Path:
    """The checkpoint folder of a file:// or bundled:// URI. Raises PlanError when there is none."""
    scheme, _, rest = uri.partition("://")
    if scheme == "bundled":
        return _bundled(rest)
    if scheme == "file":
        return _checked(Path(rest), f"spec.model.uri is {uri}")
    raise PlanError(
        f"spec.model.uri is {uri}: proa up downloads nothing; download the checkpoint, then give its folder as file:///PATH"
    )


def _bundled(name: str) -> Path:
    roots = _bundled_roots()
    for root in roots:
        if (root / name).is_dir():
            return _checked(root / name, f"the bundled model {name}")
    known = sorted({folder.name for root in roots if root.is_dir() for folder in root.iterdir() if folder.is_dir()})
    choice = f"use one of {', '.join(known)}" if known else "this installation holds none"
    raise PlanError(f"there is no bundled model {name}: {choice}")


def _bundled_roots() -> list[Path]:
    """Inside the installed package, then in the checkout that an editable installation points to."""
    spec = find_spec("proa_workers")
    if spec is None or spec.origin is None:
        raise PlanError("the workers are not installed: pip install 'proa[workers]'")
    package = Path(spec.origin).parent
    return [package / "bundled", package.parent.parent / "examples" / "models"]


def _checked(folder: Path, subject: str) -> Path:
    if not folder.is_dir():
        raise PlanError(f"{subject}, but {folder} is no folder: give the folder that holds config.json")
    if not (folder / "config.json").is_file():
        raise PlanError(f"{subject}, but {folder} holds no config.json: give a Hugging Face checkpoint folder")
    return folder.resolve()
