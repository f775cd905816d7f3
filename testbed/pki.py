"""The bed's own certificates: one authority, EC keys, made by the openssl program in a second."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

from testbed.errors import BedError, BedUnavailable

DAYS = "3650"
CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """A certificate authority that lives in one folder."""

    def __init__(self, folder: Path) -> None:
        """Make the authority's key and certificate; raises BedUnavailable without openssl."""
        if shutil.which("openssl") is None:
            raise BedUnavailable("the test bed makes its certificates with openssl: install the package openssl")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.certificate = folder / "ca.crt"
        self.key = folder / "ca.key"
        out = ("-keyout", str(self.key), "-out", str(self.certificate))
        _openssl("req", "-x509", *CURVE, "-days", DAYS, "-subj", "/CN=proa-testbed", *out)

    def issue(self, name: str, subject: str, alternative_names: tuple[str, ...] = ()) -> tuple[Path, Path]:
        """Certificate and key files for `subject` ("/O=group/CN=user"); names as "IP:127.0.0.1" or "DNS:localhost"."""
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        _openssl("req", *CURVE, "-subj", subject, "-keyout", str(key), "-out", str(request))
        lines = ["extendedKeyUsage=serverAuth,clientAuth"]
        if alternative_names:
            lines.append(f"subjectAltName={','.join(alternative_names)}")
        extensions.write_text("\n".join(lines) + "\n")
        signer = ("-CA", str(self.certificate), "-CAkey", str(self.key), "-CAcreateserial", "-days", DAYS)
        _openssl("x509", "-req", "-in", str(request), *signer, "-extfile", str(extensions), "-out", str(certificate))
        return certificate, key

    def kubeconfig(self, path: Path, server: str, name: str, subject: str) -> Path:
        """A self-contained kubeconfig at `path` for a new certificate of `subject`."""
        certificate, key = self.issue(name, subject)
        user = {"client-certificate-data": _encoded(certificate), "client-key-data": _encoded(key)}
        return self.write_kubeconfig(path, server, user)

    def write_kubeconfig(self, path: Path, server: str, user: dict[str, str], namespace: str = "default") -> Path:
        """A kubeconfig at `path` that talks to `server` with the credentials `user`."""
        cluster = {"server": server, "certificate-authority-data": _encoded(self.certificate)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "bed", "cluster": cluster}],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "bed", "context": {"cluster": "bed", "user": "user", "namespace": namespace}}],
            "current-context": "bed",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(document, indent=1))
        return path


def service_account_keys(folder: Path) -> tuple[Path, Path]:
    """Private and public key that sign and check service account tokens."""
    private, public = folder / "sa.key", folder / "sa.pub"
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(private))
    _openssl("ec", "-in", str(private), "-pubout", "-out", str(public))
    return private, public


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise BedError(f"openssl {arguments[0]} failed: {done.stderr.strip()}")
