"""The options of `proa bench`: names, help texts and groups."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from proa_operator.bench.client import Api

LOAD, GOODPUT, COMPARISON, OUTPUT = "Load", "Goodput", "Comparison", "Output"

Url = Annotated[str, Option(help="OpenAI endpoint, as http://127.0.0.1:8000.")]
Model = Annotated[str | None, Option(help="Model name. Default: the only one that the endpoint lists.")]
ApiChoice = Annotated[Api, Option(help="Which API to call.")]
Timeout = Annotated[float, Option(help="Seconds that one request may take.", min=0.001)]

Workload = Annotated[str, Option(help="8k1k, 1k1k, chat, summarize, reason or trace.", rich_help_panel=LOAD)]
Concurrency = Annotated[int | None, Option(help="Closed loop: requests in flight (8).", rich_help_panel=LOAD)]
Rate = Annotated[float | None, Option(help="Open loop: Poisson arrivals per second.", rich_help_panel=LOAD)]
Sweep = Annotated[str | None, Option(help="Closed loop at each of these, as 1,2,4,8.", rich_help_panel=LOAD)]
Requests = Annotated[int | None, Option(help="Requests to send (100; in a sweep 4 x its level).", rich_help_panel=LOAD)]
Seconds = Annotated[float | None, Option(help="Stop sending after this long.", rich_help_panel=LOAD)]
Scale = Annotated[float, Option(help="Multiplies all lengths, for tiny models.", rich_help_panel=LOAD)]
Trace = Annotated[Path | None, Option(help="JSON Lines file for --workload trace.", rich_help_panel=LOAD)]
Seed = Annotated[int, Option(help="Draws lengths and arrival times.", min=0, rich_help_panel=LOAD)]
TextSeed = Annotated[
    int | None, Option(help="Draws words. Default: new ones each call (cold cache).", min=0, rich_help_panel=LOAD)
]
IgnoreEos = Annotated[bool, Option(help="Ask for outputs of full length.", rich_help_panel=LOAD)]

SloTtft = Annotated[float | None, Option(help="Limit on time to first token.", rich_help_panel=GOODPUT)]
SloItl = Annotated[float | None, Option(help="Limit on a request's mean gap between tokens.", rich_help_panel=GOODPUT)]
SloTpot = Annotated[float | None, Option(help="Limit on time per output token.", rich_help_panel=GOODPUT)]
SloE2e = Annotated[float | None, Option(help="Limit on end-to-end latency.", rich_help_panel=GOODPUT)]

Compare = Annotated[str | None, Option(help="Second endpoint: same load, same picture.", rich_help_panel=COMPARISON)]
Labels = Annotated[str | None, Option(help="Names of the two (disaggregated,aggregated).", rich_help_panel=COMPARISON)]
Workers = Annotated[str, Option(help="Workers behind each endpoint, as 2 or 2,2.", rich_help_panel=COMPARISON)]

JsonFile = Annotated[Path | None, Option("--json", help="Write results to this file.", rich_help_panel=OUTPUT)]
PlotFile = Annotated[Path | None, Option("--plot", help="Write a picture to this .png.", rich_help_panel=OUTPUT)]
RecordsFile = Annotated[
    Path | None, Option("--records", help="Write every request to this .jsonl.", rich_help_panel=OUTPUT)
]
Hardware = Annotated[str | None, Option(help="What the server runs on, for titles.", rich_help_panel=OUTPUT)]
