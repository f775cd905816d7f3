"""`python -m testbed.demo [--once]`: from nothing to an answer through Kubernetes (`make demo-k8s`).

Starts the one-node cluster, installs both charts, applies examples/tiny.yaml as it is, asks the model one question
through the gateway's Service, and leaves the cluster running; with --once it stops what it started.
"""

from __future__ import annotations

import asyncio
import sys

from proa_operator.cli.ask import Answer, ask
from proa_operator.errors import ServeError

from testbed import down
from testbed.cluster import Cluster
from testbed.control_plane import run_folder
from testbed.errors import BedError
from testbed.progress import say
from testbed.store import CHECKOUT, SOURCES
from testbed.tiers import why_not
from testbed.up import NAME, up

SYSTEM = "proa-system"
SERVICE, MODEL = "tiny", "tiny-moe"
QUESTION = "What is a proa?"
AVAILABLE_SECONDS = 240


def install(bed: Cluster) -> None:
    """Install or upgrade the charts with the images of the bed; raises BedError with helm's words."""
    charts = CHECKOUT / "charts"
    release = ("upgrade", "--install", "--wait", "--timeout=3m", f"--namespace={SYSTEM}", "--create-namespace")
    bed.helm(*release, "proa-crds", str(charts / "proa-crds"))
    bed.helm(*release, "proa", str(charts / "proa"), f"--values={SOURCES / 'values.yaml'}")
    say("charts installed")


def serve(bed: Cluster) -> str:
    """Apply the example and return its gateway's URL once the service is Available."""
    bed.apply((CHECKOUT / "examples" / "tiny.yaml").read_text())
    available = (f"disaggregatedservice/{SERVICE}", "--for=condition=Available", f"--timeout={AVAILABLE_SECONDS}s")
    bed.kubectl("wait", *available, seconds=AVAILABLE_SECONDS + 10)
    say(f"{SERVICE} is Available")
    service = bed.get("service", f"{SERVICE}-gateway")["spec"]
    return f"http://{service['clusterIP']}:{service['ports'][0]['port']}"


def question(url: str) -> Answer:
    """Ask, and print the answer as it streams; raises ServeError when the stream fails."""
    print(f"you    {QUESTION}\nmodel  ", end="")
    answer = asyncio.run(ask(url, MODEL, QUESTION, lambda text: print(text, end="", flush=True)))
    print(f"\n\nTTFT {answer.ttft_seconds * 1000:.0f} ms, {answer.tokens_per_second:.0f} tokens/s")
    return answer


def run(is_once: bool) -> None:
    """The whole demonstration; with `is_once` nothing that it started is left."""
    was_running = run_folder(NAME).exists()
    try:
        bed = up()
        install(bed)
        question(serve(bed))
        if not is_once:
            print(f"The cluster runs: export KUBECONFIG={bed.kubeconfig} PATH={bed.programs}:$PATH")
            print("make cluster-down stops it.")
    finally:
        if is_once and not was_running:
            down.main()


def main() -> None:
    """Exit status 2 where this machine cannot, 1 with one line when a step failed."""
    if unknown := [word for word in sys.argv[1:] if word != "--once"]:
        print(f"unknown argument {unknown[0]}: the only one is --once", file=sys.stderr)
        raise SystemExit(2)
    if reason := why_not("b"):
        print(f"no cluster on this machine: {reason}", file=sys.stderr)
        raise SystemExit(2)
    try:
        run("--once" in sys.argv[1:])
    except (BedError, ServeError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
