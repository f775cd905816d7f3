"""Checks of a machine, played by a folder: each with what is right, and with the fault that it must find."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from proa_operator.doctor import node
from proa_operator.doctor.finding import Finding, Level, has_failed, ok
from proa_operator.doctor.machine import Machine
from proa_operator.doctor.partition import partitions

GIB = 1 << 30
Files = dict[str, str]
TWO_NUMA = {"sys/devices/system/node/node0/cpulist": "0", "sys/devices/system/node/node1/cpulist": "1"}
GROUPS = {"sys/kernel/iommu_groups/0/type": "DMA-FQ", "sys/kernel/iommu_groups/1/type": "identity"}
GPU = {"sys/class/drm/card1/device/vendor": "0x1002"}
LIMITS = "Limit  Soft Limit  Hard Limit  Units\nMax locked memory         {}    65536   bytes\n"


def _machine(
    folder: Path,
    files: Files,
    *,
    shm: int | None = 8 * GIB,
    memlock: int | None = None,
    tools: Mapping[str, str] | None = None,
) -> Machine:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")

    def run(argv: Sequence[str]) -> str | None:
        return (tools or {}).get(argv[0])

    return Machine(root=folder, run=run, shm_bytes=lambda: shm, memlock_bytes=lambda: memlock)


def _card(number: int, compute: str, memory: str = "NPS1") -> Files:
    device = f"sys/class/drm/card{number}/device"
    return {
        f"{device}/vendor": "0x1002",
        f"{device}/current_compute_partition": compute,
        f"{device}/current_memory_partition": memory,
    }


def _port(name: str, state: str, rate: str = "400 Gb/sec (4X NDR)") -> Files:
    port = f"sys/class/infiniband/{name}/ports/1"
    return {f"{port}/state": state, f"{port}/rate": rate}


def _assert(finding: Finding, level: Level, text: str) -> None:
    assert (finding.level, text in finding.found) == (level, True), finding
    assert bool(finding.fix) is (level in (Level.WARN, Level.FAIL))


@pytest.mark.parametrize(
    ("files", "level", "text"),
    [
        ({"proc/sys/kernel/numa_balancing": "1"}, Level.OK, "one NUMA node"),
        (TWO_NUMA, Level.OK, "off"),
        (TWO_NUMA | {"proc/sys/kernel/numa_balancing": "0"}, Level.OK, "off, 2 NUMA nodes"),
        (TWO_NUMA | {"proc/sys/kernel/numa_balancing": "1"}, Level.WARN, "on, 2 NUMA nodes"),
    ],
)
def test_numa_balancing(tmp_path: Path, files: Files, level: Level, text: str) -> None:
    _assert(node.numa_balancing(_machine(tmp_path, files)), level, text)


@pytest.mark.parametrize(
    ("files", "level", "text"),
    [
        ({}, Level.OK, "off, or not visible"),
        ({"sys/kernel/iommu_groups/0/type": "identity"}, Level.OK, "pass-through"),
        (GROUPS | GPU | {"proc/cmdline": "root=/dev/sda iommu=pt quiet"}, Level.OK, "pass-through"),
        (GROUPS, Level.OK, "no GPU or RDMA link here"),
        (GROUPS | GPU | {"proc/cmdline": "quiet"}, Level.WARN, "1 of 2 groups"),
        (GROUPS | _port("mlx5_0", "4: ACTIVE"), Level.WARN, "1 of 2 groups"),
    ],
)
def test_iommu(tmp_path: Path, files: Files, level: Level, text: str) -> None:
    _assert(node.iommu(_machine(tmp_path, files)), level, text)


@pytest.mark.parametrize(
    ("files", "level", "text"),
    [
        ({}, Level.SKIP, "no AMD GPU"),
        ({"sys/class/drm/card0/device/vendor": "0x10de"}, Level.SKIP, "no AMD GPU"),
        (GPU, Level.FAIL, "no /dev/kfd"),
        (GPU | {"dev/kfd": "", "sys/module/amdgpu/version": "6.12.12"}, Level.OK, "1 AMD GPUs, amdgpu 6.12.12"),
    ],
)
def test_gpu_driver(tmp_path: Path, files: Files, level: Level, text: str) -> None:
    _assert(node.gpu_driver(_machine(tmp_path, files)), level, text)


@pytest.mark.parametrize(
    ("files", "level", "text"),
    [
        ({}, Level.SKIP, "no AMD GPU"),
        ({**_card(0, "SPX"), **_card(1, "SPX")}, Level.OK, "2 x SPX/NPS1"),
        ({**_card(0, "SPX"), **_card(1, "CPX", "NPS4")}, Level.FAIL, "1 x CPX/NPS4, 1 x SPX/NPS1"),
        ({**_card(0, "CPX"), **_card(1, "CPX")}, Level.WARN, "2 x CPX/NPS1"),
        (GPU, Level.OK, "none of which can be partitioned"),
    ],
)
def test_partitions(tmp_path: Path, files: Files, level: Level, text: str) -> None:
    _assert(partitions(_machine(tmp_path, files)), level, text)


AMD_SMI = [{"gpu": 0, "partition": {"accelerator_partition": "CPX", "memory_partition": "NPS1", "partition_id": "0"}}]
ROCM_SMI = {"card0": {"Compute Partition": "SPX", "Memory Partition": "NPS1"}}


@pytest.mark.parametrize(
    ("tools", "text"),
    [
        ({"amd-smi": json.dumps(AMD_SMI)}, "1 x CPX/NPS1"),
        ({"amd-smi": json.dumps({"gpu_data": AMD_SMI})}, "1 x CPX/NPS1"),
        ({"rocm-smi": json.dumps(ROCM_SMI)}, "1 x SPX/NPS1"),
        ({"amd-smi": "not JSON", "rocm-smi": json.dumps(ROCM_SMI)}, "1 x SPX/NPS1"),
        ({"rocm-smi": json.dumps({"card0": {"Compute Partition": "N/A"}})}, "none of which"),
    ],
)
def test_partitions_from_tools_where_sysfs_tells_nothing(tmp_path: Path, tools: Mapping[str, str], text: str) -> None:
    assert text in partitions(_machine(tmp_path, GPU, tools=tools)).found


RDMA = _port("mlx5_0", "4: ACTIVE")
CONTAINERD = {"proc/77/comm": "containerd", "proc/8/comm": "bash"}


@pytest.mark.parametrize(
    ("files", "own", "level", "text"),
    [
        ({}, None, Level.OK, "unlimited for this process"),
        ({}, 65536, Level.OK, "64 KiB for this process; no RDMA"),
        (RDMA, 65536, Level.FAIL, "64 KiB for this process"),
        (RDMA | CONTAINERD | {"proc/77/limits": LIMITS.format("unlimited")}, 65536, Level.OK, "for containerd"),
        (RDMA | CONTAINERD | {"proc/77/limits": LIMITS.format("65536")}, None, Level.FAIL, "64 KiB for containerd"),
    ],
)
def test_memlock(tmp_path: Path, files: Files, own: int | None, level: Level, text: str) -> None:
    _assert(node.memlock(_machine(tmp_path, files, memlock=own)), level, text)


@pytest.mark.parametrize(
    ("files", "level", "text"),
    [
        ({}, Level.SKIP, "no RDMA device"),
        ({**RDMA, **_port("mlx5_1", "4: ACTIVE")}, Level.OK, "2 active at 400 Gb/sec"),
        ({**RDMA, **_port("mlx5_1", "1: DOWN")}, Level.FAIL, "1 of 2 not active: mlx5_1/1"),
        ({**RDMA, **_port("mlx5_1", "4: ACTIVE", "100 Gb/sec")}, Level.WARN, "different rates"),
    ],
)
def test_rdma_links(tmp_path: Path, files: Files, level: Level, text: str) -> None:
    _assert(node.rdma_links(_machine(tmp_path, files)), level, text)


@pytest.mark.parametrize(
    ("size", "level", "text"),
    [(8 * GIB, Level.OK, "8.0 GiB"), (64 << 20, Level.WARN, "0.1 GiB"), (None, Level.FAIL, "is missing")],
)
def test_shared_memory(tmp_path: Path, size: int | None, level: Level, text: str) -> None:
    _assert(node.shared_memory(_machine(tmp_path, {}, shm=size)), level, text)


PLUGINS = "var/lib/kubelet/device-plugins"


@pytest.mark.parametrize(
    ("files", "level", "text"),
    [
        ({}, Level.SKIP, "no AMD GPU"),
        (GPU, Level.SKIP, "no kubelet"),
        (GPU | {f"{PLUGINS}/kubelet.sock": ""}, Level.FAIL, "knows none for amd.com"),
        (GPU | {f"{PLUGINS}/kubelet.sock": "", f"{PLUGINS}/amd.com_gpu": ""}, Level.OK, "registered: amd.com_gpu"),
    ],
)
def test_device_plugin(tmp_path: Path, files: Files, level: Level, text: str) -> None:
    _assert(node.device_plugin(_machine(tmp_path, files)), level, text)


def test_this_machine_answers_every_check() -> None:
    findings = node.node_findings(Machine())
    assert len(findings) == len(node.NODE_CHECKS)
    assert has_failed([ok("a", "b"), Finding(check="c", level=Level.FAIL, found="d", fix="e")])
