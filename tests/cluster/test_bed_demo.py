"""From the charts to an answer, on the real node: what `make demo-k8s` does after its cluster is up."""

from __future__ import annotations

import pytest

from testbed import demo
from testbed.node.node import NodeCluster


def test_the_charts_and_the_example_lead_to_an_answer(
    node_cluster: NodeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.install(node_cluster)
    answer = demo.question(demo.serve(node_cluster))
    assert answer.num_tokens > 0
    assert answer.text in capsys.readouterr().out
    node_cluster.kubectl("delete", "disaggregatedservice", demo.SERVICE, "--timeout=60s", seconds=70)
    node_cluster.helm("uninstall", "--wait", "proa", f"--namespace={demo.SYSTEM}")
    left = ("get", "pods", "--namespace=default", "--selector=proa.dev/service", "--output=name")
    node_cluster.until(lambda: not node_cluster.kubectl(*left), what="the service's pods to be gone", seconds=120)


def test_an_unknown_argument_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["demo", "--twice"])
    with pytest.raises(SystemExit, match="2"):
        demo.main()
    assert capsys.readouterr().err == "unknown argument --twice: the only one is --once\n"
