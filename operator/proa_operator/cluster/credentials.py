"""An API server and how to prove to it who we are. Without kopf, whose import takes longer than most commands."""

from __future__ import annotations

import base64
import ssl
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Of each pair of path and data at most one is given; data are PEM, or that in base64 as in a kubeconfig."""

    server: str
    """Such as https://10.0.0.1:443."""
    token: str | None = None
    username: str | None = None
    password: str | None = None
    ca_path: str | None = None
    ca_data: str | None = None
    certificate_path: str | None = None
    certificate_data: str | None = None
    private_key_path: str | None = None
    private_key_data: str | None = None
    insecure: bool | None = None
    """Take any certificate of the server."""
    proxy_url: str | None = None

    def headers(self) -> dict[str, str]:
        """Authorization: by name and password, else by token; a client certificate needs none."""
        if self.username and self.password:
            pair = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
            return {"Authorization": f"Basic {pair}"}
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def ssl_context(self) -> ssl.SSLContext:
        """ssl.SSLError and OSError for certificates that cannot be read."""
        context = ssl.create_default_context(cafile=self.ca_path, cadata=_pem(self.ca_data) if self.ca_data else None)
        certificate = self.certificate_path or self.certificate_data
        key = self.private_key_path or self.private_key_data
        if certificate and key:
            self._load_client(context)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _load_client(self, context: ssl.SSLContext) -> None:
        """Python's ssl reads a client's certificate and key from files only."""
        if self.certificate_path and self.private_key_path:
            context.load_cert_chain(self.certificate_path, self.private_key_path)
            return
        with TemporaryDirectory() as folder:
            paths = []
            for name, path, data in (
                ("certificate", self.certificate_path, self.certificate_data),
                ("key", self.private_key_path, self.private_key_data),
            ):
                if path is None and data is not None:
                    file = Path(folder) / name
                    file.touch(mode=0o600)
                    file.write_text(_pem(data))
                    path = str(file)
                paths.append(path)
            context.load_cert_chain(str(paths[0]), paths[1])


def _pem(data: str) -> str:
    return data if data.startswith("-----BEGIN ") else base64.b64decode(data).decode("ascii")
