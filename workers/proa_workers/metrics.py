"""Prometheus metrics of a worker: vLLM's names where vLLM has one, `proa_*` for the rest.

Times are seconds, sizes bytes. Labels come from closed sets; `model_name` and `engine` are constant per process.
"""

from __future__ import annotations

from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proa_workers.core.load import Load

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
SLOW = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
LONG = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0)
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000)
LABELS = ("model_name", "engine")


def as_text(app: WSGIApplication) -> WSGIApplication:
    """The scrape endpoint in Prometheus' text format, whatever the scraper would rather have.

    In the OpenMetrics format prometheus-client writes `vllm_` for `vllm:` in samples (client_python issue 1177).
    """

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return app(environ | {"HTTP_ACCEPT": "text/plain"}, start_response)

    return answer


class Metrics:
    """All metrics of one process in one registry; values of the engine loop and leases are read at scrape time."""

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self._constant = {"model_name": model_name, "engine": "0"}
        self.ttft = self._histogram("vllm:time_to_first_token_seconds", "Arrival to first token.", SLOW)
        self.itl = self._histogram("vllm:inter_token_latency_seconds", "Between two tokens of one output.", FAST)
        self.tpot = self._histogram("vllm:request_time_per_output_token_seconds", "Per output, after the first.", FAST)
        self.e2e = self._histogram("vllm:e2e_request_latency_seconds", "Arrival to last token.", LONG)
        self.queue = self._histogram("vllm:request_queue_time_seconds", "Arrival to first step.", LONG)
        self.prefill = self._histogram("vllm:request_prefill_time_seconds", "First step to first token.", LONG)
        self.decode = self._histogram("vllm:request_decode_time_seconds", "First to last token.", LONG)
        self.prompt_length = self._histogram("vllm:request_prompt_tokens", "Prompt tokens of a request.", COUNTS)
        self.output_length = self._histogram("vllm:request_generation_tokens", "Output tokens of a request.", COUNTS)
        self.step_tokens = self._histogram("vllm:iteration_tokens_total", "Tokens computed by one step.", COUNTS)
        self.prompt_tokens = self._counter("vllm:prompt_tokens", "Prompt tokens of finished prefills.")
        self.generation_tokens = self._counter("vllm:generation_tokens", "Sampled tokens.")
        self.prefix_queries = self._counter("vllm:prefix_cache_queries", "Prompt tokens looked up.")
        self.prefix_hits = self._counter("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.")
        self.fetched_tokens = self._counter("vllm:external_prefix_cache_hits", "Prompt tokens fetched from a peer.")
        self.success = Counter(
            "vllm:request_success", "Finished outputs.", (*LABELS, "finished_reason"), registry=self.registry
        )
        self.transfer_seconds = Histogram(
            "proa_kv_transfer_seconds",
            "Reserve to commit of a hand-off, on the reader.",
            ("transport",),
            buckets=FAST,
            registry=self.registry,
        )
        self.transfer_bytes = self._own_counter("proa_kv_transfer_bytes", "KV bytes read from peers.", ("transport",))
        self.transfer_failures = self._own_counter(
            "proa_kv_transfer_failures", "Hand-offs that did not arrive.", ("error",)
        )
        self.recomputed = self._own_counter("proa_kv_recomputed", "Prompts recomputed after a failed hand-off.", ())

    def finished(self, reason: str) -> None:
        """Count one finished output by its reason: stop, length, abort or error."""
        self.success.labels(**self._constant, finished_reason=reason).inc()

    def watch(self, source: LoadSource) -> None:
        """Export a worker's load, block and lease counts whenever Prometheus scrapes."""
        self.registry.register(_LoadCollector(source, self._constant))

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        metric = Histogram(name, text, LABELS, buckets=buckets, registry=self.registry)
        return metric.labels(**self._constant)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, LABELS, registry=self.registry).labels(**self._constant)

    def _own_counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)


class LoadSource:
    """What the collector reads at scrape time; `leases` by state, `outcomes` of ended leases."""

    @property
    def load(self) -> Load | None:
        raise NotImplementedError

    def lease_counts(self) -> tuple[dict[str, int], dict[str, int]]:
        raise NotImplementedError


class _LoadCollector(Collector):
    def __init__(self, source: LoadSource, constant: dict[str, str]) -> None:
        self._source = source
        self._constant = constant

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        """Gauges and counters of the loop's last report; nothing before the model has loaded."""
        load = self._source.load
        if load is None:
            return
        yield from self._vllm(load)
        blocks = GaugeMetricFamily("proa_kv_blocks", "Blocks by state: free + owned + pinned = total.", None, ["state"])
        for state in ("free", "owned", "pinned", "total"):
            blocks.add_metric([state], getattr(load, f"blocks_{state}"))
        yield blocks
        states, outcomes = self._source.lease_counts()
        leases = GaugeMetricFamily("proa_kv_leases", "Hand-off leases by state.", None, ["state"])
        for state, count in states.items():
            leases.add_metric([state], count)
        yield leases
        ended = CounterMetricFamily("proa_kv_lease_outcomes", "Ended hand-off leases.", None, ["outcome"])
        for outcome, count in outcomes.items():
            ended.add_metric([outcome], count)
        yield ended

    def _vllm(self, load: Load) -> Iterable[Metric]:
        labels, values = list(self._constant), list(self._constant.values())
        gauges = (
            ("vllm:num_requests_running", "Sequences that run.", load.num_running),
            ("vllm:num_requests_waiting", "Sequences that wait.", load.num_waiting),
            ("vllm:kv_cache_usage_perc", "KV blocks in use, 0..1.", load.kv_usage),
        )
        for name, text, value in gauges:
            gauge = GaugeMetricFamily(name, text, None, labels)
            gauge.add_metric(values, value)
            yield gauge
        counters = (
            ("vllm:num_preemptions", "Sequences preempted.", load.preemptions_total),
            ("proa_engine_steps", "Steps computed.", load.steps_total),
            ("proa_engine_steps_ahead", "Steps started before the last tokens were read.", load.steps_ahead_total),
            ("proa_engine_errors", "Steps that failed.", load.errors_total),
        )
        for name, text, value in counters:
            counter = CounterMetricFamily(name, text, None, labels)
            counter.add_metric(values, value)
            yield counter
