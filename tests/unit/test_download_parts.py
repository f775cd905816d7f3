"""The pure parts: URIs, names, digests, waits, settings."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proa_operator.api.engine import EngineType
from proa_operator.api.service import ServiceSpec
from proa_operator.local.backoff import Backoff
from proa_operator.model_download.digest import Digest, parse_digest
from proa_operator.model_download.errors import AttemptFailed, GaveUp, Refused, Stopped, WrongDigest
from proa_operator.model_download.listing import ModelFile, check_path
from proa_operator.model_download.needed import needed
from proa_operator.model_download.part import Part
from proa_operator.model_download.retry import Patience, Retry
from proa_operator.model_download.settings import read_settings
from proa_operator.model_download.uri import parse_uri
from proa_operator.model_download.web import retry_after
from proa_operator.render import RenderSettings, Service, download_objects

from tests.unit.download_double import Impatient

HEX = "a" * 64


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("hf://org/model", "hf://org/model"),
        ("hf://org/model@main", "hf://org/model"),
        ("hf://org/Model-1.5_x@refs/pr/3", "hf://org/Model-1.5_x@refs/pr/3"),
        ("oci://registry.example/models/m", "oci://registry.example/models/m:latest"),
        ("oci://registry.example:5000/m:v1", "oci://registry.example:5000/m:v1"),
        ("oci://[::1]:5000/m:v1", "oci://[::1]:5000/m:v1"),
        (f"oci://registry.example/m:v1@sha256:{HEX}", f"oci://registry.example/m@sha256:{HEX}"),
    ],
)
def test_uris(text: str, parsed: str) -> None:
    assert str(parse_uri(text)) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "hf://model", "hf://a/b/c", "hf://../x", "hf://a/..", "hf://a/b@", "hf://a/b?x", "oci://host", "oci://u:p@h/m",
        "oci://h/../m", "oci://h/M", f"oci://h/m@sha256:{HEX[1:]}", "pvc://claim", "file:///x", "", "hf://a/b\n",
    ],
)  # fmt: skip
def test_other_uris_are_refused(text: str) -> None:
    with pytest.raises(Refused, match="cannot be downloaded"):
        parse_uri(text)


@pytest.mark.parametrize(
    ("paths", "kept"),
    [
        ("config.json model.safetensors tokenizer.json", "config.json model.safetensors tokenizer.json"),
        ("m.safetensors LICENSE NOTICE.txt README.md .gitattributes a.png", "m.safetensors LICENSE NOTICE.txt"),
        ("m.safetensors original/m.safetensors onnx/config.json m.onnx m.gguf x.bin", "m.safetensors"),
        ("tekken.json tokenizer.model.v3 tokenizer.model vocab.txt", "tekken.json tokenizer.model vocab.txt"),
        ("model.safetensors consolidated.safetensors", "model.safetensors"),
        ("consolidated.safetensors params.json", "consolidated.safetensors params.json"),
        ("a.safetensors modeling_x.py chat_template.jinja sub/b.safetensors", None),
        ("tokenizer.json config.json", None),
    ],
)
def test_needed_files(paths: str, kept: str | None) -> None:
    assert needed(paths.split()) == set((kept or paths).split())


@pytest.mark.parametrize(
    ("digest", "content"),
    [
        ("git-sha1:e69de29bb2d1d6434b8b29ae775ad8c2e48c5391", b""),
        ("git-sha1:3b18e512dba79e4c8300dd08aeb37f8e728b8dad", b"hello world\n"),
        ("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", b""),
        ("sha256:a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a447", b"hello world\n"),
    ],
)
def test_digests_of_known_contents(digest: str, content: bytes) -> None:
    parsed = parse_digest(digest)
    hasher = parsed.hasher(len(content))
    hasher.update(content)
    assert f"{parsed.algorithm}:{hasher.hexdigest()}" == str(parsed) == digest


def listed(content: bytes, algorithm: str) -> ModelFile:
    if algorithm == "sha256":
        digest = hashlib.sha256(content).hexdigest()
    else:
        digest = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return ModelFile(path="f", size=len(content), digest=parse_digest(f"{algorithm}:{digest}"), url="")


def fill(folder: Path, file: ModelFile, left: bytes, rest: bytes) -> None:
    """As a run that found `left` on the disk and then got `rest`."""
    (folder / "f.part").write_bytes(left)
    with Part(folder / "f", file, lambda: None) as part:
        part.write(rest)
        part.verify()
        part.finish()


@given(
    content=st.binary(min_size=1, max_size=64),
    algorithm=st.sampled_from(["sha256", "git-sha1"]),
    at=st.integers(0, 63),
    split=st.integers(0, 64),
)
def test_any_flipped_bit_is_caught_and_removed(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, algorithm: str, at: int, split: int
) -> None:
    folder = tmp_path_factory.mktemp("part")
    wrong = bytearray(content)
    wrong[at % len(content)] ^= 1 << (at % 8)
    with pytest.raises(WrongDigest):
        fill(folder, listed(content, algorithm), bytes(wrong[:split]), bytes(wrong[split:]))
    assert not list(folder.iterdir())
    fill(folder, listed(content, algorithm), content[:split], content[split:])
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("f", content)]


def test_a_digest_without_the_blob_header_is_another(tmp_path: Path) -> None:
    file = listed(b"abc", "git-sha1")
    plain = Digest(algorithm=file.digest.algorithm, hex=hashlib.sha1(b"abc").hexdigest())
    with pytest.raises(WrongDigest):
        fill(tmp_path, ModelFile(path="f", size=3, digest=plain, url=""), b"", b"abc")


@pytest.mark.parametrize("path", ["a.json", "a/b.json", "..a/b..c", "a b.json", "ü.json"])
def test_plain_paths(path: str) -> None:
    check_path(path)


@pytest.mark.parametrize(
    "path",
    ["", "/", "/a", "a/", "..", "../a", "a/../b", "./a", "a//b", "a\\b", "a\0b", "a\u202eb", "x" * 300, "a.part"],
)
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(Refused, match=r"refused|rename it"):
        check_path(path)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [("", 0, 0), ("7", 7, 7), ("soon", 0, 0), ("-3", 0, 0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0, 0),
     ("Fri, 01 Jan 2100 00:00:00 GMT", 1e8, 1e10)],
)  # fmt: skip
def test_retry_after(text: str, low: float, high: float) -> None:
    assert low <= retry_after(text) <= high


def retry(stop: Impatient, attempts: int = 3) -> Retry:
    backoff = Backoff(first_seconds=1.0, cap_seconds=60.0, jitter=0.0)
    return Retry(patience=Patience(num_attempts=attempts, backoff=backoff), stop=stop)


@pytest.mark.parametrize(
    ("gains", "num_waits"),
    [
        pytest.param([0] * 9, 2, id="never"),
        pytest.param([1, 1, 1, 1], 2, id="only once"),
        pytest.param([1, 2, 2, 3, 3, 3], 5, id="now and then"),
        pytest.param([5, 0, 5, 0, 5], 2, id="the same bytes again do not count"),
    ],
)
def test_attempts_without_a_gain_are_bounded(gains: list[int], num_waits: int) -> None:
    stop, held = Impatient(), [0]
    coming = iter(gains)

    def attempt() -> None:
        held[0] = next(coming)
        raise AttemptFailed("no")

    with pytest.raises(GaveUp, match="no; gave up after 3 attempts"):
        retry(stop).run(attempt, lambda: held[0])
    assert len(stop.waits) == num_waits


def test_waits_grow_and_a_wish_is_bounded() -> None:
    stop = Impatient()
    wishes = iter([0.0, 0.0, 1e9, 0.0])

    def attempt() -> None:
        raise AttemptFailed("no", next(wishes))

    with pytest.raises(GaveUp):
        retry(stop, attempts=4).run(attempt)
    assert stop.waits == [1.0, 2.0, 600.0]


def test_a_stop_ends_the_waits() -> None:
    stop = Impatient()
    stop.set()
    with pytest.raises(Stopped) as caught:
        retry(stop).run(lambda: None)
    assert caught.value.exit_code == 143


@pytest.mark.parametrize("uri", ["hf://org/model", "oci://registry.example/models/m:v1"])
def test_the_job_starts_it_with_flags_and_a_token_that_it_takes(uri: str) -> None:
    model = {"uri": uri, "name": "m", "tokenSecretRef": {"name": "a", "key": "b"}}
    document = {"model": model, "engine": {"type": "sim"}, "pools": {"prefill": {}, "decode": {}}}
    spec = ServiceSpec.model_validate_json(json.dumps(document))
    render = RenderSettings(
        operator_image="operator:1", engine_images={EngineType.SIM: "sim:1"}, operator_namespace="o", operator_labels={}
    )
    (job,) = download_objects(Service(name="s", namespace="ns", uid="u", spec=spec), settings=render)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "proa_operator.model_download"]
    (token,) = [one["name"] for one in container["env"] if "valueFrom" in one]
    read = read_settings(container["args"], {token: "t"})
    assert (str(read.uri), str(read.target), read.token) == (uri, "/models/checkpoint", "t")
    assert read.progress_port == container["ports"][0]["containerPort"]


BASE = ["--uri", "hf://a/b", "--target", "/models/checkpoint"]


def test_settings_never_show_the_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    read = read_settings(BASE, {"MODEL_TOKEN_FILE": str(tmp_path / "token"), "HF_ENDPOINT": "http://mirror/x/"})
    assert (read.token, read.endpoint) == ("s3cret", "http://mirror/x")
    assert "s3cret" not in repr(read)
    assert read_settings(BASE, {"MODEL_TOKEN": " direct "}).token == "direct"


@pytest.mark.parametrize(
    ("more", "environment", "text"),
    [
        (["--target", "here"], {}, "absolute path"),
        (["--parallel", "0"], {}, "from 1 up"),
        (["--lock-stale-seconds", "0"], {}, "above 0"),
        (["--uri", "s3://x/y"], {}, "cannot be downloaded"),
        ([], {"HF_ENDPOINT": "mirror"}, "HF_ENDPOINT is not an address"),
        ([], {"HF_ENDPOINT": "https://u:p@mirror"}, "HF_ENDPOINT is not an address"),
        ([], {"MODEL_TOKEN": "a\nb"}, "characters that no token has"),
        ([], {"MODEL_TOKEN_FILE": "/nowhere"}, "cannot be read"),
    ],
)
def test_bad_settings_are_refused(more: list[str], environment: dict[str, str], text: str) -> None:
    with pytest.raises(Refused, match=text):
        read_settings(BASE + more, environment)
