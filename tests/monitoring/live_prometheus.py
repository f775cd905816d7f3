"""A real Prometheus on loopback, and what it answers."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from proa_operator.local.ports import FreePorts

START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Prometheus:
    """`url` without a slash at its end."""

    url: str

    def ask(self, expr: str) -> list[dict[str, Any]]:
        """Series of an instant query; AssertionError with Prometheus' words when it refuses."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expr}, timeout=30).json()
        assert answer["status"] == "success", f"{expr}: {answer.get('error')}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def get(self, path: str) -> Any:
        """`data` of an API path such as `rules`."""
        return httpx.get(f"{self.url}/api/v1/{path}", timeout=30).json()["data"]

    def rules(self, seconds: float) -> dict[str, str]:
        """The health of each rule once all were evaluated; a group with a long interval is evaluated late."""
        deadline = time.monotonic() + seconds
        while True:
            groups = self.get("rules")["groups"]
            found = {f"{group['name']}: {rule['name']}": rule["health"] for group in groups for rule in group["rules"]}
            if "unknown" not in found.values() or time.monotonic() > deadline:
                return found
            time.sleep(1)

    def wait_for(self, exprs: list[str], seconds: float) -> list[str]:
        """Returns the queries that still have no data when the time is over."""
        deadline = time.monotonic() + seconds
        missing = list(exprs)
        while missing := [expr for expr in missing if not self.ask(expr)]:
            if time.monotonic() > deadline:
                break
            time.sleep(1)
        return missing


@contextmanager
def running(program: str, config: Path, data: Path) -> Iterator[Prometheus]:
    """Prometheus with a configuration file until the block ends."""
    port = FreePorts("127.0.0.1", 19500)()
    log = data.with_suffix(".log")
    argv = [program, f"--config.file={config}", f"--storage.tsdb.path={data}", f"--web.listen-address=127.0.0.1:{port}"]
    with log.open("w") as out, subprocess.Popen(argv, stdout=out, stderr=out) as process:
        try:
            found = Prometheus(f"http://127.0.0.1:{port}")
            _wait_ready(found, process, log)
            yield found
        finally:
            process.terminate()
            process.wait(60)


def _wait_ready(found: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{found.url}/-/ready", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"Prometheus does not start: {log.read_text()[-2000:]}")
