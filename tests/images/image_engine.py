"""`buildah` without a daemon: it builds Dockerfiles and runs what they make in a chroot of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUILD_SECONDS = 2700  # on a starved machine; a minute or two on a quiet one
RUN_SECONDS = 600
PIP_KEYS = ("index-url", "extra-index-url", "cert", "proxy", "timeout", "trusted-host")


class ImageError(AssertionError):
    """A build or a program of an image failed; the message ends with what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a registry would show of an image."""

    name: str
    user: str
    command: tuple[str, ...]
    environment: tuple[str, ...]
    num_layers: int
    num_bytes: int
    """Of all layers, unpacked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Images in `folder`; `mounts` (host path -> path in a build or run) are readable everywhere."""

    folder: Path
    mounts: Mapping[Path, str]

    def build(self, file: Path, target: str, arguments: Mapping[str, str], context: Path = ROOT) -> Built:
        """Stage `target` of a Dockerfile. ImageError when a step fails."""
        name = f"localhost/proa-check-{target}:test"
        words = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
        options = [
            "--pull-never",
            "--layers",
            "--no-cache",
            "--force-rm",
            "--isolation=chroot",
            f"--file={file}",
            f"--target={target}",
        ]
        self.buildah("bud", *options, *self.volumes(), *words, f"--tag={name}", str(context), seconds=BUILD_SECONDS)
        return self.inspect(name)

    def inspect(self, name: str) -> Built:
        """ImageError when there is no such image."""
        found: dict[str, Any] = json.loads(self.buildah("inspect", "--type=image", name))["OCIv1"]
        config = found["config"]
        listed = json.loads(self.buildah("images", "--json", name))
        return Built(
            name=name,
            user=config.get("User", ""),
            command=tuple(config.get("Cmd") or ()),
            environment=tuple(config.get("Env") or ()),
            num_layers=len(found["rootfs"]["diff_ids"]),
            num_bytes=_bytes(listed[0]["size"]),
        )

    def container(self, image: str) -> Container:
        """A copy of the image in which programs can run; to be removed."""
        return Container(engine=self, name=self.buildah("from", "--pull-never", image).strip())

    def remove(self, *images: str) -> None:
        """With the layers that no other image has."""
        self.buildah("rmi", "--force", *images)

    def buildah(self, *words: str, seconds: float = 600) -> str:
        """Its stdout. ImageError with its last lines when it fails."""
        done = subprocess.run(self.argv(*words), capture_output=True, text=True, timeout=seconds, check=False)
        if done.returncode:
            said = "\n".join([*done.stdout.splitlines()[-15:], *done.stderr.splitlines()[-15:]])
            raise ImageError(f"buildah {words[0]} ended with {done.returncode}:\n{said}")
        return done.stdout

    def argv(self, *words: str) -> list[str]:
        """The command line."""
        return ["buildah", f"--root={self.folder / 'store'}", f"--runroot={self.folder / 'run'}", *words]

    def volumes(self) -> list[str]:
        """Options that mount `mounts`."""
        return [f"--volume={host}:{inside}:ro" for host, inside in self.mounts.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """Programs run as the image's user with its environment; a chroot shares this machine's network."""

    engine: Engine
    name: str

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """To the end of the program, whatever its exit status."""
        return subprocess.run(self._argv(argv), capture_output=True, text=True, timeout=RUN_SECONDS, check=False)

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """In a process group of its own, for `stop` to end."""
        return subprocess.Popen(
            self._argv(argv), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
        )

    def remove(self) -> None:
        """With all that was written in it."""
        self.engine.buildah("rm", self.name)

    def _argv(self, argv: Sequence[str]) -> list[str]:
        return self.engine.argv("run", "--isolation=chroot", *self.engine.volumes(), self.name, "--", *argv)


def stop(process: subprocess.Popen[str]) -> str:
    """End the program with SIGTERM; all that it said."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)  # buildah and its chroot helper hand no signal on
    said, _ = process.communicate(timeout=RUN_SECONDS)
    return said


def pip_settings() -> str:
    """This machine's settings of pip as a configuration file: how builds reach the same index."""
    words = [str(Path(sys.base_prefix, "bin", "python3")), "-m", "pip", "config", "list"]
    listed = subprocess.run(words, capture_output=True, text=True, timeout=RUN_SECONDS, check=False).stdout
    pairs = (line.partition("=") for line in listed.splitlines())
    kept = {key.rpartition(".")[2]: value.strip("'\"") for key, _, value in pairs}
    lines = [f"{key} = {kept[key]}" for key in PIP_KEYS if key in kept]
    return "\n".join(["[global]", *lines, ""])


def _bytes(size: str) -> int:
    number, unit = size.split()
    return round(float(number) * {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}[unit.upper()])
