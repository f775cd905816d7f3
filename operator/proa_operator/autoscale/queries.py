"""What is asked of Prometheus: one query for each signal, for all services at once.

Each query names all spellings of a metric (`aliases`), newest first; where a pod has both the newer counts. A signal of
which no spelling is there is missing, never zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from proa_operator.autoscale.aliases import spellings
from proa_operator.autoscale.signals import Spans

SCRAPE_SECONDS = 15.0
"""Of the PodMonitors that the operator renders."""
_GROUPS = "namespace, service, role"
CLIENT_PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages", "/generate")
"""Of the gateway; others are not work for the pools."""
_ANY_PATH = "|".join(CLIENT_PATHS)


class Form(StrEnum):
    """How the series of a service and role become one number."""

    SUM = "sum"
    """Of a gauge now."""
    MEAN = "mean"
    """Of a gauge over the window and the pods."""
    TOTAL = "total"
    """Sum over the pods of a gauge's mean over the window."""
    RATE = "rate"
    """Sum of the growths of counters, per second."""
    BUCKETS = "buckets"
    """The same of a histogram's buckets, by upper bound."""
    PODS = "pods"
    """Pods that were scraped lately."""
    NEWBORN = "newborn"
    """Sum of counters that a pod, known before, has had for less than the window: a rate misses their first value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One signal."""

    name: str
    form: Form
    metrics: tuple[str, ...]
    """Spellings, newest first."""
    matchers: str = ""
    is_quick: bool = False
    """Over the short window: it has to follow a step of the load."""
    witnesses: tuple[str, ...] = ()
    """Of a newborn: metrics that tell that its pod was known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Seconds."""

    quick: float = 3 * SCRAPE_SECONDS
    slow: float = 3 * SCRAPE_SECONDS
    """A series that ends is seen for so long: with a period of 15 s, it is missed within a minute."""
    stale: float = 3 * SCRAPE_SECONDS
    """A series whose last sample is older does not count."""

    @property
    def spans(self) -> Spans:
        """What the load that is read with these windows is a mean over."""
        return Spans(arrivals=self.quick, lengths=self.slow)


