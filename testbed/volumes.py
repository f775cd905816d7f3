"""Persistent volumes made beforehand: no provisioner runs here, and pods without root must be able to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def volumes(folder: Path, count: int) -> list[dict[str, Any]]:
    """A default StorageClass `standard` and `count` volumes of 1 TiB below `folder`, for any access mode."""
    annotations = {"storageclass.kubernetes.io/is-default-class": "true"}
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "standard", "annotations": annotations},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "Immediate",
    }
    return [storage_class, *(_volume(folder, number) for number in range(count))]


def _volume(folder: Path, number: int) -> dict[str, Any]:
    path = folder / f"{number:03d}"
    path.mkdir(parents=True)
    path.chmod(0o777)
    return host_volume(f"bed-{number:03d}", path, storage_class="standard")


def host_volume(name: str, path: Path, *, storage_class: str, is_read_only: bool = False) -> dict[str, Any]:
    """A volume that is the folder `path` of the node; pods mount it by a claim, which the restricted level allows."""
    modes = ["ReadOnlyMany"] if is_read_only else ["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany"]
    spec = {
        "capacity": {"storage": "1Ti"},
        "accessModes": modes,
        "storageClassName": storage_class,
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": str(path), "type": "Directory"},
    }
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}
