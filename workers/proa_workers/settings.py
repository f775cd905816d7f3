"""Settings of one worker process: flags and PROA_* variables, parsed once into a frozen value.

A flag wins over its variable (`--kv-port` over `PROA_KV_PORT`); an unknown variable, a bad value or a contradiction
stops the start with exit code 2 and one line.
"""

from __future__ import annotations

import argparse
import math
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_type_hints

from proa_workers.errors import SettingsError

Role = Literal["prefill", "decode", "both"]
ENV_PREFIX = "PROA_"
TEST_PREFIX = "PROA_TEST_"  # settings of the test suite, not of a worker
_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Ports: 50051 serves the gateway, `kv_*` the peers, `admin_port` the operator, `metrics_port` Prometheus."""

    model: str
    role: Role = "both"
    engine: Literal["native", "sim"] = "native"
    served_model_name: str = ""
    engine_id: str = ""
    host: str = "127.0.0.1"
    port: int = 50051
    kv_port: int = 50052
    kv_data_port: int = 50053
    admin_port: int = 50054
    metrics_port: int = 9100
    advertise_host: str = ""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    block_size: int = 16
    kv_cache_memory: int = 0
    num_kv_blocks: int = 0
    max_model_len: int = 0
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    max_num_waiting: int = 1024
    prefix_cache: bool = True
    transport: Literal["auto", "shm", "tcp"] = "auto"
    lease_seconds: float = 30.0
    unclaimed_lease_seconds: float = 10.0
    kv_failure_policy: Literal["recompute", "fail"] = "recompute"
    drain_timeout_seconds: float = 600.0
    log_format: Literal["text", "json"] = "text"
    pairing_protocol: str = ""
    sim_profile: str = ""
    sim_speed: float = 1.0
    profile: str = ""
    profile_seconds: float = 120.0


_HELP = {
    "model": "folder of a Hugging Face checkpoint (config.json, *.safetensors, tokenizer.json)",
    "role": "pool that this worker belongs to",
    "engine": "native computes the model; sim plays a cost model with deterministic tokens",
    "served_model_name": "name in the OpenAI API (default: the folder's name)",
    "engine_id": "stable name of this worker (default: host:kv-port)",
    "host": "address to listen on",
    "port": "VllmEngine gRPC, health, reflection",
    "kv_port": "KvControl gRPC",
    "kv_data_port": "data plane of the tcp transport",
    "admin_port": "WorkerAdmin gRPC",
    "metrics_port": "Prometheus /metrics",
    "advertise_host": "address that peers use (default: host)",
    "dtype": "auto: float32 on a CPU, the checkpoint's own on a GPU",
    "device": "auto: a GPU when there is one",
    "block_size": "tokens a KV block holds",
    "kv_cache_memory": "size of the KV pool, e.g. 512MiB (0: 1 GiB on a CPU, 85 % of the free memory of a GPU)",
    "num_kv_blocks": "number of KV blocks instead of a size (0: use the size)",
    "max_model_len": "longest prompt plus output in tokens (0: the model's own)",
    "max_num_seqs": "sequences that run at once",
    "max_num_batched_tokens": "tokens one step computes at most; longer prompts are chunked",
    "max_num_waiting": "requests that may wait before new ones are refused with RESOURCE_EXHAUSTED",
    "prefix_cache": "reuse KV blocks of equal prefixes: true or false",
    "transport": "how KV blocks move; auto: shm within one host, tcp else",
    "lease_seconds": "how long a claimed hand-off may take without a renewal",
    "unclaimed_lease_seconds": "how long a hand-off waits for its decode worker",
    "kv_failure_policy": "when a hand-off fails: recompute the prompt, or fail the request",
    "drain_timeout_seconds": "longest drain after SIGTERM",
    "log_format": "text or json lines on stderr",
    "pairing_protocol": "prefill and decode workers pair only when equal (also SMG_PAIRING_PROTOCOL)",
    "sim_profile": "cost model of the sim engine (YAML); empty: the built-in example",
    "sim_speed": "modelled seconds that pass in one real second",
    "profile": "measure the engine, write its cost model into this file, and end (`proa profile` uses it)",
    "profile_seconds": "how long to measure at most, without the load of the model",
}


_TYPES = get_type_hints(Settings)
_READ: dict[Any, tuple[Callable[[str], Any], str]] = {
    bool: ({"true": True, "false": False}.__getitem__, "true or false"),
    int: (int, "a whole number"),
    float: (float, "a number"),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message}; see proa-worker --help")


def parse_settings(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Settings from flags over PROA_* variables over defaults; SettingsError names the setting and the fix."""
    parser = _build_parser()
    pairing = {"pairing_protocol": environ.get("SMG_PAIRING_PROTOCOL", "")}
    chosen = (
        pairing | _from_environ(environ) | {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None}
    )
    if not chosen.get("model"):
        raise SettingsError("no model: give --model FOLDER (or PROA_MODEL)")
    settings = Settings(**{name: _convert(name, value) for name, value in chosen.items()})
    _check(settings)
    return _fill(settings)


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="proa-worker", description="Serve one engine over gRPC.", allow_abbrev=False)
    for field in fields(Settings):
        shown = "" if field.name in ("model", "kv_cache_memory") else f" (default: {field.default!r})"
        help_text = _HELP[field.name] + ("" if "default" in _HELP[field.name] else shown)
        parser.add_argument(_flag(field.name), help=help_text.replace("%", "%%"), metavar=field.name.upper())
    return parser


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    names = {ENV_PREFIX + field.name.upper(): field.name for field in fields(Settings)}
    ours = [name for name in environ if name.startswith(ENV_PREFIX) and not name.startswith(TEST_PREFIX)]
    unknown = sorted(name for name in ours if name not in names)
    if unknown:
        raise SettingsError(f"unknown settings: {', '.join(unknown)}; known ones are PROA_<FLAG> of proa-worker --help")
    return {names[key]: value for key, value in environ.items() if key in names}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _convert(name: str, text: str) -> Any:
    """Value of a setting from its text, by the type of its field."""
    kind = _TYPES[name]
    if name == "kv_cache_memory":
        return _bytes(text)
    if kind in _READ:
        read, wanted = _READ[kind]
        try:
            return read(text)
        except (KeyError, ValueError):
            raise SettingsError(f"{_flag(name)} wants {wanted}, got {text!r}") from None
    choices = get_args(kind)
    if choices and text not in choices:
        raise SettingsError(f"{_flag(name)} must be one of {', '.join(choices)}; got {text!r}")
    return text


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([KMGT]iB)?", text.strip())
    if not match:
        raise SettingsError(f"--kv-cache-memory wants a size such as 512MiB or 8GiB, got {text!r}")
    return int(match[1]) * _UNITS[match[2] or ""]


