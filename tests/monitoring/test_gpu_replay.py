"""GPU panels and alerts against a replayed page of AMD's exporter: there is no AMD GPU here."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from proa_operator.monitoring import RULES

from tests.monitoring import queries
from tests.monitoring.live_prometheus import Prometheus, running
from tools.monitoring.boards import GPU

PAGE = Path(__file__).parents[1] / "testdata" / "monitoring" / "amd_exporter.prom"
DATA_SECONDS = 40.0


class _Exporter(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(PAGE.read_bytes())

    def log_message(self, *_: object) -> None:
        """Not on the terminal of the tests."""


@pytest.fixture(scope="module")
def prometheus(prometheus_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("gpu")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Exporter)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES / "*.yaml")],
        "scrape_configs": [
            {
                "job_name": "amd",
                "honor_labels": True,
                "static_configs": [{"targets": [f"127.0.0.1:{server.server_port}"]}],
            }
        ],
    }
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    with running(prometheus_program, path, folder / "data") as found:
        yield found
    server.shutdown()
    server.server_close()


def test_every_gpu_panel_has_data(prometheus: Prometheus) -> None:
    wanted = {where: queries.filled(expr) for where, expr in queries.of((GPU,)).items()}
    missing = prometheus.wait_for(list(wanted.values()), DATA_SECONDS)
    assert [where for where, expr in wanted.items() if expr in missing] == []


def test_healthy_gpus_raise_no_alert(prometheus: Prometheus) -> None:
    assert prometheus.get("alerts")["alerts"] == []
