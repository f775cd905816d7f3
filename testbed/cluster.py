"""What a test does with a cluster: kubectl, helm, objects, waiting, audit log. Both tiers offer exactly this."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed.audit import AuditEvent, read_audit
from testbed.errors import BedError
from testbed.wait import until

Document = dict[str, Any]  # a Kubernetes object as JSON: its keys are the API's, not ours


class Cluster:
    """One API server, seen through `kubeconfig` with all rights."""

    def __init__(self, kubeconfig: Path, programs: Path, run: Path) -> None:
        """`programs` holds kubectl and helm; `run` is the folder of logs, audit log and credentials."""
        self.kubeconfig = kubeconfig
        self.programs = programs
        self.run = run

    def kubectl(self, *arguments: str, stdin: str | None = None, seconds: float = 60) -> str:
        """Standard output of kubectl; raises BedError with its standard error."""
        return _output(self.tried("kubectl", *arguments, stdin=stdin, seconds=seconds))

    def helm(self, *arguments: str, seconds: float = 300) -> str:
        """Standard output of helm; raises BedError with its standard error."""
        return _output(self.tried("helm", *arguments, seconds=seconds))

    def tried(
        self, program: str, *arguments: str, stdin: str | None = None, seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """The finished run of kubectl or helm, whatever its status: for refusals."""
        argv = [str(self.programs / program), *arguments]
        environment = {**os.environ, **self.environment()}
        try:
            return subprocess.run(
                argv, input=stdin, capture_output=True, text=True, timeout=seconds, env=environment, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise BedError(f"{program} {' '.join(arguments)}: no end after {seconds:g} s") from error

    def environment(self) -> Mapping[str, str]:
        """Variables for other programs: KUBECONFIG, helm's folders, and the programs first on PATH."""
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "HELM_CACHE_HOME": str(self.run / "helm"),
            "HELM_CONFIG_HOME": str(self.run / "helm"),
            "HELM_DATA_HOME": str(self.run / "helm"),
            "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}",
        }

    def apply(self, manifest: str | Document | Sequence[Document], *flags: str) -> str:
        """Server-side apply of YAML text or of objects, with strict decoding; raises BedError when refused."""
        return _output(self.tried_apply(manifest, *flags))

    def tried_apply(
        self, manifest: str | Document | Sequence[Document], *flags: str
    ) -> subprocess.CompletedProcess[str]:
        """As `apply`, for manifests that should be refused."""
        apply = ("apply", "--server-side", "--force-conflicts", "--validate=strict", "--filename=-")
        return self.tried("kubectl", *apply, *flags, stdin=_as_text(manifest))

    def get(self, kind: str, name: str = "", namespace: str = "default", selector: str = "") -> Document:
        """The object, or the list of all in the namespace that match; raises BedError when that name is unknown."""
        words = [kind, *([name] if name else []), *([f"--selector={selector}"] if selector else [])]
        found: Document = json.loads(self.kubectl("get", *words, f"--namespace={namespace}", "--output=json"))
        return found

    def until(self, condition: Callable[[], Any], *, what: str, seconds: float = 60) -> Any:
        """First true value of `condition`; what raises BedError in it counts as not yet."""
        last: list[BedError] = []

        def quietly() -> Any:
            try:
                return condition()
            except BedError as error:
                last[:] = [error]
                return None

        try:
            return until(quietly, seconds=seconds, what=what, every=0.2)
        except BedError as error:
            raise BedError(f"{error}; {last[0]}" if last else str(error)) from None

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig that acts as a ServiceAccount for an hour: what a pod of it may do, from outside."""
        token = self.kubectl("create", "token", name, f"--namespace={namespace}", "--duration=1h").strip()
        document = json.loads(self.kubeconfig.read_text())
        document["users"][0]["user"] = {"token": token}
        document["contexts"][0]["context"]["namespace"] = namespace
        path = self.run / f"{namespace}-{name}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(document))
        return path

    def audit(self) -> list[AuditEvent]:
        """What was asked of the API server so far, apart from the bed's own components, oldest first."""
        return read_audit(self.run / "audit.log")


def _output(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode:
        words = " ".join(done.args[1:4])
        raise BedError(f"{Path(done.args[0]).name} {words}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _as_text(manifest: str | Document | Sequence[Document]) -> str:
    if isinstance(manifest, str):
        return manifest
    objects = [manifest] if isinstance(manifest, dict) else list(manifest)
    # NOTE: separate documents: for a List kubectl checks fields by itself, and not as the server does.
    return "\n---\n".join(map(json.dumps, objects))
