"""oci://HOST/NAME[:TAG|@DIGEST]: a model in a registry, one layer for each file (OCI distribution specification 1.1).

A layer's file name is its title, as `oras push` writes it, or its path of the ModelPack specification.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from proa_operator.model_download.digest import parse_digest
from proa_operator.model_download.errors import AttemptFailed, Refused, WrongDigest
from proa_operator.model_download.listing import Listing, ModelFile, checked
from proa_operator.model_download.needed import needed
from proa_operator.model_download.uri import RegistryUri
from proa_operator.model_download.web import Web

_NAMES = ("org.opencontainers.image.title", "org.cncf.model.filepath", "org.cnai.model.filepath")
_UNPACK = "io.deis.oras.content.unpack"
_INDICES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_MAX_MANIFEST_BYTES = 8 << 20


class Registry:
    """Lists the files of one model; `base` is https://HOST/v2."""

    def __init__(self, uri: RegistryUri, base: str, web: Web) -> None:
        self._uri = uri
        self._base = f"{base}/{uri.repository}"
        self._web = web

    def listing(self, revision: str) -> Listing:
        """Of the manifest with digest `revision`, or of the reference in the URI when empty."""
        digest, manifest = self._manifest(revision or self._uri.reference)
        if manifest.get("mediaType") in _INDICES or "manifests" in manifest:
            digest, manifest = self._manifest(self._only(manifest))
        layers = manifest.get("layers")
        if not isinstance(layers, list) or not layers:
            raise Refused(f"{self._uri} has no layers: push the model with one layer for each file")
        files = {file.path: file for file in checked(self._file(layer) for layer in layers)}
        kept = checked(files[path] for path in needed(files))
        return Listing(uri=str(self._uri), revision=digest, files=kept)

    def _manifest(self, reference: str) -> tuple[str, dict[str, Any]]:
        url = f"{self._base}/manifests/{reference}"
        body = self._web.document(url, {"Accept": ", ".join(_MANIFESTS + _INDICES)}, _MAX_MANIFEST_BYTES)
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        if reference.startswith("sha256:") and reference != digest:
            raise WrongDigest(f"{self._uri}: the registry sends a manifest with {digest} for {reference}: refused")
        try:
            manifest = json.loads(body)
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict):
            raise AttemptFailed(f"{self._uri.host} sends no manifest")
        return digest, manifest

    def _only(self, index: dict[str, Any]) -> str:
        entries = [entry for entry in index.get("manifests", []) if isinstance(entry, dict)]
        if len(entries) != 1:
            raise Refused(f"{self._uri} is an index of {len(entries)} manifests: name one of them with @sha256:...")
        return str(parse_digest(str(entries[0].get("digest", ""))))

    def _file(self, layer: dict[str, Any]) -> ModelFile:
        notes = layer.get("annotations") or {}
        kind, size = str(layer.get("mediaType", "")), layer.get("size")
        name = next((str(notes[key]) for key in _NAMES if notes.get(key)), "")
        if "tar" in kind.replace("+", ".").split(".") or notes.get(_UNPACK) == "true":
            raise Refused(f"{self._uri} holds {name or 'a layer'} as an archive: push the files as they are (raw)")
        if not name or not isinstance(size, int):
            raise Refused(f"{self._uri} has a layer without file name: push the model with titles, as oras does")
        digest = parse_digest(str(layer.get("digest", "")))
        return ModelFile(path=name, size=size, digest=digest, url=f"{self._base}/blobs/{digest}")
