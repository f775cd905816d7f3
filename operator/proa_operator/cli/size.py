"""`proa size`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from proa_operator.autoscale.config import Config, Limits, Objectives, Policy, PoolLimits, Stance
from proa_operator.autoscale.demand import Demand
from proa_operator.autoscale.estimate import GPUS, SHAPES, Shape, estimate, least_group
from proa_operator.autoscale.models import GroupModel
from proa_operator.autoscale.queries import Windows
from proa_operator.autoscale.signals import LengthBucket
from proa_operator.autoscale.solve import Need, Prediction, need_of, predict
from proa_operator.cli.size_manifest import Sized, manifests
from proa_operator.errors import UserError

_MOST = 64
_STEPS = 40


def size(
    model: Annotated[str, typer.Argument(help="A known checkpoint, such as Qwen/Qwen3-235B-A22B.", show_default=False)],
    gpu: Annotated[str, typer.Option(help=f"GPU: {', '.join(GPUS)}.", show_default=False)],
    ttft: Annotated[int, typer.Option(min=1, help="Objective of the time to the first token, in ms.")] = 500,
    itl: Annotated[int, typer.Option(min=1, help="Objective of the time between tokens, in ms.")] = 40,
    rate: Annotated[float, typer.Option(min=0.001, help="Requests a second.")] = 1.0,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of a prompt, in the mean.")] = 1024,
    output: Annotated[int, typer.Option(min=1, help="Tokens of an answer, in the mean.")] = 256,
    percentile: Annotated[int, typer.Option(min=50, max=99, help="Percentile at which both must hold.")] = 95,
) -> None:
    """Write a manifest for a model, a GPU and two objectives, with the margins that it leaves.

    The speeds are estimates from data sheets, and labelled so; `proa profile` measures. Two documents are printed: the
    DisaggregatedService and the PerformanceProfile that it was sized with.
    """
    shape, sheet = _shape(model), GPUS.get(gpu)
    if sheet is None:
        raise UserError(f"--gpu {gpu}: known are {', '.join(GPUS)}; for another one measure with proa profile")
    num_gpus = least_group(shape, sheet)
    if num_gpus is None:
        raise UserError(f"{model} does not fit 32 {gpu}: choose a GPU with more memory")
    config = _config(
        shape, num_gpus, gpu, Objectives(ttft_seconds=ttft / 1e3, itl_seconds=itl / 1e3, percentile=percentile / 100)
    )
    demand = Demand(requests_per_second=rate, hit_rate=0.0, lengths=_lengths(prompt, output))
    need = need_of(demand, GroupModel(), config)
    if need.unmet is not None:
        raise UserError(_unmet(need, demand, config, num_gpus))
    if max(need.prefill, need.decode) > _MOST:
        raise UserError(
            f"{need.prefill} + {need.decode} groups are needed, more than {_MOST} of a kind: split the load"
        )
    sized = Sized(
        shape=shape,
        gpu=gpu,
        num_gpus=num_gpus,
        need=need,
        config=config,
        demand=demand,
        predicted=predict(demand, GroupModel(), config, need.prefill, need.decode),
        headroom=_headroom(demand, config, need),
    )
    typer.echo(manifests(sized), nl=False)


def _shape(model: str) -> Shape:
    name = model.removeprefix("hf://")
    if name not in SHAPES:
        raise UserError(f"{model} is not a known checkpoint ({', '.join(SHAPES)}): measure it with proa profile")
    return SHAPES[name]


def _config(shape: Shape, num_gpus: int, gpu: str, slo: Objectives) -> Config:
    speed = estimate(shape, GPUS[gpu], num_gpus)
    pool = PoolLimits(min=1, max=_MOST, gpus_per_group=num_gpus)
    policy = Policy(
        stance=Stance.ADVISORY,
        period_seconds=15.0,
        up_window_seconds=30.0,
        down_window_seconds=300.0,
        pin_seconds=600.0,
    )
    return Config(
        service=shape.name,
        is_aggregated=False,
        limits=Limits(prefill=pool, decode=pool, ratio_min=1 / _MOST, ratio_max=float(_MOST), max_gpus=0),
        slo=slo,
        policy=policy,
        spans=Windows().spans,
        prefill=speed,
        decode=speed,
        has_profile=True,
    )


def _lengths(prompt: int, output: int) -> tuple[LengthBucket, ...]:
    """Most requests are shorter than the mean, some four times as long."""
    parts = ((0.25, 0.4), (0.8, 0.35), (1.6, 0.15), (3.8, 0.1))
    mean = sum(scale * weight for scale, weight in parts)
    return tuple(
        LengthBucket(prompt_tokens=prompt * scale / mean, output_tokens=float(output), weight=weight)
        for scale, weight in parts
    )


def _headroom(demand: Demand, config: Config, need: Need) -> float:
    """Share by which the load may grow before another group is needed."""
    low, high = 1.0, 8.0
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        grown = need_of(replace(demand, requests_per_second=middle * demand.requests_per_second), GroupModel(), config)
        if grown.prefill <= need.prefill and grown.decode <= need.decode:
            low = middle
        else:
            high = middle
    return low - 1.0


def _unmet(need: Need, demand: Demand, config: Config, num_gpus: int) -> str:
    best: Prediction = predict(replace(demand, requests_per_second=1e-6), GroupModel(), config, _MOST, _MOST)
    alone = best.ttft_seconds if need.unmet == "slo.ttftMs" else best.itl_seconds
    option = "--ttft" if need.unmet == "slo.ttftMs" else "--itl"
    seconds = f"{alone * 1e3:.0f} ms" if alone is not None else "more"
    return f"{option} cannot be met by groups of {num_gpus} GPUs: a request alone takes {seconds}; raise {option}"
