"""Build the test bed's programs from the Go modules pinned in go.mod: `python -m testbed.build [PROGRAM ...]`.

What exists is skipped: programs lie in a cache folder named by the hash of go.sum and the build flags, and Go's own
cache makes a build that was cut off go on where it stopped. A cold build takes about 25 processor minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from testbed import debian
from testbed.errors import BedError
from testbed.progress import say
from testbed.store import SOURCES, cache_root, exclusively, key_of
from testbed.toolchain import go

CONTROL_PLANE = {
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    "etcd": "go.etcd.io/etcd/server/v3",
    "helm": "helm.sh/helm/v4/cmd/helm",
    "kwok": "sigs.k8s.io/kwok/cmd/kwok",
}
NODE = {
    "kubelet": "k8s.io/kubernetes/cmd/kubelet",
    "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
    "pause": "./pause",
}
CHECKERS = {"kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform"}
PACKAGES = CONTROL_PLANE | NODE | CHECKERS
DEADLINE_SECONDS = 60 * 60  # 17 minutes on two cores that nobody else uses; a busy machine took 45
PROGRESS_SECONDS = 30


def programs_folder() -> Path:
    """Folder of the built programs: its name is the hash of everything that decides their bytes."""
    pins = [(SOURCES / name).read_bytes() for name in ("go.mod", "go.sum", "pause/main.go")]
    return cache_root() / "bin" / key_of(*pins, _linker_flags().encode())


def missing(names: Iterable[str]) -> list[str]:
    """Names of `names` that are not built yet."""
    folder = programs_folder()
    return [name for name in names if not (folder / name).exists()]


def build(names: Iterable[str] = PACKAGES, *, seconds: float = DEADLINE_SECONDS) -> Path:
    """Build what is missing and return the folder; raises BedError with the compiler's last lines or past `seconds`."""
    debian.install(debian.missing_tools)
    folder = programs_folder()
    wanted = list(names)
    if not missing(wanted):
        return folder
    program = go()
    deadline = time.monotonic() + seconds
    with exclusively(folder.with_suffix(".lock"), seconds=seconds, what="waiting for another build of the test bed"):
        for name in missing(wanted):
            _build_one(program, name, folder, deadline)
    return folder


def _build_one(program: str, name: str, folder: Path, deadline: float) -> None:
    log, partial = folder / f"{name}.log", folder / f"{name}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    argv = [program, "build", "-v", "-trimpath", "-ldflags", _linker_flags(), "-o", str(partial), PACKAGES[name]]
    with log.open("w") as output:
        compiler = subprocess.Popen(argv, cwd=SOURCES, stderr=output, stdout=output, env=_go_environment())
        try:
            _watch(compiler, name, log, started, deadline)
        finally:
            if compiler.poll() is None:
                compiler.kill()
                compiler.wait()
    if compiler.returncode:
        raise BedError(f"building {name} failed, see {log}: {' | '.join(log.read_text().splitlines()[-3:])}")
    partial.rename(folder / name)
    say(f"{name}: built in {time.monotonic() - started:.0f} s")


def _watch(compiler: subprocess.Popen[bytes], name: str, log: Path, started: float, deadline: float) -> None:
    while True:
        if time.monotonic() > deadline:
            raise BedError(f"building {name}: past the deadline; `python -m testbed.build` goes on where it stopped")
        try:
            compiler.wait(min(PROGRESS_SECONDS, max(0.1, deadline - time.monotonic())))
        except subprocess.TimeoutExpired:
            packages = len(log.read_text().splitlines())
            say(f"{name}: {packages} packages compiled or fetched, {time.monotonic() - started:.0f} s")
        else:
            return


def _linker_flags() -> str:
    """Stripped, and stamped with the pinned version: helm compares charts with it, and the modules carry none."""
    version = _pinned_version("k8s.io/kubernetes")
    major, minor, _ = version.removeprefix("v").split(".")
    stamps = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(["-s -w", *(f"-X {p}.{key}={value}" for p in packages for key, value in stamps.items())])


def _pinned_version(module: str) -> str:
    lines = (line.split() for line in (SOURCES / "go.mod").read_text().splitlines())
    return next(words[1] for words in lines if len(words) >= 2 and words[0] == module)


def _go_environment() -> dict[str, str]:
    return os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"}


def main() -> None:
    """Build the named programs, or all."""
    names = sys.argv[1:] or list(PACKAGES)
    if unknown := [name for name in names if name not in PACKAGES]:
        print(f"unknown program {unknown[0]}: one of {', '.join(PACKAGES)}", file=sys.stderr)
        raise SystemExit(2)
    try:
        print(build(names))
    except BedError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
