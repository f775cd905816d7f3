"""The container runtime of one bed, with its own state, socket and images."""

from __future__ import annotations

import subprocess
from pathlib import Path

from testbed.daemons import Daemons
from testbed.errors import BedError
from testbed.images.archive import Image, write_archive
from testbed.journal import note
from testbed.node.files import base_spec, containerd_config, pod_network
from testbed.node.network import Slot

START_SECONDS = 60.0
IMPORT_SECONDS = 300.0


class Containerd:
    """The runtime of the bed in the folder `run`, whoever started it."""

    def __init__(self, run: Path) -> None:
        """Nothing is started; see `start`."""
        self.run = run
        self.state = run / "containerd"
        self.socket = self.state / "containerd.sock"

    def start(self, daemons: Daemons, slot: Slot) -> None:
        """Start it in the bed's namespace, so that the pods' links end there, and wait until it answers."""
        (self.state / "cni").mkdir(parents=True)
        (self.state / "cni" / "10-bridge.conflist").write_text(pod_network(slot, self.state))
        config = self.state / "config.toml"
        config.write_text(containerd_config(self.state))
        default = subprocess.run(["ctr", "oci", "spec"], capture_output=True, text=True, timeout=30, check=True)
        (self.state / "base-spec.json").write_text(base_spec(default.stdout))
        daemons.start("containerd", ["containerd", f"--config={config}"])
        note(self.run, "shims", self.socket)
        daemons.await_ready("containerd", self._answers, seconds=START_SECONDS)

    def load(self, images: list[Image]) -> bool:
        """Make images known to the node; whether there was anything to do. Running containers keep their old ones."""
        loaded = self.run / "images.loaded"
        wanted = "\n".join(f"{image.name} {layer.digest}" for image in images for layer in image.layers)
        if loaded.exists() and loaded.read_text() == wanted:
            return False
        archive = write_archive(images, self.run / "images.tar")
        try:
            done = self._ctr("images", "import", str(archive), seconds=IMPORT_SECONDS)
        finally:
            archive.unlink()
        if done.returncode:
            raise BedError(f"importing images: {done.stderr.strip()}")
        loaded.write_text(wanted)
        return True

    def tag(self, image: str, name: str) -> None:
        """Give an image that the node knows a second name, as another release of it."""
        done = self._ctr("images", "tag", "--force", image, name, seconds=30)
        if done.returncode:
            raise BedError(f"naming {image} {name}: {done.stderr.strip()}")

    def _answers(self) -> bool:
        return self.socket.exists() and self._ctr("version", seconds=10).returncode == 0

    def _ctr(self, *words: str, seconds: float) -> subprocess.CompletedProcess[str]:
        argv = ["ctr", f"--address={self.socket}", "--namespace=k8s.io", *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=seconds, check=False)
