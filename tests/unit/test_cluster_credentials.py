"""Who we are to an API server: headers and certificates, from files and from what a kubeconfig holds."""

from __future__ import annotations

import base64
import ssl
import subprocess
from dataclasses import asdict
from pathlib import Path

import kopf
import pytest
from proa_operator.cluster.credentials import Credentials

HEADERS = {
    "token": ({"token": "t"}, {"Authorization": "Bearer t"}),
    "name and password": ({"username": "u", "password": "p"}, {"Authorization": "Basic dTpw"}),
    "certificate only": ({}, {}),
}


@pytest.mark.parametrize(("fields", "headers"), HEADERS.values(), ids=HEADERS)
def test_headers_are_those_that_kopf_sends(fields: dict[str, str], headers: dict[str, str]) -> None:
    credentials = Credentials(server="https://a", **fields)
    assert credentials.headers() == headers
    assert kopf.ConnectionInfo(**asdict(credentials)).as_http_headers() == headers


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("pair")
    crt, key = folder / "a.crt", folder / "a.key"
    made = f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=a -days 1 -keyout {key} -out {crt}"
    subprocess.run(made.split(), check=True, capture_output=True, timeout=120)
    return crt, key


@pytest.mark.parametrize("are_data", [False, True])
def test_certificates_come_from_files_and_from_data(pair: tuple[Path, Path], are_data: bool) -> None:
    texts = [base64.b64encode(path.read_bytes()).decode() for path in pair]
    crt, key = texts if are_data else map(str, pair)
    suffix = "data" if are_data else "path"
    fields = {f"ca_{suffix}": crt, f"certificate_{suffix}": crt, f"private_key_{suffix}": key}
    context = Credentials(server="https://a", **fields).ssl_context()
    assert [found["subject"] for found in context.get_ca_certs()] == [((("commonName", "a"),),)]
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_a_key_of_another_certificate_is_noticed(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "b.key"
    subprocess.run(f"openssl genrsa -out {other} 2048".split(), check=True, capture_output=True, timeout=120)
    with pytest.raises(ssl.SSLError):
        Credentials(server="https://a", certificate_path=str(pair[0]), private_key_path=str(other)).ssl_context()


def test_only_who_asks_for_it_takes_any_certificate() -> None:
    context = Credentials(server="https://a", insecure=True).ssl_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)
