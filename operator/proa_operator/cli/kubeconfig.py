"""A cluster and credentials from kubeconfig files, as kubectl reads them; from a pod's service account without any.

Source: kubernetes.io, "Organizing Cluster Access Using kubeconfig Files" and "client-go credential plugins".
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from proa_operator.cli.errors import KubeconfigError
from proa_operator.cluster.connect import connection
from proa_operator.cluster.credentials import Credentials

PLUGIN_SECONDS = 60.0
_FILES = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
_KINDS = ("contexts", "clusters", "users")

Entry = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Where to and who."""

    info: Credentials
    namespace: str
    """The context's."""
    expires_at: float | None = None
    """Seconds since the epoch; a plugin gives tokens that end."""


def login(environment: Mapping[str, str], *, kubeconfig: Path | None, context: str | None) -> Login:
    """KubeconfigError with one line for whatever is missing or not understood."""
    paths = _paths(environment, kubeconfig)
    if not paths:
        return _in_cluster(environment)
    merged = _merged(paths)
    name = context or merged["current-context"]
    if not name:
        raise KubeconfigError("the kubeconfig has no current context: give --context, or kubectl config use-context")
    chosen = _entry(merged, "contexts", name)
    cluster, user = _entry(merged, "clusters", chosen.get("cluster")), _entry(merged, "users", chosen.get("user"))
    if "tls-server-name" in cluster:
        raise KubeconfigError("tls-server-name in a kubeconfig is not supported: use a server name of the certificate")
    credentials = _from_plugin(user["exec"]) if "exec" in user else user
    return Login(
        info=_info(cluster, credentials),
        namespace=chosen.get("namespace") or "default",
        expires_at=_seconds(credentials.get("expirationTimestamp")),
    )


def _paths(environment: Mapping[str, str], kubeconfig: Path | None) -> list[Path]:
    """Of the files that are there; one that was named has to be."""
    if kubeconfig is not None:
        if not kubeconfig.is_file():
            raise KubeconfigError(f"{kubeconfig}: no such file; give the path of a kubeconfig")
        return [kubeconfig]
    named = environment.get("KUBECONFIG", "")
    paths = [Path(path) for path in named.split(os.pathsep) if path] or [Path.home() / ".kube" / "config"]
    found = [path for path in paths if path.is_file()]
    if named and not found:
        raise KubeconfigError(f"KUBECONFIG={named}: no such file; correct the variable, or give --kubeconfig")
    return found


def _in_cluster(environment: Mapping[str, str]) -> Login:
    if not environment.get("KUBERNETES_SERVICE_HOST"):
        raise KubeconfigError("no cluster: there is no kubeconfig; set KUBECONFIG, or give --kubeconfig")
    return Login(info=connection(environment), namespace="default")


def _merged(paths: list[Path]) -> dict[str, Any]:
    """The first file that says something wins, entry by entry."""
    merged: dict[str, Any] = {"current-context": "", **{kind: {} for kind in _KINDS}}
    for path in paths:
        document = _document(path)
        merged["current-context"] = merged["current-context"] or document.get("current-context") or ""
        for kind in _KINDS:
            for item in document.get(kind) or ():
                entry = _resolved(item.get(kind.removesuffix("s")) or {}, path.parent)
                merged[kind].setdefault(item.get("name"), entry)
    return merged


def _document(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise KubeconfigError(f"{path}: cannot be read as a kubeconfig ({reason})") from None
    if not isinstance(found, dict):
        raise KubeconfigError(f"{path}: is not a kubeconfig; it has to be a mapping with clusters, users and contexts")
    return found


def _resolved(entry: Entry, folder: Path) -> Entry:
    """Relative paths are meant from the folder of their file."""
    return {name: str(folder / value) if name in _FILES and value else value for name, value in entry.items()}


def _entry(merged: dict[str, Any], kind: str, name: str | None) -> Entry:
    found: Entry | None = merged[kind].get(name)
    if found is None:
        known = ", ".join(sorted(merged[kind])) or "none"
        raise KubeconfigError(f"the kubeconfig has no {kind.removesuffix('s')} {name!r}: it has {known}")
    return found


def _info(cluster: Entry, user: Entry) -> Credentials:
    """Data win over files, as in kubectl."""
    if not cluster.get("server"):
        raise KubeconfigError("the kubeconfig's cluster names no server: set clusters[].cluster.server")
    pairs = {
        "ca": (cluster, "certificate-authority"),
        "certificate": (user, "client-certificate"),
        "private_key": (user, "client-key"),
    }
    files: dict[str, Any] = {}
    for name, (entry, field) in pairs.items():
        data = entry.get(f"{field}-data")
        files[f"{name}_{'data' if data else 'path'}"] = data or entry.get(field)
    return Credentials(
        server=cluster["server"],
        insecure=cluster.get("insecure-skip-tls-verify"),
        proxy_url=cluster.get("proxy-url"),
        token=_token(user),
        username=user.get("username"),
        password=user.get("password"),
        **files,
    )


def _token(user: Entry) -> str | None:
    if user.get("token") or not user.get("tokenFile"):
        return user.get("token")
    try:
        return Path(user["tokenFile"]).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise KubeconfigError(f"{user['tokenFile']}: cannot be read ({error.strerror}); log in again") from None


def _from_plugin(plugin: Entry) -> Entry:
    """Run a credential plugin and read its ExecCredential."""
    command = [plugin["command"], *(plugin.get("args") or ())]
    request = {"apiVersion": plugin.get("apiVersion"), "kind": "ExecCredential", "spec": {"interactive": False}}
    extra = {item["name"]: item["value"] for item in plugin.get("env") or ()}
    environment = {**os.environ, **extra, "KUBERNETES_EXEC_INFO": json.dumps(request)}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PLUGIN_SECONDS, check=True
        )
        status = json.loads(done.stdout)["status"]
    except FileNotFoundError:
        hint = (plugin.get("installHint") or "install it").strip().splitlines()[0]
        raise KubeconfigError(f"the credential plugin {plugin['command']} is not installed: {hint}") from None
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        reason = said[-1] if said else type(error).__name__
        raise KubeconfigError(f"the credential plugin {plugin['command']} failed: {reason}") from None
    return {
        "token": status.get("token"),
        "client-certificate-data": status.get("clientCertificateData"),
        "client-key-data": status.get("clientKeyData"),
        "expirationTimestamp": status.get("expirationTimestamp"),
    }


def _seconds(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None
