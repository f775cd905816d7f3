"""Stand-ins for what the Dockerfiles take from registries: a Debian with Python, a torch that only says its name."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

from testbed.store import key_of
from tests.images.image_engine import Engine, ImageError

PACKAGES = "python3,python3-pip,ca-certificates"
PYTHON = "localhost/proa-check-python:base"
ROCM = "localhost/proa-check-rocm:base"
TORCH_FOLDER = "/stand-in"
DEBOOTSTRAP_SECONDS = 2700  # dpkg on a starved machine; a minute on a quiet one
SEARCH_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def python_base(engine: Engine, suite: str) -> str:
    """Name of an image with this Debian's Python as `python`, made once and kept; ImageError when it cannot be."""
    name = f"{PYTHON}-{key_of(suite.encode(), Path(__file__).read_bytes())}"
    if f'"{name}"' in engine.buildah("images", "--json"):
        return name
    root = engine.folder / "debian"
    shutil.rmtree(root, ignore_errors=True)
    words = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(root)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=DEBOOTSTRAP_SECONDS, check=False)
    if done.returncode:
        raise ImageError(f"debootstrap {suite} failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()  # the images that it stands for let pip install
    _commit(engine, root, name)
    shutil.rmtree(root)
    return name


def rocm_base(engine: Engine, python: str) -> str:
    """Name of an image that has a ROCm build of torch, by what this torch says of itself."""
    container = engine.container(python)
    wheel = f"{TORCH_FOLDER}/rocm/torch-2.11.0+rocm-py3-none-any.whl"
    try:
        done = container.run("python", "-m", "pip", "install", "--no-index", wheel)
        if done.returncode:
            raise ImageError(done.stdout + done.stderr)
        engine.buildah("commit", "--quiet", container.name, ROCM)
    finally:
        container.remove()
    return ROCM


def write_torches(folder: Path) -> None:
    """`simple` is an index that has a CPU build, `cuda` a folder with the lock's version, `rocm` one of ROCm."""
    index = folder / "simple" / "torch"
    for place, version, hip in ((index, "2.13.0+cpu", ""), (folder / "cuda", "2.13.0+cuda", "")):
        _write_torch(place, version, hip)
    _write_torch(folder / "rocm", "2.11.0+rocm", "7.0")
    (index / "index.html").write_text("".join(f'<a href="{file.name}">{file.name}</a>' for file in index.glob("*.whl")))


def _write_torch(folder: Path, version: str, hip: str) -> None:
    folder.mkdir(parents=True)
    about = f"torch-{version}.dist-info"
    files = {
        "torch/__init__.py": "from torch import version\n",
        "torch/version.py": f"hip = {hip or None!r}\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{about}/RECORD"])
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as wheel:
        for name, text in {**files, f"{about}/RECORD": record}.items():
            wheel.writestr(name, text)


def _commit(engine: Engine, root: Path, name: str) -> None:
    container = engine.buildah("from", "scratch").strip()
    engine.buildah("add", "--quiet", container, str(root), "/")
    engine.buildah("config", f"--env={SEARCH_PATH}", "--cmd=python", container)
    engine.buildah("commit", "--quiet", "--rm", container, name)
