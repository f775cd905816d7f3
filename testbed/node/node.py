"""Tier (b): the same control plane and one real node with containerd, kubelet and kube-proxy in a network namespace."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from testbed.build import NODE, build
from testbed.control_plane import ControlPlane
from testbed.daemons import Daemons
from testbed.images.images import images
from testbed.journal import note
from testbed.node.cgroup import make_cgroup
from testbed.node.containerd import Containerd
from testbed.node.files import NODE_NAME, kubelet_config
from testbed.node.network import Slot, take_slot
from testbed.node.packages import install_packages
from testbed.progress import say
from testbed.settings import BedSettings

READY_SECONDS = 120
PORTS = [2379, 2380, 6443, 10257, 10259, 10247]  # all are free in a namespace of one's own


class NodeCluster(ControlPlane):
    """A context manager; its API server, Services and pods can be reached from this machine by their addresses."""

    slot: Slot

    def __init__(self, settings: BedSettings | None = None, *, name: str = "", is_kept: bool = False) -> None:
        """As ControlPlane; the address ranges of `settings` are replaced by those of a free slot."""
        install_packages()
        build(NODE)
        super().__init__(settings, name=name, is_kept=is_kept)
        self.containerd = Containerd(self.run)

    @property
    def host_address(self) -> str:
        """Where pods reach servers of this machine, as a download test needs."""
        return self.slot.host

    def _prefix(self) -> Sequence[str]:
        return self.slot.enter

    def _ports(self) -> list[int]:
        return PORTS

    def _start_programs(self) -> Daemons:
        note(self.run, "mounts", self.run)
        self.slot = take_slot(self.run)
        self.address = self.slot.node
        self.settings = dataclasses.replace(self.settings, services=self.slot.services, pods=self.slot.pods)
        daemons = super()._start_programs()
        self.containerd.start(daemons, self.slot)
        found = images()
        say("images made from the checkout")
        self.containerd.load(found)
        say("images imported")
        self._start_kubelet(daemons)
        self._start_proxy(daemons)
        node = ("wait", f"node/{NODE_NAME}", "--for=condition=Ready", f"--timeout={READY_SECONDS}s")
        self.until(
            lambda: self.kubectl(*node, seconds=READY_SECONDS), what="the node to be Ready", seconds=READY_SECONDS
        )
        return daemons

    def _start_kubelet(self, daemons: Daemons) -> None:
        names = (f"DNS:{NODE_NAME}", f"IP:{self.address}")
        kubeconfig = self.run / "kubelet.kubeconfig"
        self.authority.kubeconfig(kubeconfig, self.server, "kubelet", f"/O=system:nodes/CN=system:node:{NODE_NAME}")
        self.authority.issue(NODE_NAME, f"/O=system:nodes/CN=system:node:{NODE_NAME}", names)
        config = self.run / "kubelet.json"
        cgroup = make_cgroup(self.run, self.slot.name)
        config.write_text(kubelet_config(self.slot, self.run, self.containerd.socket, cgroup))
        note(self.run, "links", "/var/log/containers", self.run)
        note(self.run, "files", "/var/lib/cni/results", self.run)
        flags = (f"--config={config}", f"--kubeconfig={kubeconfig}", f"--hostname-override={NODE_NAME}")
        folders = (f"--root-dir={self.run / 'kubelet'}", f"--cert-dir={self.run / 'kubelet' / 'pki'}")
        daemons.start("kubelet", [self.programs / "kubelet", *flags, *folders, f"--node-ip={self.address}"])

    def _start_proxy(self, daemons: Daemons) -> None:
        """NOTE: the conntrack sizes belong to the machine and cannot be set from here; 0 leaves them as they are."""
        conntrack = ("max-per-core", "tcp-timeout-established", "tcp-timeout-close-wait")
        flags = (
            f"--kubeconfig={self.run / 'proxy.kubeconfig'}",
            f"--hostname-override={NODE_NAME}",
            "--proxy-mode=iptables",
            f"--cluster-cidr={self.settings.pods}",
            f"--metrics-bind-address={self.address}:10249",
            f"--healthz-bind-address={self.address}:10256",
        )
        daemons.start("kube-proxy", [self.programs / "kube-proxy", *flags, *(f"--conntrack-{c}=0" for c in conntrack)])
