"""hf://ORG/NAME[@REVISION]: the protocol of the Hugging Face hub, also spoken by its mirrors (HF_ENDPOINT).

Two requests of it are used: /api/models/REPO/revision/REVISION?blobs=true lists the files of a commit with sizes and
digests, and /REPO/resolve/COMMIT/PATH answers with the content or a redirect to where it is.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import httpx

from proa_operator.model_download.digest import Algorithm, Digest
from proa_operator.model_download.errors import AttemptFailed, Refused
from proa_operator.model_download.listing import Listing, ModelFile, checked
from proa_operator.model_download.needed import needed
from proa_operator.model_download.uri import HubUri
from proa_operator.model_download.web import Web

_MAX_LIST_BYTES = 64 << 20


class HubAuthority:
    """A token, or none."""

    def __init__(self, uri: HubUri, endpoint: str, token: str) -> None:
        self.origin = httpx.URL(endpoint)
        self._uri = uri
        self._token = token

    def authorization(self) -> str:
        return f"Bearer {self._token}" if self._token else ""

    def renew(self, challenge: str) -> bool:
        """A hub's token cannot be renewed here."""
        return False

    def refusal(self, status: int, code: str) -> Refused:
        """For an answer of the hub (HTTP status, X-Error-Code) that no retry would change, with the fix."""
        if code == "RevisionNotFound":
            return Refused(f"{self._uri.repository} has no revision {self._uri.revision}: name a branch, tag or commit")
        if status == 401 and not self._token:
            return Refused(f"{self._uri} does not exist or is private: check the name or set spec.model.tokenSecretRef")
        if status == 401:
            return Refused(f"the hub does not accept the token, or {self._uri} does not exist: check both")
        if status == 403 or code == "GatedRepo":
            way = "with the account of the token" if self._token else "and set spec.model.tokenSecretRef"
            return Refused(f"{self._uri} may not be read: accept its terms on the hub {way}")
        if status in (404, 410):
            return Refused(f"{self._uri} does not exist on {self.origin.host}: check spec.model.uri")
        return Refused(f"{self.origin.host} answers {status} for {self._uri}: check spec.model.uri and HF_ENDPOINT")


class Hub:
    """Lists the files of one model."""

    def __init__(self, uri: HubUri, endpoint: str, web: Web) -> None:
        self._uri = uri
        self._endpoint = endpoint.rstrip("/")
        self._web = web

    def listing(self, revision: str) -> Listing:
        """Of `revision`, or of the one in the URI when empty. Refused for a list without digests."""
        name = quote(revision or self._uri.revision, safe="")
        url = f"{self._endpoint}/api/models/{quote(self._uri.repository)}/revision/{name}?blobs=true"
        body = self._web.document(url, {"Accept": "application/json"}, _MAX_LIST_BYTES)
        try:
            answer = json.loads(body)
            commit, entries = str(answer["sha"]), {str(entry["rfilename"]): entry for entry in answer["siblings"]}
        except (ValueError, KeyError, TypeError):
            raise AttemptFailed(f"{httpx.URL(url).host} sends no list of files: check HF_ENDPOINT") from None
        files = checked(self._file(commit, path, entries[path]) for path in sorted(needed(entries)))
        return Listing(uri=str(self._uri), revision=commit, files=files)

    def _file(self, commit: str, path: str, entry: dict[str, Any]) -> ModelFile:
        large = entry.get("lfs") or {}
        size, sha256, blob = large.get("size", entry.get("size")), large.get("sha256"), entry.get("blobId")
        if not isinstance(size, int) or not (sha256 or blob):
            raise Refused(f"the hub gives no size or digest for {path}: use a hub or mirror that lists blobs")
        digest = (
            Digest(algorithm=Algorithm.SHA256, hex=str(sha256))
            if sha256
            else Digest(algorithm=Algorithm.GIT_SHA1, hex=str(blob))
        )
        url = f"{self._endpoint}/{quote(self._uri.repository)}/resolve/{quote(commit, safe='')}/{quote(path)}"
        return ModelFile(path=path, size=size, digest=digest, url=url)
