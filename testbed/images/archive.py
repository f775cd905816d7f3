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


def write_archive(images: Sequence[Image], path: Path) -> Path:
    """Write `images` to one file, each layer once however many images share it."""
    configs = [_config(image) for image in images]
    entries = [_manifest_entry(image, config) for image, config in zip(images, configs, strict=True)]
    with tarfile.open(path, "w") as archive:
        for layer in dict.fromkeys(layer for image in images for layer in image.layers):
            archive.add(layer.path, arcname=_layer_name(layer))
        for config in configs:
            _add(archive, _config_name(config), config)
        _add(archive, "manifest.json", json.dumps(entries).encode())
    return path


def _manifest_entry(image: Image, config: bytes) -> dict[str, object]:
    layers = [_layer_name(layer) for layer in image.layers]
    return {"Config": _config_name(config), "RepoTags": [image.name], "Layers": layers}


def _layer_name(layer: Layer) -> str:
    return f"{layer.digest.partition(':')[2]}.tar"


def _config_name(config: bytes) -> str:
    return hashlib.sha256(config).hexdigest() + ".json"


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


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
