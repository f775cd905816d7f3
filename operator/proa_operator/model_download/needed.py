"""Which files of a repository a worker can use: safetensors, configuration, tokenizer, code of the model, licence."""

from __future__ import annotations

from collections.abc import Iterable

from proa_operator.model_download.errors import Refused

_ENDINGS = (".safetensors", ".json", ".model", ".tiktoken", ".jinja", ".txt", ".py")
_FOREIGN_WEIGHTS = (".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")
_OTHER_FORMATS = ("original/", "onnx/", "openvino/", "coreml/", "metal/", "flax/", "runs/")
_TEXTS = ("license", "notice", "usage_policy")
_INDEX = "model.safetensors.index.json"


def needed(paths: Iterable[str]) -> frozenset[str]:
    """Of all paths of a repository. Refused when it has weights, but none as safetensors."""
    given = frozenset(paths)
    kept = frozenset(path for path in given if _is_needed(path) and not _is_twin(path, given))
    if not kept:
        raise Refused("the model has no file for a worker: it needs config.json, *.safetensors, tokenizer.json")
    foreign = sorted(path for path in given if path.endswith(_FOREIGN_WEIGHTS))
    if foreign and not any(path.endswith(".safetensors") for path in kept):
        raise Refused(f"the model has weights as {foreign[0]} but none as *.safetensors: convert it, or take another")
    return kept


def _is_needed(path: str) -> bool:
    name = path.rpartition("/")[2].lower()
    if path.startswith(_OTHER_FORMATS) or name.startswith("."):
        return False
    return name.endswith(_ENDINGS) or name.split(".")[0] in _TEXTS


def _is_twin(path: str, given: frozenset[str]) -> bool:
    """The same weights a second time, in the layout of the model's authors."""
    has_own = _INDEX in given or "model.safetensors" in given
    return has_own and path.startswith("consolidated") and path.endswith((".safetensors", ".safetensors.index.json"))
