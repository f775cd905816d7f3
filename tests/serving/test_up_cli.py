"""`proa` as a user types it: help, mistakes (one line, exit code 2, no traceback), validation."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
HEAD = "apiVersion: proa.dev/v1alpha1\nkind: DisaggregatedService\nmetadata: {name: x}\n"
PROA = Path(sys.executable).with_name("proa")
POOLS = "  pools: {prefill: {}, decode: {}}\n"


def _proa(*words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    argv = [sys.executable, "-m", "proa_operator.cli.main", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, env=environment, cwd=folder, check=False)


@pytest.mark.parametrize("command", ["up", "demo", "bench", "validate", "version"])
def test_every_command_is_listed_and_explains_itself(command: str) -> None:
    assert f" {command} " in _proa("--help").stdout
    answer = _proa(command, "--help")
    assert answer.returncode == 0
    assert "Usage: " in answer.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param("up none.yaml", "none.yaml: no such file; give the path", id="no file"),
        pytest.param("up bad.yaml", "bad.yaml: spec.pools: is missing; add it", id="bad manifest"),
        pytest.param("up vllm.yaml", "spec.engine.type: proa up does not run vllm yet", id="engine"),
        pytest.param("up model.yaml", "there is no bundled model no-such: use one of", id="unknown model"),
        pytest.param("up folder.yaml", "/no/such/folder is no folder: give the folder", id="missing checkpoint"),
        pytest.param("up hub.yaml", "proa up downloads nothing; download the checkpoint", id="hub"),
        pytest.param("up tiny.yaml --host nowhere.invalid", "nowhere.invalid is not an address", id="host"),
        pytest.param("up tiny.yaml --workers 2", "--workers sizes an aggregated service", id="contradiction"),
        pytest.param("up tiny.yaml --aggregated --decode 1", "use --workers instead", id="contradiction too"),
        pytest.param("validate bad.yaml", "bad.yaml: spec.pools: is missing; add it", id="validate"),
        pytest.param("validate --local vllm.yaml", "proa up does not run vllm yet", id="validate for up"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, words: str, message: str) -> None:
    native = "  engine: {type: native}\n"
    files = {
        "bad": 'spec:\n  model: {uri: "hf://o/m", name: x}\n',
        "vllm": 'spec:\n  model: {uri: "bundled://tiny-moe", name: x}\n' + POOLS,
        "model": 'spec:\n  model: {uri: "bundled://no-such", name: x}\n' + POOLS + native,
        "folder": 'spec:\n  model: {uri: "file:///no/such/folder", name: x}\n' + POOLS + native,
        "hub": 'spec:\n  model: {uri: "hf://org/model", name: x}\n' + POOLS + native,
        "tiny": 'spec:\n  model: {uri: "bundled://tiny-moe", name: x}\n' + POOLS + native,
    }
    for name, spec in files.items():
        (tmp_path / f"{name}.yaml").write_text(f"{HEAD}{spec}")
    answer = _proa(*words.split(), folder=tmp_path)
    assert answer.returncode == 2, answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
    assert message in answer.stderr


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = _proa("up", str(EXAMPLES / "tiny.yaml"), "--port", str(port))
    assert (answer.returncode, answer.stdout) == (2, "")
    assert (
        answer.stderr == f"error: port {port} on 127.0.0.1 is in use: stop what listens there, or give another --port\n"
    )


@pytest.mark.parametrize("words", ["up", "up a b", "up x.yaml --port 0", "up x.yaml --device tpu", "fly", "up --fast"])
def test_a_wrong_command_line(words: str) -> None:
    answer = _proa(*words.split())
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr


def test_validate_accepts_the_examples() -> None:
    answer = _proa("validate", str(EXAMPLES / "tiny.yaml"))
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.endswith("tiny is valid\n")


def test_version_names_its_parts() -> None:
    answer = _proa("version")
    assert answer.returncode == 0
    assert [line.split()[0] for line in answer.stdout.splitlines()] == ["proa", "smg", "torch", "vllm", "python"]


@pytest.mark.parametrize(
    ("typed", "offered"), [("u", "up\nundo"), ("v", "validate\nversion"), ("up --dr", "--dry-run")]
)
def test_completion(monkeypatch: pytest.MonkeyPatch, typed: str, offered: str) -> None:
    monkeypatch.setenv("_PROA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"proa {typed}")
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split())))
    answer = subprocess.run([PROA], capture_output=True, text=True, timeout=120, check=False)
    assert answer.stdout.strip() == offered
