"""The real gateway with the arguments that `proa up` gives it, in front of doubles that fail on order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from proa_operator.api.load import load
from proa_operator.cli.ask import ask
from proa_operator.local.options import Options
from proa_operator.local.plan import plan
from proa_operator.local.ports import FreePorts
from proa_operator.local.process import LocalPlan, Role
from proa_operator.local.programs import Programs, installed
from proa_operator.local.scrape import WorkerLoad, worker_load
from proa_operator.local.supervise import Supervisor
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TOY = Path(__file__).with_name("up_toy_worker.py")
DEADLINE_SECONDS = 90.0
FIRST_PORT = 11_000 + os.getpid() % 400 * 20
MANIFEST = """
apiVersion: proa.dev/v1alpha1
kind: DisaggregatedService
metadata: {name: toy}
spec:
  model: {uri: "bundled://tiny-moe", name: toy}
  engine: {type: native}
  pools: {prefill: {replicas: 2}, decode: {replicas: 2}}
  drain: {timeoutSeconds: 30}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of single bytes, which is all that the gateway reads of a model."""
    folder = tmp_path_factory.mktemp("model")
    vocabulary = {letter: idx for idx, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(
        f'{{"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{template}"}}'
    )
    (folder / "config.json").write_text('{"model_type": "deepseek_v3", "vocab_size": 256}')
    return folder


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder in which a file named after a worker makes this worker refuse every request."""
    monkeypatch.setenv("TOY_FAULTS", str(tmp_path))
    return tmp_path


@pytest.fixture
def make_plan(model: Path, tmp_path: Path) -> Callable[..., LocalPlan]:
    next_port = FreePorts("127.0.0.1", FIRST_PORT)
    programs = Programs(worker=(sys.executable, str(TOY)), gateway=installed().gateway)

    def make(*, gateway_args: str = "", **options: Any) -> LocalPlan:
        (tmp_path / "toy.yaml").write_text(f"{MANIFEST}  gateway: {{args: [{gateway_args}]}}\n")
        return plan(
            load(tmp_path / "toy.yaml"),
            Options(port=next_port(), **options),
            programs=programs,
            model=model,
            state_dir=tmp_path / "state",
            next_port=next_port,
            control_key="k",
        )

    return make


@asynccontextmanager
async def _serving(local_plan: LocalPlan) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(local_plan, lambda child, detail: None)
    run = asyncio.create_task(supervisor.run())
    try:
        await asyncio.wait_for(supervisor.serving(), DEADLINE_SECONDS)
        yield supervisor
    finally:
        if not supervisor.is_stopping:  # asked a second time it would drain nothing
            supervisor.ask_stop()
        await asyncio.wait_for(run, DEADLINE_SECONDS)


async def _statuses(local_plan: LocalPlan, number: int) -> list[int]:
    body = {"model": "toy", "prompt": "hello", "max_tokens": 2}
    async with httpx.AsyncClient(timeout=DEADLINE_SECONDS, trust_env=False) as client:
        return [(await client.post(f"{local_plan.url}/v1/completions", json=body)).status_code for _ in range(number)]


@pytest.mark.parametrize("options", [{}, {"is_aggregated": True}], ids=["two pools", "one pool"])
async def test_streams_through_the_gateway(
    make_plan: Callable[..., LocalPlan], faults: Path, options: dict[str, Any]
) -> None:
    local_plan = make_plan(**options)
    pieces: list[str] = []
    async with _serving(local_plan):
        answer = await ask(local_plan.url, "toy", "abc", pieces.append)
        async with httpx.AsyncClient(trust_env=False) as client:
            load_now = await worker_load(client, local_plan.processes[0].metrics_url)
    assert "".join(pieces) == answer.text == "abc" * 42 + "ab"
    assert answer.num_tokens == 128
    assert answer.ttft_seconds > 0
    assert answer.tokens_per_second > 0
    assert load_now == WorkerLoad(running=0, waiting=0, kv_usage=0)


@pytest.mark.parametrize(
    ("options", "broken"),
    [
        pytest.param({}, "decode-0", id="decode"),
        pytest.param({}, "prefill-0", id="prefill"),
        pytest.param({"is_aggregated": True}, "worker-0", id="one pool"),
    ],
)
async def test_a_request_that_a_worker_refuses_goes_elsewhere(
    make_plan: Callable[..., LocalPlan], faults: Path, options: dict[str, Any], broken: str
) -> None:
    local_plan = make_plan(**options)
    (faults / broken).write_text("UNAVAILABLE")
    async with _serving(local_plan):
        assert await _statuses(local_plan, 20) == [200] * 20
    assert (faults / f"{broken}.calls").exists()  # it was tried, so the gateway did have to retry


@pytest.mark.parametrize(("code", "status"), [("INVALID_ARGUMENT", 400), ("RESOURCE_EXHAUSTED", 429)])
async def test_a_wrong_request_or_a_full_queue_shuts_no_worker_out(
    make_plan: Callable[..., LocalPlan], faults: Path, code: str, status: int
) -> None:
    local_plan = make_plan(prefill=1, decode=1)
    async with _serving(local_plan):
        (faults / "decode-0").write_text(code)
        assert await _statuses(local_plan, 3) == [status] * 3
        (faults / "decode-0").unlink()
        assert await _statuses(local_plan, 3) == [200] * 3


async def test_without_retries_the_same_check_fails(make_plan: Callable[..., LocalPlan], faults: Path) -> None:
    local_plan = make_plan(gateway_args="--disable-retries")
    (faults / "decode-0").write_text("UNAVAILABLE")
    async with _serving(local_plan):
        assert 503 in await _statuses(local_plan, 20)


async def test_a_killed_worker_costs_no_request_and_comes_back(
    make_plan: Callable[..., LocalPlan], faults: Path
) -> None:
    local_plan = make_plan()
    async with _serving(local_plan) as supervisor:
        victim = supervisor.children["decode-0"]
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        assert await _statuses(local_plan, 20) == [200] * 20
        await asyncio.wait_for(supervisor.serving(), DEADLINE_SECONDS)
        assert await _statuses(local_plan, 5) == [200] * 5
        assert victim.num_restarts == 1


async def test_a_stop_lets_a_running_stream_finish(make_plan: Callable[..., LocalPlan], faults: Path) -> None:
    local_plan = make_plan()
    first_text = asyncio.Event()
    async with _serving(local_plan) as supervisor:
        answer = asyncio.create_task(ask(local_plan.url, "toy", "abc", lambda text: first_text.set()))
        await asyncio.wait_for(first_text.wait(), DEADLINE_SECONDS)
        supervisor.ask_stop()
        assert (await asyncio.wait_for(answer, DEADLINE_SECONDS)).num_tokens == 128


async def test_an_idle_gateway_is_not_waited_for(make_plan: Callable[..., LocalPlan], faults: Path) -> None:
    """By itself smg takes 6 s to stop, for load balancers that are not here; it ends with exit code 0 then."""
    local_plan = make_plan()
    (gateway,) = (process.name for process in local_plan.processes if process.role is Role.GATEWAY)
    async with _serving(local_plan) as supervisor:
        running = supervisor.children[gateway]._running
        supervisor.ask_stop()
    assert running is not None
    assert running.returncode == -signal.SIGKILL
