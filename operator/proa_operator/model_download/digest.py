"""Digests of files: sha256, and git's blob id for the small files of a hub that have nothing else."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from proa_operator.model_download.errors import Refused


class Algorithm(StrEnum):
    """How the digest is computed."""

    SHA256 = "sha256"
    GIT_SHA1 = "git-sha1"
    """sha1 over "blob SIZE", a zero byte, and the content (git-hash-object)."""


_HEX = {Algorithm.SHA256: 64, Algorithm.GIT_SHA1: 40}


class Hasher(Protocol):
    """The part of hashlib's objects that is used."""

    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """Expected digest of one file."""

    algorithm: Algorithm
    hex: str

    def __post_init__(self) -> None:
        if not re.fullmatch(f"[0-9a-f]{{{_HEX[self.algorithm]}}}", self.hex):
            raise Refused(f"{self.hex[:80]!r} is not a {self.algorithm} digest: the source's list of files is broken")

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    def hasher(self, size: int) -> Hasher:
        """To be fed with the whole content of `size` bytes."""
        if self.algorithm is Algorithm.SHA256:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def parse_digest(text: str) -> Digest:
    """From "ALGORITHM:HEX". Refused for one that is not known here."""
    name, _, digits = text.partition(":")
    if name not in set(Algorithm):
        raise Refused(f"the digest {text[:80]!r} is not supported: push the model again with sha256")
    return Digest(algorithm=Algorithm(name), hex=digits)
