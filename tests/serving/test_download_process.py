"""The process of the Job, against a double of the hub: killed, stopped, twice at once, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.download_double import (
    MODEL,
    NEEDED_BYTES,
    WEIGHTS,
    Double,
    Fault,
    is_whole,
    served,
)

SIZE = len(MODEL[WEIGHTS])
SECONDS = 60
SECRET = "hf_s3cret"


@pytest.fixture
def hub() -> Iterator[Double]:
    with served() as double:
        double.secret = f"Bearer {SECRET}"
        yield double


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models/checkpoint"


def start(hub: Double, target: Path, *more: str, **environment: str) -> subprocess.Popen[str]:
    given = {"HF_ENDPOINT": hub.url, "MODEL_TOKEN": SECRET, "PATH": os.environ["PATH"], **environment}
    flags = ["--uri", "hf://org/model", "--target", str(target), "--retry-seconds", "0.01", *more]
    command = [sys.executable, "-m", "proa_operator.model_download", *flags]
    return subprocess.Popen(command, env=given, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and the last line of stderr. Nothing may ever show the token, and nothing is on stdout."""
    out, err = process.communicate(timeout=SECONDS)
    assert out == ""
    assert SECRET not in err
    assert "signature" not in err
    assert "Traceback" not in err
    return process.returncode, err.strip().splitlines()[-1]


def test_a_killed_download_resumes(hub: Double, target: Path) -> None:
    half = SIZE // 2
    hub.plan(WEIGHTS, Fault(hold_after=half))
    first = start(hub, target, "--parallel", "1")
    assert hub.held.wait(SECONDS)
    part = target.parent / ".checkpoint.partial/files" / f"{WEIGHTS}.part"
    until(lambda: part.exists() and part.stat().st_size >= half)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=SECONDS)
    hub.release.set()
    assert not target.exists()
    code, _ = end(start(hub, target, "--lock-stale-seconds", "4"))
    assert code == 0
    assert is_whole(target)
    assert [seen.range for seen in hub.seen if seen.name == WEIGHTS] == ["", f"bytes={half}-"]
    assert hub.file_bytes == NEEDED_BYTES


def test_a_second_run_needs_no_hub(hub: Double, target: Path) -> None:
    assert end(start(hub, target))[0] == 0
    num_requests = len(hub.seen)
    assert end(start(hub, target, HF_ENDPOINT="http://127.0.0.1:9", MODEL_TOKEN=""))[0] == 0
    assert len(hub.seen) == num_requests


def test_signed_addresses_are_not_logged(hub: Double, target: Path) -> None:
    with served() as cdn:
        hub.cdn = cdn.url
        cdn.plan(f"cdn/{WEIGHTS}", Fault(status=503), Fault(cut_after=5))
        assert end(start(hub, target))[0] == 0
        assert {seen.authorization for seen in cdn.seen} == {""}
    assert is_whole(target)


def test_sigterm_ends_it_and_frees_the_lock(hub: Double, target: Path) -> None:
    hub.plan(WEIGHTS, Fault(hold_after=1000), Fault(status=503, headers={"Retry-After": "500"}))
    process = start(hub, target)
    assert hub.held.wait(SECONDS)
    process.send_signal(signal.SIGTERM)
    hub.release.set()
    code, line = end(process)
    assert (code, line) == (143, "error: stopped; the next run goes on from here")
    hub.faults.clear()
    assert end(start(hub, target, "--lock-stale-seconds", "600"))[0] == 0
    assert is_whole(target)


def test_two_at_once_download_once(hub: Double, target: Path) -> None:
    hub.plan(WEIGHTS, Fault(hold_after=1000))
    first = start(hub, target, "--lock-stale-seconds", "24")
    assert hub.held.wait(SECONDS)
    second = start(hub, target, "--lock-stale-seconds", "24")
    assert second.stderr is not None
    waiting = next(line for line in second.stderr if "waiting for another download" in line)
    assert json.loads(waiting)["holder"].startswith("held by ")
    hub.release.set()
    assert end(first)[0] == 0
    assert end(second)[0] == 0
    assert is_whole(target)
    assert hub.file_bytes <= NEEDED_BYTES + 1000
    assert [path.name for path in target.parent.iterdir()] == ["checkpoint"]


def test_many_at_once_end_with_one_model(hub: Double, target: Path) -> None:
    processes = [start(hub, target, "--lock-stale-seconds", "24") for _ in range(4)]
    assert [end(process)[0] for process in processes] == [0] * 4
    assert is_whole(target)
    assert hub.file_bytes == NEEDED_BYTES


def test_progress_is_served_while_it_lasts(hub: Double, target: Path) -> None:
    hub.plan(WEIGHTS, Fault(hold_after=SIZE // 2))
    process = start(hub, target, "--progress-port", "0", "--parallel", "1")
    assert hub.held.wait(SECONDS)
    assert process.stderr is not None
    port = next(json.loads(line)["port"] for line in process.stderr if '"port"' in line)
    held = NEEDED_BYTES - SIZE + SIZE // 2
    until(lambda: ask(port)["bytesDone"] >= held)
    assert ask(port) == {"phase": "downloading", "bytesDone": held, "bytesTotal": NEEDED_BYTES}
    hub.release.set()
    assert end(process)[0] == 0


def until(is_so: Callable[[], bool]) -> None:
    """Of another process, which tells of it by no other means."""
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ask(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


@pytest.mark.parametrize(
    ("name", "fault", "environment", "code", "line"),
    [
        (WEIGHTS, Fault(content=b"\0" * SIZE), {}, 2, f"error: {WEIGHTS}: sha256:.* is listed, but .* came .*"),
        ("list", Fault(status=404), {}, 2, "error: hf://org/model does not exist on .*: check spec.model.uri"),
        ("", Fault(), {"MODEL_TOKEN": ""}, 2, "error: .* is private: check the name or set spec.model.tokenSecretRef"),
        ("", Fault(), {"MODEL_TOKEN": "hf_other"}, 2, "error: the hub does not accept the token, .*"),
        ("", Fault(), {"HF_ENDPOINT": "http://127.0.0.1:9"}, 1, "error: 127.0.0.1: ConnectError .* gave up after 2 .*"),
        ("", Fault(), {"HF_ENDPOINT": "nonsense"}, 2, "error: HF_ENDPOINT is not an address such as https://HOST"),
    ],
    ids=["digest", "unknown", "no token", "other token", "no hub", "bad endpoint"],
)
def test_exit_codes_and_last_lines(
    hub: Double, target: Path, name: str, fault: Fault, environment: dict[str, str], code: int, line: str
) -> None:
    hub.plan(name, fault)
    found, last = end(start(hub, target, "--attempts", "2", **environment))
    assert found == code
    assert re.fullmatch(line, last)


def test_a_volume_that_cannot_be_written_is_explained(hub: Double, tmp_path: Path) -> None:
    code, line = end(start(hub, Path("/proc/models/checkpoint")))
    assert code != 0
    assert line.startswith("error: /proc/models")
