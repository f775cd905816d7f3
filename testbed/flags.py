"""Command lines of the control plane's programs, each with the reason for what is unusual."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from testbed.settings import BedSettings

Argv = list[str | Path]


class Bed(Protocol):
    """What the command lines need to know of a bed."""

    run: Path
    programs: Path
    address: str
    port: int
    settings: BedSettings


def etcd(bed: Bed, port: int, peer_port: int) -> Argv:
    """Nothing survives the bed, so nothing needs to reach the disk."""
    clients, peers = f"http://{bed.address}:{port}", f"http://{bed.address}:{peer_port}"
    return [
        bed.programs / "etcd",
        f"--data-dir={bed.run / 'etcd'}",
        f"--listen-client-urls={clients}",
        f"--advertise-client-urls={clients}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=default={peers}",
        "--unsafe-no-fsync",
        "--log-level=error",
    ]


def api_server(bed: Bed, etcd_port: int) -> Argv:
    """One authority signs both clients and the front proxy: then the proxy's name must be given."""
    pki = bed.run / "pki"
    return [
        bed.programs / "kube-apiserver",
        f"--etcd-servers=http://{bed.address}:{etcd_port}",
        f"--bind-address={bed.address}",
        f"--advertise-address={bed.address}",
        f"--secure-port={bed.port}",
        f"--service-cluster-ip-range={bed.settings.services}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        f"--kubelet-client-certificate={pki / 'admin.crt'}",
        f"--kubelet-client-key={pki / 'admin.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-key-file={pki / 'sa.pub'}",
        f"--service-account-signing-key-file={pki / 'sa.key'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--requestheader-client-ca-file={pki / 'ca.crt'}",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki / 'front-proxy.crt'}",
        f"--proxy-client-key-file={pki / 'front-proxy.key'}",
        f"--audit-policy-file={bed.run / 'audit-policy.json'}",
        f"--audit-log-path={bed.run / 'audit.log'}",
        "--max-requests-inflight=2000",
        "--max-mutating-requests-inflight=1000",
    ]


def _left_out(bed: Bed) -> Sequence[str]:
    """An EndpointSlice refuses the loopback addresses of played pods: its controller would fail and try again."""
    of_endpoints = ("-endpointslice-controller", "-endpoints-controller") if bed.address.startswith("127.") else ()
    return ("-node-ipam-controller", *of_endpoints)


def controller_manager(bed: Bed, port: int) -> Argv:
    """There is no cloud and no routing, so pod ranges per node are not handed out."""
    pki = bed.run / "pki"
    return [
        bed.programs / "kube-controller-manager",
        *_component(bed, "controllers", port),
        "--use-service-account-credentials",
        f"--service-account-private-key-file={pki / 'sa.key'}",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--cluster-signing-cert-file={pki / 'ca.crt'}",
        f"--cluster-signing-key-file={pki / 'ca.key'}",
        f"--controllers={','.join(('*', *_left_out(bed)))}",
        "--node-monitor-period=2s",
        f"--node-monitor-grace-period={bed.settings.node_grace_seconds}s",
        "--horizontal-pod-autoscaler-sync-period=2s",
        "--pvclaimbinder-sync-period=2s",
    ]


def scheduler(bed: Bed, port: int) -> Argv:
    """The default scheduler with a client that does not hold back."""
    return [bed.programs / "kube-scheduler", *_component(bed, "scheduler", port)]


def kwok(bed: Bed, port: int, stages: Sequence[Path]) -> Argv:
    """Plays the pods of annotated nodes by our own stages."""
    return [
        bed.programs / "kwok",
        f"--kubeconfig={bed.run / 'kwok.kubeconfig'}",
        "--manage-all-nodes=false",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        f"--node-lease-duration-seconds={bed.settings.lease_seconds}",
        f"--node-ip={bed.address}",
        f"--server-address={bed.address}:{port}",
        *(f"--config={stage}" for stage in stages),
    ]


def _component(bed: Bed, user: str, port: int) -> list[str]:
    kubeconfig = bed.run / f"{user}.kubeconfig"
    return [
        *(f"--{purpose}kubeconfig={kubeconfig}" for purpose in ("", "authentication-", "authorization-")),
        f"--bind-address={bed.address}",
        f"--secure-port={port}",
        "--leader-elect=false",
        f"--kube-api-qps={bed.settings.client_qps}",
        f"--kube-api-burst={2 * bed.settings.client_qps}",
    ]
