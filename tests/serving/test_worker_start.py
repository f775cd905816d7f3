"""Users' mistakes at the start of `proa-worker`: exit code 2 and one line that says what to do."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from pathlib import Path

import pytest
from proa_operator.local.ports import FreePorts
from proa_workers import main as worker_main

MODEL = Path(__file__).resolve().parents[2] / "examples/models/tiny-moe"
FLAGS = ("port", "kv-port", "kv-data-port", "admin-port", "metrics-port")
next_port = FreePorts("127.0.0.1", 28000)


def corrupt(folder: Path, how: str) -> None:
    if how == "no config":
        (folder / "config.json").unlink()
    elif how == "unknown architecture":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "architectures": ["GptForCausalLM"]}))
    elif how == "bad json":
        (folder / "config.json").write_text("{")
    elif how == "truncated":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100_000])
    elif how == "no weights":
        (folder / "model.safetensors").unlink()
    elif how == "mis-shaped":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "hidden_size": config["hidden_size"] * 2}))
    else:
        (folder / "tokenizer.json").write_text("[]")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no config", "config.json"),
        ("unknown architecture", "GptForCausalLM"),
        ("bad json", "config.json"),
        ("truncated", "model.safetensors"),
        ("no weights", "safetensors"),
        ("mis-shaped", "shape"),
        ("bad tokenizer", "tokenizer.json"),
    ],
)
def test_bad_checkpoints_exit_2_with_one_line(tmp_path, monkeypatch, capsys, how: str, message: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    corrupt(folder, how)
    assert message in exit_2(monkeypatch, capsys, "--model", str(folder), "--device", "cpu")


@pytest.mark.parametrize("flag", FLAGS)
def test_port_in_use_exits_2_with_one_line(flag: str, monkeypatch, capsys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = exit_2(monkeypatch, capsys, "--model", str(MODEL), f"--{flag}", port)
    assert f"--{flag} 127.0.0.1:{port} cannot be used" in line


def test_missing_model_folder_exits_2_with_one_line(monkeypatch, capsys) -> None:
    assert "model folder nowhere does not exist" in exit_2(monkeypatch, capsys, "--model", "nowhere")


def exit_2(monkeypatch, capsys, *args: str) -> str:
    ports = [word for flag in FLAGS for word in (f"--{flag}", str(next_port()))]
    monkeypatch.setattr(sys, "argv", ["proa-worker", *ports, *args])
    for name in [name for name in os.environ if name.startswith("PROA_")]:
        monkeypatch.delenv(name)
    with pytest.raises(SystemExit) as caught:
        worker_main.main()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("proa-worker:")]
    assert caught.value.code == 2
    assert len(lines) == 1
    return lines[0]
