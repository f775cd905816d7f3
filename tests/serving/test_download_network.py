"""The Job's process behind a proxy and with a company's authorities, set as the chart's `modelDownload` sets them."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.test_download_process import end, start
from tests.unit.download_double import NEEDED_BYTES, Double, is_whole, served


@pytest.fixture
def hub() -> Iterator[Double]:
    with served() as double:
        yield double


@pytest.fixture
def authority(hub: Double, tmp_path: Path) -> Path:
    """The hub speaks TLS from now on, with a certificate that nobody else knows."""
    crt, key = tmp_path / "ca.crt", tmp_path / "ca.key"
    names = ("-subj", "/CN=hub", "-addext", "subjectAltName=IP:127.0.0.1")
    made = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-keyout", key, "-out", crt)
    subprocess.run([*made, *names], check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, key)
    hub.socket = context.wrap_socket(hub.socket, server_side=True)
    return crt


def test_the_authorities_of_ssl_cert_file_are_trusted(hub: Double, authority: Path, tmp_path: Path) -> None:
    target = tmp_path / "models/checkpoint"
    endpoint = hub.url.replace("http:", "https:")
    code, _ = end(start(hub, target, HF_ENDPOINT=endpoint, SSL_CERT_FILE=str(authority)))
    assert code == 0
    assert is_whole(target)


def test_an_authority_that_nobody_named_is_not_trusted(hub: Double, authority: Path, tmp_path: Path) -> None:
    code, said = end(start(hub, tmp_path / "models/checkpoint", HF_ENDPOINT=hub.url.replace("http:", "https:")))
    assert code == 1
    assert "CERTIFICATE_VERIFY_FAILED" in said


@pytest.mark.parametrize(("exceptions", "code"), [("", 0), ("127.0.0.1", 1)])
def test_a_proxy_is_used_but_for_the_exceptions(hub: Double, tmp_path: Path, exceptions: str, code: int) -> None:
    """The double plays the proxy; at the hub's own address nobody listens."""
    target = tmp_path / "models/checkpoint"
    net = {"HF_ENDPOINT": "http://127.0.0.1:9", "HTTP_PROXY": hub.url, "NO_PROXY": exceptions}
    found, _ = end(start(hub, target, **net))
    assert found == code
    assert hub.file_bytes == (0 if code else NEEDED_BYTES)
