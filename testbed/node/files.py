"""Configuration files of containerd, the pod network and the kubelet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from testbed.images.images import PAUSE, torch_folder
from testbed.images.roots import TORCH_MOUNT
from testbed.node.network import Slot
from testbed.node.packages import PLUGINS

NODE_NAME = "node1"


def containerd_config(state: Path) -> str:
    """NOTE: the score adjustment is restricted because a container may lack CAP_SYS_RESOURCE, as here."""
    return f"""version = 2
root = "{state}/root"
state = "{state}/state"
[grpc]
  address = "{state}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      base_runtime_spec = "{state}/base-spec.json"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{PLUGINS}"
    conf_dir = "{state}/cni"
"""


def base_spec(default: str) -> str:
    """The runtime's default specification of a container, with torch's folder mounted read-only when there is one."""
    spec = json.loads(default)
    if (folder := torch_folder()) is not None:
        options = ["rbind", "ro", "nosuid", "nodev"]
        spec["mounts"].append({"destination": TORCH_MOUNT, "type": "bind", "source": str(folder), "options": options})
    return json.dumps(spec)


def pod_network(slot: Slot, state: Path) -> str:
    """One bridge; the node is the only one, so all pods lie on it."""
    ranges = [[{"subnet": slot.pods.replace("/16", "/24")}]]
    addresses = {
        "type": "host-local",
        "dataDir": str(state / "addresses"),
        "ranges": ranges,
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": addresses}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "0.4.0", "name": slot.name, "plugins": [bridge, ports]})


def kubelet_config(slot: Slot, run: Path, socket: Path, cgroup: str) -> str:
    """Cgroup v1 is accepted; images are never collected, as nothing could pull them again."""
    pki = run / "pki"
    config: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": slot.node,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / f"{NODE_NAME}.crt"),
        "tlsPrivateKeyFile": str(pki / f"{NODE_NAME}.key"),
        "containerRuntimeEndpoint": f"unix://{socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": ["pods"],
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "nodeStatusUpdateFrequency": "4s",
        "syncFrequency": "2s",
        "resolvConf": "",
        "podLogsDir": str(run / "pod-logs"),
        "volumePluginDir": str(run / "kubelet" / "plugins"),
        "serializeImagePulls": False,
    }
    return json.dumps(config, indent=1)
