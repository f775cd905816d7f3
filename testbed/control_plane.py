"""Tier (a): etcd, API server, controller manager, scheduler and kwok on loopback, ready in about 15 s."""

from __future__ import annotations

import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed import flags
from testbed.audit import audit_policy
from testbed.build import CONTROL_PLANE, build
from testbed.cluster import Cluster
from testbed.daemons import Daemons
from testbed.guard import Guard
from testbed.journal import claim
from testbed.pki import Authority, service_account_keys
from testbed.played import PlayedNodes, stage_files
from testbed.ports import free_ports
from testbed.processes import Identity
from testbed.progress import say
from testbed.settings import BedSettings
from testbed.store import runs_root
from testbed.undo import sweep, tear_down
from testbed.volumes import volumes

START_SECONDS = 120.0
COMPONENT_USERS = {
    "admin": "/O=system:masters/CN=admin",
    "kwok": "/O=system:masters/CN=kwok",
    "controllers": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "proxy": "/CN=system:kube-proxy",
}


class ControlPlane(Cluster):
    """A context manager. Everything it starts ends with it, also when this process is killed."""

    def __init__(self, settings: BedSettings | None = None, *, name: str = "", is_kept: bool = False) -> None:
        """`is_kept`: leave it running when this process ends, until `tear_down` of its run folder."""
        self.settings = settings or BedSettings()
        self.address = "127.0.0.1"
        self.is_kept = is_kept
        run = runs_root() / (name or f"a{os.getpid()}-{id(self) % 997}")
        super().__init__(kubeconfig=run / "admin.kubeconfig", programs=build(CONTROL_PLANE), run=run)
        self.nodes = PlayedNodes(self)
        self.guard: Guard | None = None
        self.daemons: Daemons | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Wait until the default namespace takes pods; raises BedError with the log lines that tell why not."""
        sweep(runs_root())
        claim(self.run, None if self.is_kept else Identity.of(os.getpid()))
        self.guard = None if self.is_kept else Guard(self.run)
        try:
            self._start_programs()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the programs in the reverse order of their start (the API server hangs when etcd goes first)."""
        tear_down(self.run)
        if self.daemons is not None:
            self.daemons.reap()
        if self.guard is not None:
            self.guard.release()

    def _prefix(self) -> Sequence[str]:
        """Words before each program's own: none, as loopback is this machine's."""
        return ()

    def _start_programs(self) -> Daemons:
        etcd, etcd_peer, self.port, controllers, scheduler, kwok = self._ports()
        self.server = f"https://{self.address}:{self.port}"
        self._write_credentials()
        self.daemons = daemons = Daemons(self.run, self._prefix())
        daemons.start("etcd", flags.etcd(self, etcd, etcd_peer))
        daemons.start("kube-apiserver", flags.api_server(self, etcd))
        daemons.await_ready("kube-apiserver", self._is_ready, seconds=START_SECONDS)
        daemons.start("kube-controller-manager", flags.controller_manager(self, controllers))
        daemons.start("kube-scheduler", flags.scheduler(self, scheduler))
        daemons.start("kwok", flags.kwok(self, kwok, stage_files()))
        self.apply(volumes(self.run / "volumes", self.settings.num_volumes))
        account = ("get", "serviceaccount", "default", "--output=name")
        self.until(lambda: self.kubectl(*account), what="the default service account", seconds=START_SECONDS)
        say(f"control plane ready at {self.server}")
        return daemons

    def _ports(self) -> list[int]:
        return free_ports(6, self.address)

    def _write_credentials(self) -> None:
        self.authority = Authority(self.run / "pki")
        hosts = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
        addresses = ("127.0.0.1", self.address, self.settings.api_service_ip)
        names = (*(f"DNS:{host}" for host in hosts), *(f"IP:{address}" for address in addresses))
        self.authority.issue("apiserver", "/CN=kube-apiserver", names)
        self.authority.issue("front-proxy", "/CN=front-proxy")
        service_account_keys(self.authority.folder)
        for name, subject in COMPONENT_USERS.items():
            self.authority.kubeconfig(self.run / f"{name}.kubeconfig", self.server, name, subject)
        (self.run / "audit-policy.json").write_text(audit_policy())

    def _is_ready(self) -> bool:
        trust = ssl.create_default_context(cafile=str(self.authority.certificate))
        trust.load_cert_chain(self.run / "pki" / "admin.crt", self.run / "pki" / "admin.key")
        try:
            with urllib.request.urlopen(f"{self.server}/readyz", context=trust, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def run_folder(name: str) -> Path:
    """Where the bed called `name` lives."""
    return runs_root() / name
