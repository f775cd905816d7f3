"""Worker settings: precedence, and one clear line for each mistake."""

from __future__ import annotations

import subprocess
import sys

import pytest
from proa_workers.errors import SettingsError
from proa_workers.settings import parse_settings


def test_flags_win_over_variables_over_defaults() -> None:
    settings = parse_settings(["--model", "m", "--port", "7"], {"PROA_PORT": "8", "PROA_KV_PORT": "9", "HOME": "/x"})
    assert (settings.port, settings.kv_port, settings.admin_port) == (7, 9, 50054)


def test_derived_names() -> None:
    settings = parse_settings(["--model", "/models/tiny", "--kv-port", "9"], {"SMG_PAIRING_PROTOCOL": "r1"})
    assert (settings.served_model_name, settings.engine_id) == ("tiny", "127.0.0.1:9")
    assert settings.pairing_protocol == "r1"


@pytest.mark.parametrize(("text", "size"), [("1KiB", 1024), ("3 MiB", 3 * 2**20), ("2GiB", 2 * 2**30), ("77", 77)])
def test_sizes(text: str, size: int) -> None:
    assert parse_settings(["--model", "m", "--kv-cache-memory", text], {}).kv_cache_memory == size


@pytest.mark.parametrize(
    ("argv", "environ", "message"),
    [
        ([], {}, "no model: give --model FOLDER"),
        (["--model", "m", "--role", "king"], {}, "--role must be one of prefill, decode, both; got 'king'"),
        (["--model", "m", "--port", "x"], {}, "--port wants a whole number, got 'x'"),
        (["--model", "m", "--port", "0"], {}, "--port must be in 1..65535"),
        (["--model", "m", "--port", "50052"], {}, "two ports are equal"),
        (["--model", "m", "--prefix-cache", "True"], {}, "--prefix-cache wants true or false"),
        (["--model", "m", "--kv-cache-memory", "1GB"], {}, "--kv-cache-memory wants a size such as 512MiB"),
        (["--model", "m", "--lease-seconds", "0"], {}, "--lease-seconds must be a number above 0"),
        (["--model", "m", "--lease-seconds", "nan"], {}, "--lease-seconds must be a number above 0, got nan"),
        (["--model", "m", "--block-size", "0"], {}, "--block-size must be at least 1"),
        (["--model", "m", "--num-kv-blocks", "-1"], {}, "must not be negative"),
        (["--model", "m", "--num-kv-blocks", "9", "--kv-cache-memory", "1GiB"], {}, "both size the KV pool"),
        (["--model", "m", "--sim-profile", "f"], {}, "--sim-profile works with --engine sim only"),
        (["--model", "m", "--engine", "sim", "--device", "cuda"], {}, "drop --device cuda"),
        (["--model", "m", "--prot", "1"], {}, "unrecognized arguments: --prot 1; see proa-worker --help"),
        (["--model", "m"], {"PROA_PROT": "1"}, "unknown settings: PROA_PROT"),
    ],
)
def test_each_mistake_is_named_with_its_fix(argv: list[str], environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_settings(argv, environ)


def test_process_exits_2_with_one_line() -> None:
    command = [sys.executable, "-m", "proa_workers.main", "--model", "m", "--role", "king"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "proa-worker: --role must be one of prefill, decode, both; got 'king'\n",
    )
