"""`proa up` and `proa demo` with the bundled model and real workers, started and stopped as a user does it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from proa_operator.local.ports import FreePorts

TINY = Path(__file__).parents[2] / "examples" / "tiny.yaml"
PROA = Path(sys.executable).with_name("proa")
FIRST_PORT = 6_100 + os.getpid() % 150 * 20
START_SECONDS = 120.0


@pytest.fixture(scope="module")
def next_port() -> FreePorts:
    return FreePorts("127.0.0.1", FIRST_PORT)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "XDG_STATE_HOME": str(tmp_path), "COLUMNS": "80", "OMP_NUM_THREADS": "1"}


def _read(terminal: int, seconds: float) -> Iterator[str]:
    """What a process writes on its terminal, until it ends or the deadline passes."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([terminal], [], [], left)[0]:
            return
        try:
            yield os.read(terminal, 65536).decode(errors="replace")
        except OSError:  # Linux' way to say that the other side was closed
            return


def _read_until(terminal: int, wanted: str) -> str:
    seen = ""
    for piece in _read(terminal, START_SECONDS):
        seen += piece
        if wanted in seen:
            return seen
    raise AssertionError(f"{wanted!r} did not appear in {seen[-3000:]}")


def test_demo_answers_and_ends(environ: dict[str, str], next_port: FreePorts) -> None:
    answer = subprocess.run(
        [PROA, "demo", "--once", "--port", str(next_port())],
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        env=environ,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "sailing" in answer.stdout
    assert re.search(r"TTFT \d+ ms, \d+ tokens/s \(\d+ tokens\)", answer.stdout)


@pytest.mark.parametrize("pools", ["--aggregated", "--prefill 1 --decode 2"])
def test_up_once(environ: dict[str, str], next_port: FreePorts, pools: str) -> None:
    answer = subprocess.run(
        [PROA, "up", str(TINY), "--once", "--port", str(next_port()), *pools.split()],
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        env=environ,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "tiny-moe is served at" in answer.stdout


def test_up_on_a_terminal_until_ctrl_c(environ: dict[str, str], next_port: FreePorts) -> None:
    port = next_port()
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [PROA, "up", str(TINY), "--port", str(port)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environ, "TERM": "xterm"},  # on a dumb terminal there is no table, only lines
        process_group=0,
    ) as proa:
        try:
            os.close(theirs)
            shown = _read_until(ours, "tiny-moe is served at")
            assert _ask(port).strip()
            shown += _read_until(ours, "serving")
            os.killpg(proa.pid, signal.SIGINT)
            shown += "".join(_read(ours, 60.0))
            assert proa.wait(60.0) == 0
        finally:
            proa.kill()
    os.close(ours)
    assert "decode-0" in shown
    assert "KV used" in shown
    assert "Traceback" not in shown


def _ask(port: int) -> str:
    body = {"model": "tiny-moe", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        content = json.load(answer)["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content


def test_a_worker_that_refuses_its_settings_ends_up(
    environ: dict[str, str], next_port: FreePorts, tmp_path: Path
) -> None:
    manifest = tmp_path / "odd.yaml"
    manifest.write_text(TINY.read_text().replace("256MiB", "lots"))
    answer = subprocess.run(
        [PROA, "up", str(manifest), "--port", str(next_port())],
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        env=environ,
        check=False,
    )
    assert answer.returncode == 2
    assert len(answer.stderr.strip().splitlines()) == 1
    assert "proa-worker: " in answer.stderr
    assert "kv-cache-memory" in answer.stderr
