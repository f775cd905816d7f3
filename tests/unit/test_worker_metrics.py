"""The scrape endpoint keeps vLLM's names, whatever format the scraper asks for."""

from __future__ import annotations

from typing import Any

import pytest
from proa_workers.metrics import Metrics, as_text
from prometheus_client import make_wsgi_app


def scraped(app: Any, accept: str) -> str:
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "QUERY_STRING": "", "HTTP_ACCEPT": accept}
    return b"".join(app(environ, lambda *_: None)).decode()


@pytest.mark.parametrize("accept", ["", "text/plain", "application/openmetrics-text;version=1.0.0,*/*;q=0.1"])
def test_colons_stay_in_names(accept: str) -> None:
    metrics = Metrics("m")
    metrics.generation_tokens.inc(3)
    page = scraped(as_text(make_wsgi_app(metrics.registry)), accept)
    assert 'vllm:generation_tokens_total{engine="0",model_name="m"} 3.0' in page
    assert "\nvllm_" not in page
