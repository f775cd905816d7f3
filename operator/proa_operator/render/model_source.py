"""Where the checkpoint is inside a pod, by the scheme of its URI."""

from __future__ import annotations

from dataclasses import dataclass

from proa_operator import names
from proa_operator.api.service import ServiceSpec
from proa_operator.render.digest import digest8
from proa_operator.render.errors import RenderError
from proa_operator.render.service import JsonObject, Service
from proa_operator.render.settings import RenderSettings

MODEL_VOLUME = "model"
MODEL_ROOT = "/models"
CHECKPOINT = f"{MODEL_ROOT}/checkpoint"
"""Folder that a finished download is moved to, in one rename."""
_DOWNLOADED = ("hf", "oci")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """`path` is the worker's --model; `volume` is mounted read-only at MODEL_ROOT."""

    path: str
    volume: JsonObject | None = None


def is_downloaded(spec: ServiceSpec) -> bool:
    """A Job fetches the checkpoint into a claim; otherwise it is already there."""
    return _split(spec.model.uri)[0] in _DOWNLOADED


def model_claim(service: Service) -> str:
    """Claim of the downloaded checkpoint, one for each URI and storage class: a rollout downloads nothing again."""
    model = service.spec.model
    return names.model_name(service.name, digest8([model.uri, model.cache.storage_class]))


def model_source(service: Service, settings: RenderSettings) -> ModelSource:
    """Path and volume of the checkpoint. RenderError for a scheme that there is not."""
    uri = service.spec.model.uri
    scheme, rest = _split(uri)
    if scheme == "bundled":
        return ModelSource(path=f"{settings.bundled_models}/{rest}")
    if scheme in _DOWNLOADED:
        return ModelSource(path=CHECKPOINT, volume=_claimed(model_claim(service)))
    if scheme == "pvc":
        claim, _, folder = rest.partition("/")
        # NOTE: no subPath: it would cut off the links that hub caches keep beside the checkpoint's folder.
        return ModelSource(path=f"{MODEL_ROOT}/{folder}".rstrip("/"), volume=_claimed(claim))
    if scheme == "file":
        host_path = {"name": MODEL_VOLUME, "hostPath": {"path": rest, "type": "Directory"}}
        return ModelSource(path=MODEL_ROOT, volume=host_path)
    raise RenderError(f"spec.model.uri is {uri}: use hf://, pvc://, file://, oci:// or bundled://")


def _split(uri: str) -> tuple[str, str]:
    scheme, _, rest = uri.partition("://")
    return scheme, rest


def _claimed(claim: str) -> JsonObject:
    return {"name": MODEL_VOLUME, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
