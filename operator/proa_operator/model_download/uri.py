"""URIs that are downloaded."""

from __future__ import annotations

import re
from dataclasses import dataclass

from proa_operator.model_download.errors import Refused

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HUB = re.compile(rf"hf://(?P<repository>{_NAME}/{_NAME})(@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]*))?")
_REGISTRY = re.compile(
    r"oci://(?P<host>[A-Za-z0-9.-]+(:[0-9]+)?|\[[0-9a-fA-F:]+\](:[0-9]+)?)"
    r"/(?P<repository>[a-z0-9]+([._/-]+[a-z0-9]+)*)"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubUri:
    """hf://ORG/NAME[@REVISION]; the revision is a branch, a tag or a commit."""

    repository: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hf://{self.repository}" + (f"@{self.revision}" if self.revision != "main" else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryUri:
    """oci://HOST/REPOSITORY[:TAG][@sha256:DIGEST]; `reference` is the digest if there is one."""

    host: str
    repository: str
    reference: str = "latest"

    def __str__(self) -> str:
        mark = "@" if self.reference.startswith("sha256:") else ":"
        return f"oci://{self.host}/{self.repository}{mark}{self.reference}"


def parse_uri(text: str) -> HubUri | RegistryUri:
    """Refused for any other."""
    if hub := _HUB.fullmatch(text):
        return HubUri(repository=hub["repository"], revision=hub["revision"] or "main")
    if registry := _REGISTRY.fullmatch(text):
        reference = registry["digest"] or registry["tag"] or "latest"
        return RegistryUri(host=registry["host"], repository=registry["repository"], reference=reference)
    raise Refused(
        f"{text[:200]!r} cannot be downloaded: use hf://ORG/NAME[@REVISION] or oci://HOST/NAME[:TAG|@sha256:...]"
    )
