"""`kill -9` of workers under load: every request ends within 10 s, and no block stays held."""

from __future__ import annotations

import os
import signal
import threading
import time

import openai
import pytest

from tests.serving.conftest import wait_until

ENDS_WITHIN_SECONDS = 10.0
RETRYABLE = (429, 500, 502, 503, 504)


class Clients:
    """Streams in a closed loop until told to stop; keeps how each request ended and when."""

    def __init__(self, service, num_clients: int) -> None:
        self._service = service
        self._is_stopping = threading.Event()
        self.ends: list[tuple[float, float, str]] = []  # started, ended, outcome
        self.open: dict[int, float] = {}
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(num_clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopping.set()
        for thread in self._threads:
            thread.join(180)  # longer than a request's own timeout
        assert not any(thread.is_alive() for thread in self._threads), "a client hangs"

    def _run(self, number: int) -> None:
        client = self._service.client()
        turn = 0
        while not self._is_stopping.is_set():
            started = self.open[number] = time.monotonic()
            outcome = self._ask(client, f"client {number} turn {turn} " + "some words " * (turn % 40))
            self.ends.append((started, time.monotonic(), outcome))
            turn += 1

    def _ask(self, client: openai.OpenAI, prompt: str) -> str:
        try:
            stream = client.completions.create(
                model="sim", prompt=prompt, max_tokens=40, stream=True, extra_body={"ignore_eos": True}
            )
            num_events = sum(1 for event in stream if event.choices and event.choices[0].text is not None)
        except openai.APIStatusError as error:
            return f"status {error.status_code}"
        except openai.APIError as error:
            return f"cut: {type(error).__name__}"
        return "ok" if num_events else "empty"


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["prefill-0", "decode-0"])
def test_kill_9_under_load(start_service, victim: str) -> None:
    transfer = {"backend": "tcp", "leaseSeconds": 5, "failurePolicy": "recompute"}
    with start_service(manifest="sim.yaml", prefill=2, decode=2, kvTransfer=transfer) as service:
        with Clients(service, 8) as clients:
            wait_until(lambda: len(clients.ends) >= 40, 60, lambda: clients.ends)
            killed, child = time.monotonic(), service.workers[victim]
            os.kill(child.pid, signal.SIGKILL)
            wait_until(lambda: min(clients.open.values()) > killed, 60, lambda: clients.open)
            wait_until(lambda: child.num_restarts == 1 and child.is_serving.is_set(), 60, service.logs)
            back = len(clients.ends)
            wait_until(lambda: len(clients.ends) >= back + 100, 60, lambda: clients.ends)
        before = [end for end in clients.ends if end[1] < killed]
        across = [end for end in clients.ends if end[0] <= killed <= end[1]]
        after = [end for end in clients.ends if end[0] > killed]
        assert before
        assert all(outcome == "ok" for *_, outcome in before), before
        assert max((ended - killed for _, ended, _ in across), default=0) < ENDS_WITHIN_SECONDS
        outcomes = {outcome for *_, outcome in across + after}
        assert outcomes <= {"ok", *(f"status {code}" for code in RETRYABLE), "cut: APIError"}, outcomes
        late = [outcome for started, _, outcome in after if started > killed + 3]
        assert late.count("ok") >= 0.9 * len(late), late
        service.wait_idle()
