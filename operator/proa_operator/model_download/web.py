"""GET requests that follow redirects and show a secret to its own origin only."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Protocol

import httpx

from proa_operator.model_download.errors import AttemptFailed, RangeRefused, Refused

_MAX_HOPS = 6
_BUSY = frozenset({408, 425, 429})
_DOCUMENT_SECONDS = 120.0
TIMEOUT = httpx.Timeout(20.0, connect=10.0)  # below the 30 s that a pod has to end in


class Authority(Protocol):
    """Speaks for one origin: its credentials, and its words for a refusal."""

    origin: httpx.URL

    def authorization(self) -> str:
        """Value of the header; empty for none."""

    def renew(self, challenge: str) -> bool:
        """Answers WWW-Authenticate; False when there is nothing better to send."""

    def refusal(self, status: int, code: str) -> Refused:
        """Why the origin refuses, with the fix."""


class Web:
    """Shared by all threads."""

    def __init__(self, client: httpx.Client, authority: Authority) -> None:
        self._client = client
        self._authority = authority

    @contextmanager
    def open(self, url: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """An answer of status 200 or 206, to be read with iter_raw. AttemptFailed, RangeRefused or Refused."""
        try:
            response, answered = self._follow(httpx.URL(url), headers)
            try:
                self._judge(response, answered)
                yield response
            finally:
                response.close()
        except httpx.TransportError as error:
            host = httpx.URL(url).host
            raise AttemptFailed(f"{host}: {type(error).__name__} {error}".strip().splitlines()[0]) from None

    def document(self, url: str, headers: Mapping[str, str], max_bytes: int) -> bytes:
        """A small answer as a whole, within two minutes."""
        deadline = time.monotonic() + _DOCUMENT_SECONDS
        body = bytearray()
        with self.open(url, headers) as response:
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > max_bytes:
                    raise Refused(f"{httpx.URL(url).host} sends a list of more than {max_bytes} bytes: refused")
                if time.monotonic() > deadline:
                    raise AttemptFailed(f"{httpx.URL(url).host} sends too slowly")
        return bytes(body)

    def _follow(self, url: httpx.URL, headers: Mapping[str, str]) -> tuple[httpx.Response, httpx.URL]:
        is_renewed = False
        for _ in range(_MAX_HOPS):
            response = self._send(url, headers)
            if response.status_code == 401 and self._is_own(url) and not is_renewed:
                is_renewed = True
                if self._authority.renew(response.headers.get("www-authenticate", "")):
                    response.close()
                    continue
            if not response.has_redirect_location:
                return response, url
            response.close()
            url = _redirected(url, response.headers["location"])
        raise AttemptFailed(f"{self._authority.origin.host} redirects more than {_MAX_HOPS} times")

    def _send(self, url: httpx.URL, headers: Mapping[str, str]) -> httpx.Response:
        sent = {"Accept-Encoding": "identity", "User-Agent": "proa", **headers}
        if self._is_own(url) and (authorization := self._authority.authorization()):
            sent["Authorization"] = authorization
        return self._client.send(self._client.build_request("GET", url, headers=sent), stream=True)

    def _is_own(self, url: httpx.URL) -> bool:
        return is_same_origin(url, self._authority.origin)

    def _judge(self, response: httpx.Response, url: httpx.URL) -> None:
        status = response.status_code
        if status in (200, 206):
            if response.headers.get("content-encoding", "identity") != "identity":
                raise AttemptFailed(f"{url.host} compresses what was asked for as it is: check the proxy in between")
            return
        if status == 416:
            raise RangeRefused(f"{url.host} has less of the file than was already fetched")
        # NOTE: a foreign host got a signed address without our token, so its 403 means that the address is too old.
        if status in _BUSY or status >= 500 or not self._is_own(url):
            raise AttemptFailed(f"{url.host} answers {status}", retry_after(response.headers.get("retry-after", "")))
        raise self._authority.refusal(status, response.headers.get("x-error-code", ""))


def is_same_origin(one: httpx.URL, other: httpx.URL) -> bool:
    """Scheme, host and port are equal."""
    return (one.scheme, one.host, _port(one)) == (other.scheme, other.host, _port(other))


def is_loopback(host: str) -> bool:
    """Where plain http is allowed."""
    return host in ("localhost", "127.0.0.1", "::1")


def retry_after(text: str) -> float:
    """Seconds, from seconds or a date of RFC 9110; 0 for none or nonsense."""
    if text.isdigit():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, (at.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def _redirected(url: httpx.URL, location: str) -> httpx.URL:
    try:
        target = url.join(location)
    except httpx.InvalidURL:
        raise AttemptFailed(f"{url.host} redirects to an address that is none") from None
    if target.scheme != "https" and target.scheme != url.scheme:
        raise Refused(f"{url.host} redirects from {url.scheme} to {target.scheme}: refused, ask its administrator")
    return target


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)
