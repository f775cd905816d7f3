"""Settings of one download: flags, and secrets from the environment or a file."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from proa_operator.local.backoff import Backoff
from proa_operator.model_download.errors import Refused
from proa_operator.model_download.lock import LockTiming
from proa_operator.model_download.retry import Patience
from proa_operator.model_download.uri import HubUri, RegistryUri, parse_uri

TOKEN_ENV = "MODEL_TOKEN"
TOKEN_FILE_ENV = "MODEL_TOKEN_FILE"
ENDPOINT_ENV = "HF_ENDPOINT"
_HUB_ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Of the process."""

    uri: HubUri | RegistryUri
    target: Path
    progress_port: int | None
    num_parallel: int
    endpoint: str
    token: str = field(repr=False)
    patience: Patience
    lock: LockTiming


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """SystemExit with status 2 for unknown flags, Refused for bad values."""
    flags = _parser().parse_args(arguments)
    if not Path(flags.target).is_absolute() or flags.parallel < 1 or flags.attempts < 1:
        raise Refused("--target needs an absolute path, --parallel and --attempts a number from 1 up")
    if min(flags.retry_seconds, flags.lock_stale_seconds) <= 0:
        raise Refused("--retry-seconds and --lock-stale-seconds need a number above 0")
    return Settings(
        uri=parse_uri(flags.uri),
        target=Path(flags.target),
        progress_port=flags.progress_port,
        num_parallel=flags.parallel,
        endpoint=_endpoint(environment.get(ENDPOINT_ENV) or _HUB_ENDPOINT),
        token=_token(environment),
        patience=Patience(
            num_attempts=flags.attempts,
            backoff=Backoff(first_seconds=flags.retry_seconds, cap_seconds=60.0, jitter=0.5),
        ),
        lock=LockTiming(stale_seconds=flags.lock_stale_seconds),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="proa_operator.model_download", description="Download a model, verified.")
    parser.add_argument("--uri", required=True, help="hf://ORG/NAME[@REVISION] or oci://HOST/NAME[:TAG|@sha256:...]")
    parser.add_argument("--target", required=True, help="folder that the complete model is moved to")
    parser.add_argument("--progress-port", type=int, help="port of GET /progress; 0 takes a free one")
    parser.add_argument("--parallel", type=int, default=4, help="files at a time (%(default)s)")
    parser.add_argument("--attempts", type=int, default=8, help="failures in a row without a new byte (%(default)s)")
    parser.add_argument("--retry-seconds", type=float, default=1.0, help="first wait, doubled up to 60 (%(default)s)")
    parser.add_argument("--lock-stale-seconds", type=float, default=60.0, help="silence of a dead writer (%(default)s)")
    return parser


def _token(environment: Mapping[str, str]) -> str:
    token = environment.get(TOKEN_ENV, "")
    if not token and (path := environment.get(TOKEN_FILE_ENV, "")):
        try:
            token = Path(path).read_text()
        except (OSError, UnicodeDecodeError):
            raise Refused(f"{TOKEN_FILE_ENV} names {path}, which cannot be read: mount the Secret there") from None
    token = token.strip()
    if not (token.isascii() and token.isprintable()) and token:
        raise Refused(f"{TOKEN_ENV} has characters that no token has: check the key of spec.model.tokenSecretRef")
    return token


def _endpoint(text: str) -> str:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host or url.query or url.userinfo:
        raise Refused(f"{ENDPOINT_ENV} is not an address such as https://HOST")
    return text.rstrip("/")
