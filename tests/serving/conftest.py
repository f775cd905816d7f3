"""A real service for tests: gateway and workers as processes, supervised as `proa up` does it."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest
import yaml
from proa_operator.local.child import Child
from proa_operator.local.options import Options
from proa_operator.local.ports import FreePorts
from proa_operator.local.prepare import prepare
from proa_operator.local.process import Role
from proa_operator.local.supervise import Supervisor
from prometheus_client.parser import text_string_to_metric_families

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
START_SECONDS = 120.0
STOP_SECONDS = 60.0
_first_port = itertools.count(21000, 200)


class Service:
    """One running service; `workers` maps names such as decode-0 to their supervised processes."""

    def __init__(self, manifest: Path, options: Options, state_dir: Path) -> None:
        self.plan = prepare(manifest, options, state_dir)
        self.url = self.plan.url
        self.state_dir = state_dir
        self._changes: list[str] = []
        self._clients: list[openai.OpenAI] = []
        self._is_serving = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Service:
        self._thread.start()
        if not self._is_serving.wait(START_SECONDS):
            self.stop()
            raise AssertionError(f"not serving after {START_SECONDS} s: {self._changes}\n{self.logs()}")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        self._loop.call_soon_threadsafe(self._supervisor.ask_stop)
        self._thread.join(STOP_SECONDS)
        assert not self._thread.is_alive(), f"the service did not stop within {STOP_SECONDS} s"

    @property
    def workers(self) -> dict[str, Child]:
        return {n: child for n, child in self._supervisor.children.items() if child.process.role is not Role.GATEWAY}

    def client(self, **options: object) -> openai.OpenAI:
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120, **options)
        self._clients.append(client)
        return client

    def metrics(self, worker: str) -> dict[tuple[str, ...], float]:
        """Samples of one worker by (name, *label values)."""
        url = self.workers[worker].process.metrics_url
        with urllib.request.urlopen(url, timeout=30) as reply:
            families = list(text_string_to_metric_families(reply.read().decode()))
        return {(s.name, *map(str, s.labels.values())): s.value for family in families for s in family.samples}

    def busy(self) -> dict[str, float]:
        """What is not at rest: running or waiting requests, owned or pinned blocks, leases; empty when idle."""
        found = {}
        for worker in self.workers:
            for key, value in self.metrics(worker).items():
                is_work = key[0] in ("vllm:num_requests_running", "vllm:num_requests_waiting", "proa_kv_leases")
                is_block = key[0] == "proa_kv_blocks" and key[1] in ("owned", "pinned")
                if value and (is_work or is_block):
                    found[f"{worker} {key}"] = value
        return found

    def wait_idle(self, seconds: float = 60.0) -> None:
        """Every request gone and every block free within `seconds`."""
        wait_until(lambda: not self.busy(), seconds, self.busy)

    def logs(self) -> str:
        return "\n".join(f"== {p.name}\n{p.read_text()[-3000:]}" for p in sorted(self.state_dir.glob("*.log")))

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._supervisor = Supervisor(self.plan, lambda child, detail: self._changes.append(f"{child} {detail}"))
        run = asyncio.create_task(self._supervisor.run())
        serving = asyncio.create_task(self._supervisor.serving())
        await asyncio.wait([run, serving], return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            self._is_serving.set()
        await run


def wait_until(is_true: Callable[[], bool], seconds: float, explain: Callable[[], object] = lambda: "") -> None:
    """Poll until `is_true`; AssertionError with `explain()` at the deadline."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"not reached within {seconds} s: {explain()}"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def start_service(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Service]:
    """start_service(prefill=1, decode=1, engine="native", spec={...}, args=[...]) -> a Service to enter."""

    def start(
        *,
        prefill: int | None = 1,
        decode: int | None = 1,
        workers: int | None = None,
        manifest: str = "tiny.yaml",
        args: tuple[str, ...] = (),
        **spec: object,
    ) -> Service:
        folder = tmp_path_factory.mktemp("service")
        content = yaml.safe_load((EXAMPLES / manifest).read_text())
        content["spec"].update(spec)
        content["spec"]["engine"]["args"] = [*content["spec"]["engine"].get("args", []), *args]
        path = folder / manifest
        path.write_text(yaml.safe_dump(content))
        port = FreePorts("127.0.0.1", next(_first_port))()
        is_aggregated = workers is not None
        pools = {} if is_aggregated else {"prefill": prefill, "decode": decode}
        options = Options(
            host="127.0.0.1", port=port, is_aggregated=is_aggregated, workers=workers, device="cpu", **pools
        )
        return Service(path, options, folder)

    return start


@pytest.fixture(scope="session")
def native(start_service: Callable[..., Service]) -> Iterator[Service]:
    """One prefill and one decode worker with the bundled model, for the tests that break nothing."""
    with start_service() as service:
        yield service


@pytest.fixture(scope="session")
def sim(start_service: Callable[..., Service]) -> Iterator[Service]:
    """Two prefill and two decode workers of the sim engine."""
    with start_service(manifest="sim.yaml", prefill=2, decode=2) as service:
        yield service
