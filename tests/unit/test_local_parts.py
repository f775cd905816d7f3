"""The small pure parts of local mode."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from proa_operator.errors import PlanError
from proa_operator.local.backoff import Backoff
from proa_operator.local.child import State
from proa_operator.local.gpus import find_gpus
from proa_operator.local.model_folder import resolve
from proa_operator.local.ports import FreePorts, is_free, require_free
from proa_operator.local.process import GrpcServing, LocalPlan, Process, Role
from proa_operator.local.scrape import WorkerLoad, gauge_total, parse_load
from proa_operator.local.state_dir import default_state_dir
from proa_operator.local.supervise import stop_waves
from proa_operator.local.table import Row, table
from rich.console import Console

PAGE = """# HELP vllm:num_requests_running Requests in the batch.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} 2.0
vllm:num_requests_running{engine="1"} 3.0
vllm:num_requests_running_total 99.0
vllm:num_requests_waiting 1.0
vllm:kv_cache_usage_perc 0.25
"""


@pytest.mark.parametrize(("num_failures", "seconds"), [(1, 0.5), (2, 1.0), (5, 8.0), (7, 30.0), (10_000, 30.0)])
def test_backoff_doubles_to_its_cap(num_failures: int, seconds: float) -> None:
    assert Backoff().seconds(num_failures, lambda low, high: 0.0) == seconds


@pytest.mark.parametrize(("draw", "seconds"), [(min, 3.2), (max, 4.8)])
def test_backoff_jitter(draw: object, seconds: float) -> None:
    assert callable(draw)
    assert Backoff().seconds(4, lambda low, high: draw(low, high)) == pytest.approx(seconds)


def test_load_of_a_worker_is_summed_over_its_engines() -> None:
    assert parse_load(PAGE) == WorkerLoad(running=5, waiting=1, kv_usage=0.25)


def test_a_missing_metric_is_no_load() -> None:
    assert parse_load(PAGE.replace("kv_cache_usage_perc", "gpu_cache_usage_perc")) is None
    assert gauge_total(PAGE, "vllm:num_requests") is None


def _process(name: str, *needs: str) -> Process:
    return Process(
        name=name,
        role=Role.BOTH,
        argv=(),
        env=(),
        port=1,
        metrics_url="",
        ready=GrpcServing(address=""),
        needs=needs,
        drain_seconds=1,
    )


@pytest.mark.parametrize(
    ("processes", "waves"),
    [
        ([], []),
        ([_process("a"), _process("b")], [["a", "b"]]),
        ([_process("a"), _process("b"), _process("gateway", "a", "b")], [["gateway"], ["a", "b"]]),
        ([_process("a"), _process("b", "a"), _process("c", "b")], [["c"], ["b"], ["a"]]),
    ],
)
def test_what_nothing_needs_stops_first(processes: list[Process], waves: list[list[str]]) -> None:
    assert stop_waves(processes) == waves


def test_ports_in_use_are_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not is_free("127.0.0.1", port)
        with pytest.raises(PlanError, match=f"port {port} on 127.0.0.1 is in use: stop what listens there"):
            require_free("127.0.0.1", port)
    require_free("127.0.0.1", port)


def test_ports_are_given_once() -> None:
    ports = FreePorts("127.0.0.1", 20_000)
    given = [ports() for _ in range(20)]
    assert len(set(given)) == 20
    assert given == sorted(given)


@pytest.mark.parametrize(
    ("host", "message"), [("192.0.2.1", "cannot be listened on"), ("no such host", "is not an address")]
)
def test_host_of_another_machine(host: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        is_free(host, 20_000)


def test_no_port_is_left() -> None:
    ports = FreePorts("127.0.0.1", 32_767)
    ports()
    with pytest.raises(PlanError, match="no free port is left"):
        ports()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("bundled://no-such", "there is no bundled model no-such: use one of"),
        ("file:///no/such/folder", "is no folder: give the folder that holds config.json"),
        ("hf://org/model", "proa up downloads nothing"),
    ],
)
def test_model_that_is_not_here(uri: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        resolve(uri)


def test_model_folder_needs_a_config(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"holds no config\.json"):
        resolve(f"file://{tmp_path}")
    (tmp_path / "config.json").touch()
    assert resolve(f"file://{tmp_path}") == tmp_path


@pytest.mark.parametrize(
    ("environ", "devices", "gpus"),
    [
        ({}, "", None),
        ({}, "dev/nvidia0 dev/nvidia1 dev/nvidiactl dev/nvidia-uvm", ("CUDA_VISIBLE_DEVICES", "0 1")),
        ({}, "dev/kfd dev/dri/card0 dev/dri/renderD128", ("HIP_VISIBLE_DEVICES", "0")),
        ({}, "dev/dri/renderD128", None),
        ({"CUDA_VISIBLE_DEVICES": "3, 5"}, "dev/nvidia0", ("CUDA_VISIBLE_DEVICES", "3 5")),
        ({"CUDA_VISIBLE_DEVICES": ""}, "dev/nvidia0", None),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, "dev/nvidia0", None),
        ({"HIP_VISIBLE_DEVICES": "7"}, "", ("HIP_VISIBLE_DEVICES", "7")),
    ],
)
def test_gpus_of_a_machine(tmp_path: Path, environ: dict[str, str], devices: str, gpus: tuple[str, str] | None) -> None:
    (tmp_path / "dev" / "dri").mkdir(parents=True)
    for device in devices.split():
        (tmp_path / device).touch()
    found = find_gpus(environ, tmp_path)
    assert (found and (found.variable, " ".join(found.ids))) == gpus


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"XDG_STATE_HOME": "/state"}, "/state/proa/tiny-8000"),
        ({"HOME": "/home/me"}, "/home/me/.local/state/proa/tiny-8000"),
    ],
)
def test_state_dir(environ: dict[str, str], folder: str) -> None:
    assert default_state_dir(environ, service="tiny", port=8000) == Path(folder)


def test_table_fits_a_terminal_of_80_columns() -> None:
    load = WorkerLoad(running=12, waiting=3, kv_usage=0.421)
    shared = {"port": 8101, "num_restarts": 1}
    rows = [
        Row(name="prefill-0", state=State.SERVING, pid=123456, load=load, **shared),
        Row(name="gateway", state=State.BACKOFF, pid=None, load=None, **shared),
    ]
    plan = LocalPlan(
        service="tiny", model_name="tiny-moe", url="http://127.0.0.1:8000", state_dir=Path("/state"), processes=()
    )
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table(rows, plan))
    lines = capture.get().splitlines()
    assert "tiny" in lines[0]
    assert lines[-3].split() == ["prefill-0", "serving", "123456", "8101", "12", "3", "42%", "1"]
    assert lines[-2].split() == ["gateway", "backoff", "-", "8101", "1"]
