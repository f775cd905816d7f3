"""The bed's images, made from the checkout: pause, proa-sim, proa-native and proa-operator."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from testbed.build import programs_folder
from testbed.images import roots
from testbed.images.archive import Image
from testbed.images.closure import closure, extra_requirements
from testbed.images.layer import Layer, copy, layer, prune
from testbed.store import CHECKOUT, SOURCES, key_of

PAUSE = "localhost/pause:bed"
SIM, NATIVE = "localhost/proa-sim:test", "localhost/proa-native:test"
OPERATOR = "localhost/proa-operator:test"
RECIPE = ("roots.py", "layer.py")
UNBUFFERED = ("PYTHONUNBUFFERED=1",)


def images() -> list[Image]:
    """All images of the checkout as it is now; layers that the cache lacks are built.

    The native image is the sim image that looks for torch where the node mounts it into every container (TORCH_MOUNT):
    a copy of torch would be gigabytes. Without torch in this environment there is no native image.
    """
    prune()
    base, source = _base(), _source()
    sim = _distributions(extra_requirements("workers", without=("torch",)))
    operator = _distributions(extra_requirements("operator"))
    found = [
        Image(name=PAUSE, layers=(_pause(),), command=("/pause",), user="65535"),
        _python_image(SIM, (base, sim, source), "proa-worker"),
        _python_image(OPERATOR, (base, operator, source), "proa"),
    ]
    if torch_folder() is not None:
        pointer = layer(f"torch-{_recipe_key(sys.base_prefix)}", roots.torch_pointer_root)
        found.append(_python_image(NATIVE, (base, sim, source, pointer), "proa-worker"))
    return found


def torch_folder() -> Path | None:
    """The site-packages folder that holds torch, if this environment has it."""
    found = find_spec("torch")
    return Path(found.origin).parents[1] if found is not None and found.origin else None


def _python_image(name: str, layers: tuple[Layer, ...], program: str) -> Image:
    return Image(name=name, layers=layers, command=(program,), user=str(roots.NOBODY), environment=UNBUFFERED)


def _pause() -> Layer:
    program = programs_folder() / "pause"
    return layer(f"pause-{key_of(program.read_bytes())}", lambda root: copy(program, root, "/pause"))


def _base() -> Layer:
    shell = shutil.which("busybox") or ""
    return layer(f"python-{_recipe_key(sys.version, sys.base_prefix, shell)}", roots.python_root)


def _distributions(requirements: Iterable[Requirement]) -> Layer:
    found = closure(requirements)
    versions = sorted(f"{name}=={one.version}" for name, one in found.items())
    key = f"packages-{_recipe_key(sys.base_prefix, *versions)}"
    return layer(key, lambda root: roots.distributions_root(root, found.values()))


def _source() -> Layer:
    contents = (part for path in _source_files() for part in (str(path).encode(), path.read_bytes()))
    return layer(f"source-{key_of(_recipe_key(sys.base_prefix).encode(), *contents)}", roots.checkout_root)


def _source_files() -> Iterator[Path]:
    yield CHECKOUT / "pyproject.toml"
    for folder in ("operator", "workers", "kernels", "proto", "examples"):
        for path in sorted((CHECKOUT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def _recipe_key(*words: str) -> str:
    recipe = (SOURCES.joinpath("images", name).read_bytes() for name in RECIPE)
    return key_of(*recipe, *(word.encode() for word in words))
