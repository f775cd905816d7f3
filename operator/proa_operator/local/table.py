"""The table of processes. Pure: rows in, renderable out."""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from proa_operator.local.child import Child, State
from proa_operator.local.process import LocalPlan
from proa_operator.local.scrape import WorkerLoad

_STYLES = {
    State.WAITING: "dim",
    State.STARTING: "yellow",
    State.SERVING: "green",
    State.BACKOFF: "red",
    State.DRAINING: "yellow",
    State.STOPPED: "dim",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One process as the table shows it."""

    name: str
    """Role and number, such as prefill-0."""
    state: State
    pid: int | None
    port: int
    num_restarts: int
    load: WorkerLoad | None

    @classmethod
    def of(cls, child: Child, load: WorkerLoad | None) -> Row:
        """The row of a process now."""
        return cls(
            name=child.process.name,
            state=child.state,
            pid=child.pid,
            port=child.process.port,
            num_restarts=child.num_restarts,
            load=load,
        )


def table(rows: list[Row], plan: LocalPlan) -> Table:
    """All processes of a service, with their load where it is known."""
    title = Text.assemble((plan.service, "bold"), f"  model {plan.model_name}  ", (f"{plan.url}/v1", "cyan"))
    drawn = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("process", "state"):
        drawn.add_column(heading, no_wrap=True)
    for heading in ("pid", "port", "running", "waiting", "KV used", "restarts"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        drawn.add_row(*_cells(row))
    return drawn


def describe(child: Child, detail: str) -> str:
    """One line about a change."""
    where = f" (pid {child.pid}, port {child.process.port})" if child.pid else ""
    return f"{child.process.name:<10} {child.state.value}{where}{' ' + detail if detail else ''}"


def _cells(row: Row) -> list[Text | str]:
    load = row.load
    return [
        row.name,
        Text(row.state.value, style=_STYLES[row.state]),
        str(row.pid) if row.pid else "-",
        str(row.port),
        str(load.running) if load else "",
        str(load.waiting) if load else "",
        f"{load.kv_usage:.0%}" if load else "",
        str(row.num_restarts),
    ]
