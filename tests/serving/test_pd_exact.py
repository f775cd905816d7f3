"""Prefill/decode output equals aggregated output, token by token, over both transports and pool shapes."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

NUM_PROMPTS = 200
CHUNK = ("--max-num-batched-tokens", "96", "--max-model-len", "1024")
WORDS = ["the", "a", "of", "and", "river", "boat", "proa", "hull", "sail", "wind", "stone", "3", "17", "42", "red"]


def make_requests(num: int, seed: int) -> list[dict[str, object]]:
    """Short and long prompts (some over two chunks), a third with a shared prefix, half of them sampled by seed."""
    pick = random.Random(seed)
    shared = [" ".join(pick.choices(WORDS, k=60)) for _ in range(4)]
    requests: list[dict[str, object]] = []
    for i in range(num):
        own = " ".join(pick.choices(WORDS, k=pick.choice([1, 5, 20, 60, 200])))
        prompt = f"{pick.choice(shared)} {own}" if pick.random() < 0.35 else own
        sampling = {"temperature": 0} if i % 2 else {"temperature": 0.9, "top_p": 0.9, "seed": i}
        messages = [{"role": "user", "content": prompt}]
        requests.append({"messages": messages, "max_tokens": pick.randint(1, 24), **sampling})
    return requests


def run_all(service, requests: list[dict[str, object]], model: str) -> list[list[str]]:
    """Tokens of every answer (from its logprobs), 16 requests at a time."""

    def one(request: dict[str, object]) -> list[str]:
        choice = service.client().chat.completions.create(model=model, logprobs=True, **request).choices[0]
        return [token.token for token in choice.logprobs.content]

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(one, requests))


def total(service, role: str, name: str) -> float:
    workers = [worker for worker in service.workers if worker.startswith(role)]
    return sum(value for worker in workers for key, value in service.metrics(worker).items() if key[0] == name)


@pytest.fixture(scope="module")
def requests_and_answers(start_service):
    requests = make_requests(NUM_PROMPTS, seed=1)
    with start_service(workers=1, args=CHUNK) as service:
        return requests, run_all(service, requests, "tiny-moe")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prefill", "decode", "backend", "memory"),
    [(1, 1, "shm", "256MiB"), (1, 1, "tcp", "16MiB"), (2, 2, "shm", "256MiB"), (2, 2, "tcp", "256MiB")],
)
def test_disaggregated_equals_aggregated(start_service, requests_and_answers, prefill, decode, backend, memory) -> None:
    """16 MiB are about 110 blocks: 16 requests at once do not fit, so they wait, or are preempted when they meet."""
    requests, expected = requests_and_answers
    transfer = {"backend": backend, "leaseSeconds": 30, "failurePolicy": "fail"}
    args = (*CHUNK, "--kv-cache-memory", memory)
    with start_service(prefill=prefill, decode=decode, args=args, kvTransfer=transfer) as service:
        answers = run_all(service, requests, "tiny-moe")
        wrong = [i for i, (got, want) in enumerate(zip(answers, expected, strict=True)) if got != want]
        assert not wrong, f"{len(wrong)} differ, first: {answers[wrong[0]]} != {expected[wrong[0]]}"
        service.wait_idle()
        assert total(service, "decode", "proa_kv_transfer_bytes_total") > 0
        assert total(service, "prefill", "vllm:prefix_cache_hits_total") > 0


def test_a_changed_seed_is_seen() -> None:
    """Planted fault for the comparison above: other requests must give other prompts or seeds."""
    assert make_requests(20, seed=1) != make_requests(20, seed=2)