def _check(s: Settings) -> None:
    ports = {name: getattr(s, name) for name in ("port", "kv_port", "kv_data_port", "admin_port", "metrics_port")}
    for name, port in ports.items():
        if not 1 <= port <= 65535:
            raise SettingsError(f"{_flag(name)} must be in 1..65535, got {port}")
    if len(set(ports.values())) < len(ports):
        raise SettingsError(f"two ports are equal: {', '.join(f'{_flag(n)} {p}' for n, p in ports.items())}")
    for name in ("block_size", "max_num_seqs", "max_num_batched_tokens", "max_num_waiting"):
        if getattr(s, name) < 1:
            raise SettingsError(f"{_flag(name)} must be at least 1, got {getattr(s, name)}")
    for name in ("lease_seconds", "unclaimed_lease_seconds", "drain_timeout_seconds", "sim_speed", "profile_seconds"):
        if not 0 < getattr(s, name) < math.inf:  # also for nan
            raise SettingsError(f"{_flag(name)} must be a number above 0, got {getattr(s, name)}")
    if s.max_model_len < 0 or s.num_kv_blocks < 0:
        raise SettingsError("--max-model-len and --num-kv-blocks must not be negative (0 chooses for you)")
    if s.num_kv_blocks and s.kv_cache_memory:
        raise SettingsError("--num-kv-blocks and --kv-cache-memory both size the KV pool: give one of them")
    _check_sim(s)


def _check_sim(s: Settings) -> None:
    if s.sim_profile and s.engine != "sim":
        raise SettingsError("--sim-profile works with --engine sim only")
    if s.profile and s.sim_speed != 1:
        raise SettingsError("--profile measures in real time: drop --sim-speed")
    if s.engine == "sim" and s.device == "cuda":
        raise SettingsError("--engine sim computes nothing: drop --device cuda")


def _fill(s: Settings) -> Settings:
    """Derived defaults: names and the address that peers use."""
    host = s.advertise_host or (socket.gethostname() if s.host == "0.0.0.0" else s.host)
    return replace(
        s,
        served_model_name=s.served_model_name or Path(s.model).resolve().name,
        advertise_host=host,
        engine_id=s.engine_id or f"{host}:{s.kv_port}",
    )