_CLIENTS = f'method="POST",path=~"{_ANY_PATH}"'
ARRIVALS = Query(
    name="arrivals", form=Form.RATE, metrics=("smg_http_requests_total",), matchers=_CLIENTS, is_quick=True
)
# NOTE: smg has no series of requests before the first one, and does not count probes of its health port.
_OF_ANY_GATEWAY = ("smg_tokio_workers", "smg_http_requests_total")
FIRST_ARRIVALS = Query(
    name="first arrivals",
    form=Form.NEWBORN,
    metrics=("smg_http_requests_total",),
    matchers=_CLIENTS,
    witnesses=_OF_ANY_GATEWAY,
)
GATEWAYS = Query(name="gateway pods", form=Form.PODS, metrics=_OF_ANY_GATEWAY)
TTFT = Query(name="time to first token", form=Form.BUCKETS, metrics=("smg_pd_ttft_seconds", "smg_router_ttft_seconds"))
WORKERS = Query(name="worker pods", form=Form.PODS, metrics=("vllm:num_requests_running",))
RUNNING = Query(name="running", form=Form.TOTAL, metrics=("vllm:num_requests_running",))
WAITING = Query(name="waiting", form=Form.SUM, metrics=("vllm:num_requests_waiting",))
KV_USAGE = Query(name="KV usage", form=Form.MEAN, metrics=spellings("vllm:kv_cache_usage_perc"))
PROMPTS = Query(name="prompt lengths", form=Form.BUCKETS, metrics=("vllm:request_prompt_tokens",))
PROMPTS_SUM = Query(name="prompt tokens", form=Form.RATE, metrics=("vllm:request_prompt_tokens_sum",))
OUTPUTS = Query(name="output lengths", form=Form.BUCKETS, metrics=("vllm:request_generation_tokens",))
OUTPUTS_SUM = Query(name="output tokens", form=Form.RATE, metrics=("vllm:request_generation_tokens_sum",))
LOOKUPS = Query(name="prefix lookups", form=Form.RATE, metrics=spellings("vllm:prefix_cache_queries_total"))
HITS = Query(name="prefix hits", form=Form.RATE, metrics=spellings("vllm:prefix_cache_hits_total"))
PREFILL_SUM = Query(name="prefill seconds", form=Form.RATE, metrics=("vllm:request_prefill_time_seconds_sum",))
PREFILL_COUNT = Query(name="prefills", form=Form.RATE, metrics=("vllm:request_prefill_time_seconds_count",))
ITL = Query(name="time between tokens", form=Form.BUCKETS, metrics=spellings("vllm:inter_token_latency_seconds"))
ITL_SUM = Query(
    name="seconds between tokens", form=Form.RATE, metrics=spellings("vllm:inter_token_latency_seconds", "_sum")
)
TRANSFER_SUM = Query(
    name="hand-off seconds",
    form=Form.RATE,
    metrics=("proa_kv_transfer_seconds_sum", "vllm:nixl_xfer_time_seconds_sum"),
)
TRANSFER_COUNT = Query(
    name="hand-offs",
    form=Form.RATE,
    metrics=("proa_kv_transfer_seconds_count", "vllm:nixl_xfer_time_seconds_count"),
)
TRANSFER_BYTES = Query(
    name="hand-off bytes",
    form=Form.RATE,
    metrics=("proa_kv_transfer_bytes_total", "vllm:nixl_bytes_transferred_sum"),
)
TRANSFER_FAILURES = Query(
    name="failed hand-offs",
    form=Form.RATE,
    metrics=("proa_kv_transfer_failures_total", "vllm:nixl_num_failed_transfers_total"),
)
ALL = (
    *(ARRIVALS, FIRST_ARRIVALS, GATEWAYS, TTFT, WORKERS, RUNNING, WAITING, KV_USAGE),
    *(PROMPTS, PROMPTS_SUM, OUTPUTS, OUTPUTS_SUM, LOOKUPS, HITS, PREFILL_SUM, PREFILL_COUNT, ITL, ITL_SUM),
    *(TRANSFER_SUM, TRANSFER_COUNT, TRANSFER_BYTES, TRANSFER_FAILURES),
)


def promql(query: Query, windows: Windows) -> str:
    """The query for all services, `by (namespace, service, role)`."""
    window = f"[{_seconds(windows.quick if query.is_quick else windows.slow)}]"
    series = [f"{_metric(name, query.form)}{{{query.matchers}}}" for name in query.metrics]
    stale = f"{windows.stale:g}"
    match query.form:
        case Form.SUM:
            return f"sum by ({_GROUPS}) ({' or '.join(series)})"
        case Form.MEAN:
            return f"avg by ({_GROUPS}) ({_each('avg_over_time', series, window)})"
        case Form.TOTAL:
            return f"sum by ({_GROUPS}) ({_each('avg_over_time', series, window)})"
        case Form.RATE:
            return f"sum by ({_GROUPS}) ({_each('rate', series, window)})"
        case Form.BUCKETS:
            return f"sum by ({_GROUPS}, le) ({_each('rate', series, window)})"
        case Form.PODS:
            fresh = " or ".join(f"(time() - timestamp({one}) < {stale})" for one in series)
            return f"count by ({_GROUPS}) (count by ({_GROUPS}, pod) ({fresh}))"
        case Form.NEWBORN:
            ago = f"offset {window[1:-1]}"
            old = " or ".join(f"{one} {ago}" for one in series)
            known = " or ".join(f"{name} {ago}" for name in query.witnesses)
            born = f"(({' or '.join(series)}) unless ({old}))"
            return f"sum by ({_GROUPS}) ({born} and on (namespace, service, pod) ({known}))"


def _metric(name: str, form: Form) -> str:
    return f"{name}_bucket" if form is Form.BUCKETS else name


def _each(function: str, series: list[str], window: str) -> str:
    return " or ".join(f"{function}({one}{window})" for one in series)


def _seconds(number: float) -> str:
    """Prometheus knows whole milliseconds."""
    return f"{round(number)}s" if number >= 1.0 and number == round(number) else f"{round(number * 1000)}ms"
