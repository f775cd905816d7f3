"""Processes that crash, hang, refuse or are orphaned, under the real supervisor; the processes are small doubles."""

from __future__ import annotations

import asyncio
import io
import itertools
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from proa_operator.errors import PlanError, ProaError, ServeError, StartError
from proa_operator.local.backoff import Backoff
from proa_operator.local.child import Child, State
from proa_operator.local.ports import FreePorts
from proa_operator.local.process import GatewayServing, IdleGauge, LocalPlan, Process, Role
from proa_operator.local.serve import serve
from proa_operator.local.supervise import Supervisor
from proa_operator.local.view import PlainView
from rich.console import Console

DEADLINE_SECONDS = 90.0
FIRST_PORT = 21_000 + os.getpid() % 500 * 20  # test processes that run side by side look for ports in other places
SERVER = """
import http.server, os, signal, subprocess, sys, time
port, behaviour = int(sys.argv[1]), sys.argv[2]
print("hello from", os.getpid(), flush=True)
if behaviour == "refuse":
    print("noise", flush=True); print("--port is odd; give an even one", file=sys.stderr); sys.exit(2)
if behaviour == "crash":
    sys.exit(3)
if behaviour == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if behaviour == "parent":
    print("child", subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if behaviour != "mute" else 503); self.end_headers()
        self.wfile.write(b"busy 0" if self.path == "/metrics" else b'{"healthy_workers": 1}')
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def next_port() -> FreePorts:
    return FreePorts("127.0.0.1", FIRST_PORT)


@pytest.fixture
def process(tmp_path: Path, next_port: FreePorts) -> Callable[..., Process]:
    (tmp_path / "server.py").write_text(SERVER)
    names = (f"p{number}" for number in itertools.count())

    def make(
        behaviour: str = "serve", *, drain_seconds: float = 10.0, is_idle: bool = False, needs: str = ""
    ) -> Process:
        port = next_port()
        url = f"http://127.0.0.1:{port}"
        return Process(
            name=next(names),
            role=Role.GATEWAY,
            argv=(sys.executable, str(tmp_path / "server.py"), str(port), behaviour),
            env=(),
            port=port,
            metrics_url=f"{url}/metrics",
            ready=GatewayServing(url=url, num_workers=1),
            needs=tuple(needs.split()),
            drain_seconds=drain_seconds,
            idle=IdleGauge(url=f"{url}/metrics", metric="busy") if is_idle else None,
        )

    return make


def _child(process: Process, folder: Path, changes: list[str] | None = None, *, start_seconds: float = 60.0) -> Child:
    return Child(
        process,
        log_path=folder / f"{process.name}.log",
        on_change=lambda child, detail: (changes if changes is not None else []).append(f"{child.state} {detail}"),
        backoff=Backoff(first_seconds=0.01),
        start_seconds=start_seconds,
    )


async def _until(event: Awaitable[object]) -> None:
    await asyncio.wait_for(event, DEADLINE_SECONDS)


def _is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not collected by its parent does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


async def _gone(pid: int) -> None:
    while _is_alive(pid):
        await asyncio.sleep(0.01)


async def test_serves_and_stops(process: Callable[..., Process], tmp_path: Path) -> None:
    child = _child(process(), tmp_path)
    life = asyncio.create_task(child.keep_alive())
    await _until(child.is_serving.wait())
    pid = child.pid
    assert child.state is State.SERVING
    await _until(child.stop(asyncio.Event()))
    await _until(life)
    assert child.state is State.STOPPED
    assert pid is not None
    assert not _is_alive(pid)
    assert child.num_restarts == 0


async def test_a_killed_process_is_started_again(process: Callable[..., Process], tmp_path: Path) -> None:
    changes: list[str] = []
    child = _child(process(), tmp_path, changes)
    life = asyncio.create_task(child.keep_alive())
    for num_restarts in (0, 1, 2):
        await _until(child.is_serving.wait())
        assert child.num_restarts == num_restarts
        assert child.pid is not None
        gone = child.pid
        if num_restarts < 2:
            os.kill(gone, signal.SIGKILL)
            await _until(_gone(gone))
            while child.is_serving.is_set():
                await asyncio.sleep(0.01)
    assert any(change.startswith("backoff ended with signal SIGKILL, starts again in") for change in changes)
    await _until(child.stop(asyncio.Event()))
    await _until(life)


async def test_exit_code_2_is_the_users_to_fix(process: Callable[..., Process], tmp_path: Path) -> None:
    child = _child(process("refuse"), tmp_path)
    with pytest.raises(StartError, match=f"^{child.process.name}: --port is odd; give an even one$"):
        await _until(child.keep_alive())
    assert child.num_restarts == 0


async def test_a_process_that_never_serves_is_given_up(process: Callable[..., Process], tmp_path: Path) -> None:
    child = _child(process("crash"), tmp_path)
    with pytest.raises(
        ServeError, match=r"5 times before it served, last with exit code 3 \(hello from \d+\): read .*\.log"
    ):
        await _until(child.keep_alive())
    assert child.num_restarts == 4


async def test_a_start_has_a_deadline(process: Callable[..., Process], tmp_path: Path) -> None:
    changes: list[str] = []
    child = _child(process("mute"), tmp_path, changes, start_seconds=0.2)
    with pytest.raises(ServeError, match="last with signal SIGKILL"):
        await _until(child.keep_alive())
    assert any("did not serve within 0 s" in change for change in changes)


@pytest.mark.parametrize(
    ("drain_seconds", "is_hurried", "is_idle"),
    [
        pytest.param(0.1, False, False, id="after the drain deadline"),
        pytest.param(600.0, True, False, id="at the second Ctrl-C"),
        pytest.param(600.0, False, True, id="once it is idle"),
    ],
)
async def test_a_process_deaf_to_sigterm_is_killed(
    process: Callable[..., Process], tmp_path: Path, drain_seconds: float, is_hurried: bool, is_idle: bool
) -> None:
    child = _child(process("deaf", drain_seconds=drain_seconds, is_idle=is_idle), tmp_path)
    life = asyncio.create_task(child.keep_alive())
    await _until(child.is_serving.wait())
    hurry = asyncio.Event()
    if is_hurried:
        hurry.set()
    await _until(child.stop(hurry))
    await _until(life)


async def test_what_a_process_started_ends_with_it(process: Callable[..., Process], tmp_path: Path) -> None:
    child = _child(process("parent"), tmp_path)
    life = asyncio.create_task(child.keep_alive())
    await _until(child.is_serving.wait())
    grandchild = int(child.last_words().split()[-1])
    assert _is_alive(grandchild)
    await _until(child.stop(asyncio.Event()))
    await _until(life)
    await _until(_gone(grandchild))


def _plan(folder: Path, *processes: Process) -> LocalPlan:
    return LocalPlan(service="s", model_name="m", url="http://127.0.0.1", state_dir=folder, processes=processes)


async def test_a_process_waits_for_what_it_needs_and_stops_before_it(
    process: Callable[..., Process], tmp_path: Path
) -> None:
    log: list[str] = []

    def note(child: Child, detail: str) -> None:
        log.append(f"{child.process.name} {child.state}")

    first = process()
    second = process(needs=first.name)
    supervisor = Supervisor(_plan(tmp_path, second, first), note)
    run = asyncio.create_task(supervisor.run())
    await _until(supervisor.serving())
    supervisor.ask_stop()
    await _until(run)
    steps = ("p0 starting", "p0 serving", "p1 starting", "p1 serving", "p1 draining", "p1 stopped", "p0 draining")
    assert log == [*steps, "p0 stopped"]


@pytest.mark.parametrize(
    ("behaviour", "error", "exit_code"), [("refuse", StartError, 2), ("crash", ServeError, 1)], ids=["refuse", "crash"]
)
async def test_one_process_that_cannot_start_ends_all(
    process: Callable[..., Process], tmp_path: Path, behaviour: str, error: type[ProaError], exit_code: int
) -> None:
    good, bad = process(), process(behaviour)
    waiting = process(needs=bad.name)
    plan, quick = _plan(tmp_path, good, bad, waiting), Backoff(first_seconds=0.01)
    supervisor = Supervisor(plan, lambda child, detail: None, backoff=quick)
    with pytest.raises(error) as caught:
        await _until(supervisor.run())
    assert caught.value.exit_code == exit_code
    assert supervisor.children[good.name].state is State.STOPPED
    assert supervisor.children[waiting.name].state is State.WAITING


@pytest.mark.parametrize("behaviour", ["refuse", "crash"])
async def test_an_added_process_that_cannot_start_is_dropped(
    process: Callable[..., Process], tmp_path: Path, behaviour: str
) -> None:
    log: list[str] = []
    first, bad, good = process(), process(behaviour), process()
    supervisor = Supervisor(
        _plan(tmp_path, first), lambda child, detail: log.append(detail), backoff=Backoff(first_seconds=0.01)
    )
    run = asyncio.create_task(supervisor.run())
    await _until(supervisor.serving())
    for added in (bad, good):
        supervisor.add(added, needed_by=first.name)
    await _until(supervisor.children[good.name].is_serving.wait())
    await _until(_dropped(supervisor, bad.name))
    assert supervisor.children.keys() == {first.name, good.name}
    assert supervisor.children[first.name].process.needs == (good.name,)
    assert any(detail.startswith("is given up") for detail in log)
    await _until(supervisor.remove(good.name))
    assert supervisor.children.keys() == {first.name}
    assert not supervisor.is_stopping
    supervisor.ask_stop()
    await _until(run)


async def _dropped(supervisor: Supervisor, name: str) -> None:
    while name in supervisor.children:
        await asyncio.sleep(0.02)


async def test_a_state_folder_that_cannot_be_made_is_the_users_to_fix(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PlanError, match="give another --state-dir"):
        Supervisor(_plan(tmp_path / "file" / "logs"), lambda child, detail: None)


async def test_a_stop_during_the_start_leaves_nothing(process: Callable[..., Process], tmp_path: Path) -> None:
    first = process("mute")
    supervisor = Supervisor(_plan(tmp_path, first, process(needs=first.name)), lambda child, detail: None)
    run = asyncio.create_task(supervisor.run())
    await asyncio.sleep(0)
    supervisor.ask_stop()
    await _until(run)
    assert all(child.pid is None for child in supervisor.children.values())


@pytest.mark.parametrize("error", [None, ServeError("the question failed")], ids=["ends", "fails"])
async def test_when_the_visit_is_over_everything_stops(
    process: Callable[..., Process], tmp_path: Path, error: Exception | None
) -> None:
    log: list[str] = []
    plan = _plan(tmp_path, process())

    async def visit(_: Supervisor) -> None:
        log.append("visited")
        if error:
            raise error

    serving = serve(plan, PlainView(Console(file=(output := io.StringIO()), width=200)), visit)
    if error:
        with pytest.raises(ServeError, match="the question failed"):
            await _until(serving)
    else:
        await _until(serving)
    assert log == ["visited"]
    assert output.getvalue().rstrip().endswith("stopped")


async def test_sigterm_during_the_visit_stops_everything(process: Callable[..., Process], tmp_path: Path) -> None:
    async def visit(_: Supervisor) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    output = io.StringIO()
    await _until(serve(_plan(tmp_path, process()), PlainView(Console(file=output, width=200)), visit))
    assert "stopping: running requests may finish" in output.getvalue()


PARENT = """
import asyncio, pickle, sys
from proa_operator.local.supervise import Supervisor
plan = pickle.loads(bytes.fromhex(sys.argv[1]))
async def main():
    supervisor = Supervisor(plan, lambda child, detail: None)
    run = asyncio.create_task(supervisor.run())
    await supervisor.serving()
    print(*[child.pid for child in supervisor.children.values()], flush=True)
    await run
asyncio.run(main())
"""


async def test_processes_die_with_their_parent(process: Callable[..., Process], tmp_path: Path) -> None:
    plan = _plan(tmp_path, process("deaf"), process())
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, pickle.dumps(plan).hex()], stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        line = await asyncio.wait_for(asyncio.to_thread(parent.stdout.readline), DEADLINE_SECONDS)
        parent.kill()
    pids = [int(pid) for pid in line.split()]
    assert len(pids) == 2
    for pid in pids:
        await _until(_gone(pid))
