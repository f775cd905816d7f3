"""Checks of the machine that this runs on. Each is a pure function of what the machine tells."""

from __future__ import annotations

from collections.abc import Callable

from proa_operator.doctor.finding import Finding, fail, ok, skip, warn
from proa_operator.doctor.machine import Machine
from proa_operator.doctor.partition import amd_cards, partitions

GIB = 1 << 30
MIN_SHM_BYTES = GIB
RUNTIMES = ("containerd", "crio", "dockerd")
_TRANSLATED = ("DMA", "DMA-FQ")


def node_findings(machine: Machine) -> list[Finding]:
    """All of them, in the order in which one would fix them."""
    return [check(machine) for check in NODE_CHECKS]


def numa_balancing(machine: Machine) -> Finding:
    """The kernel moves pages towards the threads that touch them, and stalls GPU work while it does."""
    check, state = "NUMA balancing", machine.text("/proc/sys/kernel/numa_balancing")
    num_nodes = len(machine.find("/sys/devices/system/node/node[0-9]*"))
    if num_nodes < 2:
        return ok(check, "one NUMA node: nothing to balance")
    if state in (None, "0"):
        return ok(check, f"off, {num_nodes} NUMA nodes")
    fix = "sysctl -w kernel.numa_balancing=0, and the same line in /etc/sysctl.d/ for the next boot"
    return warn(check, f"on, {num_nodes} NUMA nodes", fix)


def iommu(machine: Machine) -> Finding:
    """Translated DMA costs bandwidth between GPUs and network cards, and breaks direct transfers on some boards."""
    check = "IOMMU"
    types = [machine.text(path) or "" for path in machine.find("/sys/kernel/iommu_groups/*/type")]
    translated = sum(kind in _TRANSLATED for kind in types)
    if not types:
        return ok(check, "off, or not visible from here")
    if not translated or _is_pass_through(machine):
        return ok(check, "pass-through")
    fix = "add iommu=pt to the kernel's command line (GRUB_CMDLINE_LINUX) and boot again"
    found = f"translates DMA of {translated} of {len(types)} groups"
    return warn(check, found, fix) if _has_fast_devices(machine) else ok(check, f"{found}; no GPU or RDMA link here")


def gpu_driver(machine: Machine) -> Finding:
    """The compute interface of the amdgpu driver."""
    check, cards = "GPU driver", amd_cards(machine)
    if not cards:
        return skip(check, "no AMD GPU")
    version = machine.text("/sys/module/amdgpu/version")
    found = f"{len(cards)} AMD GPUs, amdgpu {version or 'of the kernel'}"
    if machine.find("/dev/kfd"):
        return ok(check, found)
    return fail(
        check, f"{found}, but no /dev/kfd", "install the amdgpu-dkms driver of ROCm and load it: modprobe amdgpu"
    )


def memlock(machine: Machine) -> Finding:
    """RDMA locks the memory that it registers. Pods inherit the limit of the container runtime."""
    check = "Locked memory"
    runtime, limit = _runtime_limit(machine)
    if limit is None:
        return ok(check, f"unlimited for {runtime}")
    found = f"at most {limit // 1024} KiB for {runtime}"
    if not machine.find("/sys/class/infiniband/*"):
        return ok(check, f"{found}; no RDMA link needs more")
    service = runtime if runtime in RUNTIMES else "containerd"
    fix = f"set LimitMEMLOCK=infinity in a drop-in of {service}.service and restart it, then its pods"
    return fail(check, found, fix)


def rdma_links(machine: Machine) -> Finding:
    """Every port that is there should be up: a rail that is down halves what one GPU can move."""
    check, ports = "RDMA links", machine.find("/sys/class/infiniband/*/ports/*")
    if not ports:
        return skip(check, "no RDMA device")
    down = [port for port in ports if "ACTIVE" not in (machine.text(f"{port}/state") or "")]
    rates = sorted({machine.text(f"{port}/rate") or "unknown rate" for port in ports if port not in down})
    if down:
        shown = ", ".join(_link(port) for port in down)
        fix = "rdma link show; check cable, switch port and `ip link` of the network card, then ibv_devinfo"
        return fail(check, f"{len(down)} of {len(ports)} not active: {shown}", fix)
    if len(rates) > 1:
        fix = "the slowest rail sets the pace of a collective: check cables and switch ports"
        return warn(check, f"{len(ports)} active at different rates: {'; '.join(rates)}", fix)
    return ok(check, f"{len(ports)} active at {rates[0]}")


def device_plugin(machine: Machine) -> Finding:
    """The kubelet finds a plugin by its socket, which AMD's plugin names after the resource."""
    check = "Device plugin"
    if not amd_cards(machine):
        return skip(check, "no AMD GPU")
    if not machine.find("/var/lib/kubelet/device-plugins"):
        return skip(check, "no kubelet on this machine")
    sockets = [path.rpartition("/")[2] for path in machine.find("/var/lib/kubelet/device-plugins/amd.com_*")]
    if sockets:
        return ok(check, f"registered: {', '.join(sockets)}")
    fix = "install the AMD GPU operator or its device plugin, and look at the logs of the plugin's pod on this node"
    return fail(check, "the kubelet knows none for amd.com", fix)


def shared_memory(machine: Machine) -> Finding:
    """`proa up` hands KV blocks over in /dev/shm; pods get one of their own, sized by the operator."""
    check, size = "/dev/shm", machine.shm_bytes()
    fix = "mount -o remount,size=50% /dev/shm; in a container start it with --shm-size=8g"
    if size is None:
        return fail(check, "is missing", "mount -t tmpfs -o size=50% tmpfs /dev/shm")
    found = f"{size / GIB:.1f} GiB"
    return ok(check, found) if size >= MIN_SHM_BYTES else warn(check, found, fix)


NODE_CHECKS: tuple[Callable[[Machine], Finding], ...] = (
    numa_balancing,
    iommu,
    gpu_driver,
    partitions,
    memlock,
    rdma_links,
    device_plugin,
    shared_memory,
)


def _is_pass_through(machine: Machine) -> bool:
    words = (machine.text("/proc/cmdline") or "").split()
    return "iommu=pt" in words or "iommu.passthrough=1" in words


def _has_fast_devices(machine: Machine) -> bool:
    return bool(amd_cards(machine) or machine.find("/sys/class/infiniband/*"))


def _link(port: str) -> str:
    """/sys/class/infiniband/NAME/ports/NUMBER -> NAME/NUMBER."""
    parts = port.split("/")
    return f"{parts[-3]}/{parts[-1]}"


def _runtime_limit(machine: Machine) -> tuple[str, int | None]:
    """Whose limit, and bytes; None is unlimited."""
    for path in machine.find("/proc/[0-9]*/comm"):
        name = machine.text(path)
        limits = machine.text(f"{path.removesuffix('/comm')}/limits")
        if name in RUNTIMES and limits:
            return name, _locked(limits)
    return "this process", machine.memlock_bytes()


def _locked(limits: str) -> int | None:
    """The soft limit in the kernel's table."""
    for line in limits.splitlines():
        if line.startswith("Max locked memory"):
            soft = line.removeprefix("Max locked memory").split()[0]
            return None if soft == "unlimited" else int(soft)
    return None
