"""oci:// against a double of a registry: manifests and blobs by digest, tokens by challenge."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from proa_operator.model_download.download import download
from proa_operator.model_download.errors import Refused, WrongDigest
from proa_operator.model_download.progress import Progress

from tests.unit.download_double import (
    MODEL,
    NEEDED_BYTES,
    WEIGHTS,
    Double,
    Fault,
    Impatient,
    is_whole,
    served,
    settings,
)

SIZE = len(MODEL[WEIGHTS])


@pytest.fixture
def registry() -> Iterator[Double]:
    with served() as double:
        yield double


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint"


def fetch(target: Path, registry: Double, *, token: str = "", reference: str = ":v1") -> Impatient:
    stop = Impatient()
    download(settings(target, registry.oci + reference, registry.url, token=token), Progress(), stop)
    return stop


def manifest_digest(registry: Double) -> str:
    return f"sha256:{hashlib.sha256(registry.manifest()).hexdigest()}"


@pytest.mark.parametrize("title", ["org.opencontainers.image.title", "org.cncf.model.filepath"])
def test_each_layer_is_a_file_and_a_second_run_asks_for_nothing(registry: Double, target: Path, title: str) -> None:
    registry.title = title
    fetch(target, registry)
    assert is_whole(target)
    assert registry.file_bytes == NEEDED_BYTES
    assert json.loads((target / "complete.json").read_text())["revision"] == manifest_digest(registry)
    num_requests = len(registry.seen)
    fetch(target, registry)
    assert len(registry.seen) == num_requests


def test_a_broken_blob_goes_on(registry: Double, target: Path) -> None:
    registry.plan(WEIGHTS, Fault(cut_after=1000), Fault(status=429, headers={"Retry-After": "9"}))
    assert max(fetch(target, registry).waits) == 9.0
    assert is_whole(target)
    assert registry.file_bytes == NEEDED_BYTES


def test_wrong_blobs_and_manifests_are_refused(registry: Double, target: Path) -> None:
    registry.plan(WEIGHTS, Fault(content=b"\0" * SIZE))
    with pytest.raises(WrongDigest, match=f"{WEIGHTS}: sha256"):
        fetch(target, registry)
    assert not list(target.parent.rglob(f"{WEIGHTS}*"))
    registry.plan("manifest", Fault(content=b"{}"))
    with pytest.raises(WrongDigest, match="the registry sends a manifest with"):
        fetch(target, registry)
    fetch(target, registry)
    assert is_whole(target)


def test_a_model_is_pinned_by_digest(registry: Double, target: Path) -> None:
    digest = manifest_digest(registry)
    fetch(target, registry, reference=f":v1@{digest}")
    assert is_whole(target)
    registry.plan("manifest", Fault(content=registry.manifest() + b" "))
    with pytest.raises(WrongDigest):
        fetch(target.parent / "other", registry, reference=f"@{digest}")


def test_an_index_of_one_is_followed(registry: Double, target: Path) -> None:
    entry = {"digest": manifest_digest(registry)}
    registry.plan("manifest", Fault(content=json.dumps({"manifests": [entry]}).encode()))
    fetch(target, registry)
    assert is_whole(target)
    registry.plan("manifest", Fault(content=json.dumps({"manifests": [entry, entry]}).encode()))
    with pytest.raises(Refused, match="an index of 2 manifests"):
        fetch(target.parent / "other", registry)


@pytest.mark.parametrize(
    ("secret", "password"),
    [("user:pass", "user:pass"), ("a-token", "token:a-token"), ("", "")],
    ids=["user", "access token", "anonymous"],
)
def test_the_challenge_is_answered_and_the_password_goes_nowhere_else(
    registry: Double, target: Path, secret: str, password: str
) -> None:
    registry.secret = "asked for"
    basic = f"Basic {base64.b64encode(password.encode()).decode()}" if password else ""
    with served() as cdn:
        registry.cdn = cdn.url
        fetch(target, registry, token=secret)
        assert is_whole(target)
        assert {seen.authorization for seen in registry.seen if seen.name == "token"} == {basic}
        assert {seen.authorization for seen in registry.seen if seen.name != "token"} == {"", "Bearer given"}
        assert {seen.authorization for seen in cdn.seen} == {""}


def test_a_token_that_expired_is_renewed(registry: Double, target: Path) -> None:
    registry.secret = "asked for"
    challenge = {"WWW-Authenticate": f'Bearer realm="{registry.url}/token",service="registry"'}
    registry.plan(WEIGHTS, Fault(cut_after=1000), Fault(status=401, headers=challenge))
    fetch(target, registry)
    assert is_whole(target)
    assert sum(seen.name == "token" for seen in registry.seen) == 2


def answers(status: int, **headers: str) -> Callable[[Double], None]:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda registry: registry.plan("manifest", *[Fault(status=status, headers=given)] * 2)


def layer(**lies: object) -> Callable[[Double], None]:
    return lambda registry: registry.lies.update({WEIGHTS: lies})


def media(kind: str) -> Callable[[Double], None]:
    return lambda registry: setattr(registry, "media_type", kind)


def bare(registry: Double) -> None:
    registry.plan("manifest", Fault(content=b'{"layers": []}'))


def no_token(registry: Double) -> None:
    registry.secret = "x"
    registry.plan("token", Fault(status=401))


@pytest.mark.parametrize(
    ("prepare", "text"),
    [
        (answers(401), "set spec.model.tokenSecretRef"),
        (answers(403), "set spec.model.tokenSecretRef"),
        (answers(404), "check the name and the tag"),
        (answers(401, WWW_Authenticate='Basic realm="x"'), "set spec.model.tokenSecretRef"),
        (answers(401, WWW_Authenticate='Bearer realm="http://auth.example/token"'), "not https"),
        (no_token, "set spec.model.tokenSecretRef"),
        (bare, "has no layers"),
        (layer(annotations={}), "without file name"),
        (layer(size="many"), "without file name"),
        (layer(digest="sha512:00"), "push the model again with sha256"),
        (layer(digest="sha256:../../x"), "not a sha256 digest"),
        (layer(annotations={"org.opencontainers.image.title": "../../evil.safetensors"}), "not a plain path"),
        (layer(annotations={"org.opencontainers.image.title": "config.json"}), "listed twice"),
        (layer(annotations={"org.opencontainers.image.title": "x", "io.deis.oras.content.unpack": "true"}), "archive"),
        (media("application/vnd.cncf.model.weight.v1.tar"), "as an archive"),
        (media("application/vnd.oci.image.layer.v1.tar+gzip"), "as an archive"),
    ],
)
def test_refusals_say_the_fix(registry: Double, target: Path, prepare: Callable[[Double], None], text: str) -> None:
    prepare(registry)
    with pytest.raises(Refused, match=text) as caught:
        fetch(target, registry)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert registry.file_bytes == 0
    assert not target.exists()
