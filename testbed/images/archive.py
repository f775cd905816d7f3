"""Images as archives in Docker's format, which `ctr images import` reads; no container engine is involved."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.images.layer import Layer

EPOCH = "1970-01-01T00:00:00Z"
SEARCH_PATH = "PATH=/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """`name` needs a host part ("localhost/x:test"); `user` is numeric, as the kubelet checks runAsNonRoot by it."""

    name: str
    layers: tuple[Layer, ...]
    command: tuple[str, ...]
    user: str = ""
    environment: tuple[str, ...] = ()


def write_archive(image: Image, path: Path) -> Path:
    """Write `image` to the file `path`."""
    config = _config(image)
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    layers = [f"{layer.digest.partition(':')[2]}.tar" for layer in image.layers]
    manifest = [{"Config": config_name, "RepoTags": [image.name], "Layers": layers}]
    with tarfile.open(path, "w") as archive:
        for name, layer in zip(layers, image.layers, strict=True):
            archive.add(layer.path, arcname=name)
        for name, content in ((config_name, config), ("manifest.json", json.dumps(manifest).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def _config(image: Image) -> bytes:
    run = {"Env": [SEARCH_PATH, *image.environment], "Cmd": list(image.command), "User": image.user}
    history: Sequence[dict[str, str]] = [{"created": EPOCH, "created_by": "proa test bed"}] * len(image.layers)
    document = {
        "architecture": "amd64",
        "os": "linux",
        "created": EPOCH,
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in image.layers]},
        "history": history,
    }
    return json.dumps(document, sort_keys=True).encode()
