"""Clusters for tests: `api` (tier a) and `node_cluster` (tier b), one each per run, and a `namespace` per test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest

from testbed.build import CONTROL_PLANE, NODE, build
from testbed.cluster import Cluster
from testbed.control_plane import ControlPlane
from testbed.images.images import images
from testbed.node.node import NodeCluster
from testbed.node.packages import install_packages
from testbed.tiers import SOAK, left_out
from tests.cluster.kinds import apply_kinds
from tests.cluster.operator_process import Doubles

FIXTURES = {"a": "api", "b": "node_cluster"}
NUMBERS = itertools.count()
TIERS_IN_USE = pytest.StashKey[set[str]]()
LEFT_OUT = pytest.StashKey[list[str]]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of tiers that do not run here, and remember one line about each."""
    config.stash[TIERS_IN_USE], config.stash[LEFT_OUT] = set(), []
    for tier, fixture in FIXTURES.items():
        users = [item for item in items if fixture in _clusters(getattr(item, "fixturenames", ()))]
        if users and (reason := left_out(tier)):
            config.stash[LEFT_OUT].append(f"test bed: {len(users)} tests of tier ({tier}) left out: {reason}")
            config.hook.pytest_deselected(items=users)
            items[:] = [item for item in items if item not in users]
        elif users:
            config.stash[TIERS_IN_USE].add(tier)
    if (long := [item for item in items if item.get_closest_marker("soak")]) and (reason := left_out(SOAK)):
        config.stash[LEFT_OUT].append(
            f"{len(long)} long tests left out: {reason}; PROA_TEST_TIERS=a,b,soak runs them on a quiet machine"
        )
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def _clusters(names: Sequence[str]) -> set[str]:
    """Cluster fixtures that a test uses; one that only wants a namespace gets it in tier (a)."""
    used = set(names) & set(FIXTURES.values())
    return used or ({"api"} if "namespace" in names else set())


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Print what is left out; also in quiet runs."""
    return config.stash.get(LEFT_OUT, [])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the programs here, where no test's timer runs and progress can be seen."""
    tiers = session.config.stash.get(TIERS_IN_USE, set())
    if not tiers or session.config.option.collectonly:
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        build(CONTROL_PLANE | NODE if "b" in tiers else CONTROL_PLANE)
        if "b" in tiers:
            install_packages()
            images()


@pytest.fixture(scope="session")
def api() -> Iterator[ControlPlane]:
    """Tier (a): a control plane on loopback whose nodes and pods are played by kwok."""
    with ControlPlane() as bed:
        yield bed


@pytest.fixture(scope="session")
def doubles(api: ControlPlane) -> Iterator[Doubles]:
    """Workers for pods that kwok plays, on a cluster that has Proa's kinds and two nodes without devices."""
    apply_kinds(api)
    api.nodes.add("life-0", "life-1")
    with Doubles() as found:
        yield found


@pytest.fixture(scope="session")
def node_cluster() -> Iterator[NodeCluster]:
    """Tier (b): one real node that runs images made from the checkout."""
    with NodeCluster() as bed:
        yield bed


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty namespace in the cluster that the test uses, deleted afterwards without waiting for it."""
    wanted = "node_cluster" if "node_cluster" in request.fixturenames else "api"
    bed: Cluster = request.getfixturevalue(wanted)
    name = f"test-{next(NUMBERS)}"
    bed.kubectl("create", "namespace", name)
    account = ("get", "serviceaccount", "default", f"--namespace={name}")
    bed.until(lambda: bed.kubectl(*account), what=f"the default service account of {name}")
    yield name
    bed.kubectl("delete", "namespace", name, "--wait=false")
