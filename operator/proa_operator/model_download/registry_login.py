"""Access to a registry: the challenge names who gives out tokens (the Docker registry's token authentication)."""

from __future__ import annotations

import base64
import json
import re

import httpx

from proa_operator.model_download.errors import AttemptFailed, Refused
from proa_operator.model_download.uri import RegistryUri
from proa_operator.model_download.web import is_loopback, retry_after

_PARAMETER = re.compile(r'([a-z_]+)="([^"]*)"')
_ANY_USER = "token"  # registries that take an access token as the password do not look at the name


class RegistryAuthority:
    """`secret` is USER:PASSWORD, an access token, or empty for anonymous."""

    def __init__(self, uri: RegistryUri, base: str, secret: str, client: httpx.Client) -> None:
        self.origin = httpx.URL(base)
        self._uri = uri
        self._client = client
        self._basic = _basic(secret)
        self._header = ""

    def authorization(self) -> str:
        return self._header

    def renew(self, challenge: str) -> bool:
        """A new token, or the password itself if the registry asks for it. False when there is none."""
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "bearer":
            self._header = f"Bearer {self._token(dict(_PARAMETER.findall(rest)))}"
            return True
        if scheme.lower() == "basic" and self._basic and self._header != self._basic:
            self._header = self._basic
            return True
        return False

    def refusal(self, status: int, code: str) -> Refused:
        if status in (401, 403):
            way = "the token may not read it" if self._basic else "set spec.model.tokenSecretRef"
            return Refused(f"{self._uri} does not exist or may not be read: check the name; {way}")
        if status == 404:
            return Refused(f"{self._uri} does not exist: check the name and the tag in spec.model.uri")
        return Refused(f"{self._uri.host} answers {status} for {self._uri}: check spec.model.uri")

    def _token(self, challenge: dict[str, str]) -> str:
        realm = self._realm(challenge.get("realm", ""))
        asked = {name: value for name, value in challenge.items() if name in ("service", "scope")}
        headers = {"Authorization": self._basic} if self._basic else {}
        answer = self._client.get(realm.copy_merge_params(asked), headers=headers)
        if answer.status_code in (400, 401, 403, 404):
            raise self.refusal(401, "")
        if answer.status_code != 200:
            wish = retry_after(answer.headers.get("retry-after", ""))
            raise AttemptFailed(f"{realm.host} answers {answer.status_code} for a token", wish)
        return self._read(answer)

    def _read(self, answer: httpx.Response) -> str:
        try:
            body = json.loads(answer.content)
            token = body.get("token") or body.get("access_token")
        except (ValueError, AttributeError):
            token = ""
        if not isinstance(token, str) or not token.isprintable() or not token:
            raise AttemptFailed(f"{answer.url.host} sends no token")
        return token

    def _realm(self, text: str) -> httpx.URL:
        try:
            realm = httpx.URL(text)
        except httpx.InvalidURL:
            realm = httpx.URL("")
        if realm.scheme != "https" and not (realm.scheme == "http" and is_loopback(realm.host)):
            raise Refused(f"{self._uri.host} sends passwords to {text[:80]!r}, which is not https: refused")
        return realm


def _basic(secret: str) -> str:
    if not secret:
        return ""
    pair = secret if ":" in secret else f"{_ANY_USER}:{secret}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"
