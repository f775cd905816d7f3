"""The container runtime of one bed, with its own state, socket and images."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from testbed.daemons import Daemons
from testbed.errors import BedError
from testbed.journal import note
from testbed.node.files import base_spec, containerd_config, pod_network
from testbed.node.network import Slot

START_SECONDS = 60.0
IMPORT_SECONDS = 300.0


class Containerd:
    """Started in the bed's namespace, so that the pods' links end there."""

    def __init__(self, daemons: Daemons, slot: Slot) -> None:
        """Start it and wait until it answers."""
        self.state = daemons.run / "containerd"
        self.socket = self.state / "containerd.sock"
        (self.state / "cni").mkdir(parents=True)
        (self.state / "cni" / "10-bridge.conflist").write_text(pod_network(slot, self.state))
        config = self.state / "config.toml"
        config.write_text(containerd_config(self.state))
        default = subprocess.run(["ctr", "oci", "spec"], capture_output=True, text=True, timeout=30, check=True)
        (self.state / "base-spec.json").write_text(base_spec(default.stdout))
        daemons.start("containerd", ["containerd", f"--config={config}"])
        note(daemons.run, "shims", self.socket)
        daemons.await_ready("containerd", self._answers, seconds=START_SECONDS)

    def load(self, archives: Iterable[Path]) -> None:
        """Make images known to the node; each archive is removed once it is in."""
        for archive in archives:
            done = self._ctr("images", "import", str(archive), seconds=IMPORT_SECONDS)
            if done.returncode:
                raise BedError(f"importing {archive.name}: {done.stderr.strip()}")
            archive.unlink()

    def _answers(self) -> bool:
        return self.socket.exists() and self._ctr("version", seconds=10).returncode == 0

    def _ctr(self, *words: str, seconds: float) -> subprocess.CompletedProcess[str]:
        argv = ["ctr", f"--address={self.socket}", "--namespace=k8s.io", *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=seconds, check=False)
