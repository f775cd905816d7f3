"""The workers that the gateway knows, added and removed while it serves."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from proa_operator.local.process import Role

_SECONDS = 5.0
_TYPES = {Role.PREFILL: "prefill", Role.DECODE: "decode", Role.BOTH: "regular"}


class Gateway:
    """smg's control API. It drains a removed worker for 5 s, and lets running streams end after that too."""

    def __init__(self, url: str, control_key: str) -> None:
        headers = {"Authorization": f"Bearer {control_key}"}
        self._client = httpx.AsyncClient(base_url=url, headers=headers, timeout=_SECONDS, trust_env=False)

    async def close(self) -> None:
        """End the session."""
        await self._client.aclose()

    async def sync(self, wanted: Mapping[str, Role]) -> frozenset[str] | None:
        """Add those of `wanted` (URL -> role) that are not known, remove all others.

        Returns the URLs that were known before; None when the gateway does not answer. Safe to repeat.
        """
        try:
            known = await self._known()
            for url in wanted.keys() - known.keys():
                body = {"url": url, "worker_type": _TYPES[wanted[url]], "runtime_type": "vllm"}
                (await self._client.post("/workers", json=body)).raise_for_status()
            for url in known.keys() - wanted.keys():
                await self._client.delete(f"/workers/{known[url]}")  # 404: it has gone meanwhile
        except (httpx.HTTPError, ValueError, KeyError):  # it starts again, and is asked again
            return None
        return frozenset(known)

    async def _known(self) -> dict[str, str]:
        answer = (await self._client.get("/workers")).raise_for_status()
        return {worker["url"]: worker["id"] for worker in answer.json()["workers"]}
