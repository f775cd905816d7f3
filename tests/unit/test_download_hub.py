"""hf:// against a double of the hub: what comes is what was listed, no byte twice, no token to strangers."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from proa_operator.errors import ProaError
from proa_operator.model_download.__main__ import run
from proa_operator.model_download.download import download
from proa_operator.model_download.errors import GaveUp, NoRoom, Refused, WrongDigest
from proa_operator.model_download.fetch import Pace
from proa_operator.model_download.progress import Progress

from tests.unit.download_double import (
    COMMIT,
    MODEL,
    NEEDED,
    NEEDED_BYTES,
    WEIGHTS,
    Double,
    Fault,
    Impatient,
    is_whole,
    served,
    settings,
)

URI = "hf://org/model"
SIZE = len(MODEL[WEIGHTS])
FLIPPED = b"\xff" + MODEL[WEIGHTS][1:]


@pytest.fixture
def hub() -> Iterator[Double]:
    with served() as double:
        yield double


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint"


def fetch(target: Path, hub: Double, *, token: str = "", uri: str = URI, **changes: object) -> Impatient:
    stop = Impatient()
    download(settings(target, uri, hub.url, token=token, **changes), Progress(), stop)
    return stop


def test_all_needed_files_come_once_and_a_second_run_asks_for_nothing(hub: Double, target: Path) -> None:
    progress = Progress()
    download(settings(target, URI, hub.url), progress, Impatient())
    assert is_whole(target)
    assert hub.file_bytes == NEEDED_BYTES
    assert progress.snapshot() == {"phase": "complete", "bytesDone": NEEDED_BYTES, "bytesTotal": NEEDED_BYTES}
    assert json.loads((target / "complete.json").read_text())["revision"] == COMMIT
    assert [path.name for path in target.parent.iterdir()] == ["checkpoint"]
    num_requests = len(hub.seen)
    fetch(target, hub)
    assert len(hub.seen) == num_requests


@pytest.mark.parametrize(
    ("faults", "num_waits", "num_extra_bytes"),
    [
        pytest.param([Fault(cut_after=1000), Fault(cut_after=7), Fault(cut_after=0)], 3, 0, id="truncated three times"),
        pytest.param([Fault(cut_after=1000), Fault(ignores_range=True)], 1, 1000, id="server ignores the range"),
        pytest.param([Fault(cut_after=1000), Fault(other_range=True)], 2, 1000 + SIZE - 999, id="another range"),
        pytest.param([Fault(cut_after=1000), Fault(status=416)], 2, 1000, id="range refused"),
        pytest.param([Fault(cut_after=9), Fault(status=500), Fault(status=408)], 3, 0, id="busy"),
        pytest.param([Fault(cut_after=5)] * 9, 9, 0, id="each attempt gains"),
    ],
)
def test_a_broken_transfer_goes_on(
    hub: Double, target: Path, faults: list[Fault], num_waits: int, num_extra_bytes: int
) -> None:
    hub.plan(WEIGHTS, *faults)
    stop = fetch(target, hub)
    assert is_whole(target)
    assert len(stop.waits) == num_waits
    # NOTE: of a range that is refused, the double may have sent more than the client read.
    assert hub.sent[WEIGHTS] <= SIZE + num_extra_bytes


@pytest.mark.parametrize("name", ["list", WEIGHTS])
@pytest.mark.parametrize("status", [429, 503])
def test_the_wish_of_a_busy_server_is_followed(hub: Double, target: Path, name: str, status: int) -> None:
    hub.plan(name, Fault(status=status, headers={"Retry-After": "77"}))
    assert fetch(target, hub).waits == [77.0]
    assert is_whole(target)


def test_failures_without_a_gain_end_and_the_next_run_goes_on(hub: Double, target: Path) -> None:
    hub.plan(WEIGHTS, Fault(cut_after=SIZE - 10), *[Fault(status=503)] * 3)
    with pytest.raises(GaveUp, match="answers 503; gave up after 4 attempts"):
        fetch(target, hub, num_parallel=1)
    assert not target.exists()
    fetch(target, hub)
    assert is_whole(target)
    assert hub.file_bytes == NEEDED_BYTES


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(FLIPPED, id="first byte"),
        pytest.param(MODEL[WEIGHTS][:-1] + b"\0", id="last byte"),
        pytest.param(MODEL[WEIGHTS][4096:] + MODEL[WEIGHTS][:4096][::-1], id="order"),
        pytest.param(MODEL[WEIGHTS] + b"x", id="one byte more"),
    ],
)
def test_other_content_than_listed_is_refused_and_removed(hub: Double, target: Path, content: bytes) -> None:
    hub.plan(WEIGHTS, Fault(content=content))
    with pytest.raises(WrongDigest, match=WEIGHTS):
        fetch(target, hub)
    assert not target.exists()
    assert not list(target.parent.rglob(f"{WEIGHTS}*"))
    fetch(target, hub)
    assert is_whole(target)


def test_a_small_file_without_sha256_is_checked_by_its_blob_id(hub: Double, target: Path) -> None:
    hub.plan("config.json", Fault(content=MODEL["config.json"].replace(b"Tiny", b"Tony")))
    with pytest.raises(WrongDigest, match=r"config\.json: git-sha1"):
        fetch(target, hub)


def test_pieces_that_do_not_fit_are_fetched_again_once(hub: Double, target: Path) -> None:
    hub.plan(WEIGHTS, Fault(content=FLIPPED, cut_after=1000))
    fetch(target, hub)
    assert is_whole(target)
    assert hub.sent[WEIGHTS] == 2 * SIZE


def test_pieces_that_never_fit_are_refused(hub: Double, target: Path) -> None:
    hub.plan(WEIGHTS, Fault(content=FLIPPED, cut_after=1000), Fault(), Fault(content=FLIPPED))
    with pytest.raises(WrongDigest):
        fetch(target, hub)


def test_the_token_goes_to_the_hub_only(hub: Double, target: Path) -> None:
    hub.secret = "Bearer hf_t0ken"
    with served() as cdn:
        hub.cdn = cdn.url
        fetch(target, hub, token="hf_t0ken")
        assert is_whole(target)
        assert {seen.authorization for seen in hub.seen} == {"Bearer hf_t0ken"}
        assert {seen.authorization for seen in cdn.seen} == {""}
        assert cdn.file_bytes == NEEDED_BYTES


def test_an_address_that_is_too_old_is_asked_for_again(hub: Double, target: Path) -> None:
    with served() as cdn:
        hub.cdn = cdn.url
        cdn.plan(f"cdn/{WEIGHTS}", Fault(cut_after=1000), Fault(status=403))
        fetch(target, hub)
        assert is_whole(target)
        assert [seen.range for seen in cdn.seen if seen.name == f"cdn/{WEIGHTS}"] == ["", "bytes=1000-", "bytes=1000-"]


def refused(status: int, code: str = "") -> Callable[[Double], None]:
    return lambda hub: hub.plan("list", Fault(status=status, headers={"X-Error-Code": code}))


def listed(path: str, **lies: object) -> Callable[[Double], None]:
    return lambda hub: hub.lies.update({path: lies})


def named(name: str) -> Callable[[Double], None]:
    return lambda hub: hub.names.update({"config.json": name})


@pytest.mark.parametrize(
    ("prepare", "token", "text"),
    [
        (refused(401), "", "set spec.model.tokenSecretRef"),
        (refused(401), "t", "does not accept the token"),
        (refused(403, "GatedRepo"), "", "accept its terms on the hub and set"),
        (refused(403, "GatedRepo"), "t", "accept its terms on the hub with the account of the token"),
        (refused(404), "", "does not exist on 127.0.0.1"),
        (refused(404, "RevisionNotFound"), "", "has no revision main"),
        (refused(400), "", "answers 400"),
        (named("../evil.json"), "", "not a plain path"),
        (named("/etc/evil.json"), "", "not a plain path"),
        (named("a/../../evil.json"), "", "not a plain path"),
        (named("a\\..\\evil.json"), "", "not a plain path"),
        (named("a//evil.json"), "", "not a plain path"),
        (named("evil\n.json"), "", "not a plain path"),
        (named("complete.json"), "", "rename it"),
        (named("empty.txt/x.json"), "", "as a file and as a folder"),
        (listed("config.json", blobId=None), "", "no size or digest for config.json"),
        (listed("config.json", size=None), "", "no size or digest for config.json"),
        (listed("config.json", size=-1), "", "has no size"),
        (listed("config.json", blobId="../../x"), "", "not a git-sha1 digest"),
        (listed(WEIGHTS, lfs={"sha256": "00", "size": 2}), "", "not a sha256 digest"),
        (lambda hub: hub.files.pop(WEIGHTS), "", "weights as pytorch_model.bin"),
        (lambda hub: hub.files.clear(), "", "no file for a worker"),
    ],
)
def test_refusals_say_the_fix_and_leave_nothing(
    hub: Double, target: Path, prepare: Callable[[Double], None], token: str, text: str
) -> None:
    prepare(hub)
    with pytest.raises(Refused, match=text) as caught:
        fetch(target, hub, token=token)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert not target.exists()
    assert hub.file_bytes == 0
    assert not list(target.parent.parent.rglob("evil*"))


def test_a_volume_that_is_too_small_is_known_before_a_byte_comes(hub: Double, target: Path) -> None:
    listed(WEIGHTS, lfs={"sha256": "0" * 64, "size": 1 << 60})(hub)
    with pytest.raises(NoRoom, match=r"needs 1073741824\.0 GiB more, .* raise spec\.model\.cache\.size") as caught:
        fetch(target, hub)
    assert caught.value.exit_code == 1
    assert hub.file_bytes == 0


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "is full: raise spec.model.cache.size"),
        (errno.EDQUOT, "is full: raise spec.model.cache.size"),
        (errno.EROFS, "cannot be written by user"),
        (errno.EIO, "the next run goes on"),
    ],
)
def test_a_volume_that_fails_is_explained(
    hub: Double, target: Path, monkeypatch: pytest.MonkeyPatch, number: int, text: str
) -> None:
    def fail(fd: int, chunk: bytes, at: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(ProaError, match=text) as caught:
        run(settings(target, URI, hub.url), Impatient())
    assert caught.value.exit_code == 1


def test_a_transfer_that_hardly_moves_is_asked_for_again(
    hub: Double, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proa_operator.model_download.download.Pace", lambda: Pace(seconds=-1.0, min_bytes=1 << 30))
    assert len(fetch(target, hub).waits) > len(NEEDED)
    assert is_whole(target)


def test_a_later_run_keeps_to_the_revision_it_began_with(hub: Double, target: Path) -> None:
    hub.plan(WEIGHTS, Fault(content=FLIPPED))
    with pytest.raises(WrongDigest):
        fetch(target, hub, num_parallel=1)
    hub.commit = "moved on"
    hub.plan("list", Fault(content=hub.listing().replace(b"moved on", COMMIT.encode())))
    fetch(target, hub)
    assert [seen.path.rpartition("/")[2] for seen in hub.seen if seen.name == "list"] == ["main", COMMIT]
    assert hub.sent["config.json"] == len(MODEL["config.json"])
    assert json.loads((target / "complete.json").read_text())["revision"] == COMMIT


def test_a_revision_that_is_gone_is_begun_anew(hub: Double, target: Path) -> None:
    hub.plan(WEIGHTS, Fault(content=FLIPPED))
    with pytest.raises(WrongDigest):
        fetch(target, hub)
    hub.gone.add(COMMIT)
    hub.commit = "d" * 40
    hub.files["config.json"] = b"another"
    fetch(target, hub)
    assert is_whole(target, hub.files)
    assert json.loads((target / "complete.json").read_text())["revision"] == "d" * 40


def test_a_complete_model_waits_for_no_lock(hub: Double, target: Path) -> None:
    fetch(target, hub)
    lock = target.parent / ".checkpoint.lock"
    lock.mkdir()
    (lock / "1").write_bytes(b"held by a-dead-pod 7")
    assert fetch(target, hub).waits == []
    assert [path.name for path in lock.iterdir()] == ["1"]


def test_a_damaged_model_gets_only_what_is_missing(hub: Double, target: Path) -> None:
    fetch(target, hub)
    (target / WEIGHTS).write_bytes(b"cut off")
    (target / "sub/extra.json").unlink()
    before = hub.file_bytes
    fetch(target, hub)
    assert is_whole(target)
    assert hub.file_bytes - before == SIZE + len(MODEL["sub/extra.json"])


def test_foreign_folders_are_left_alone(hub: Double, target: Path) -> None:
    target.mkdir()
    fetch(target, hub)
    with pytest.raises(Refused, match="use another claim"):
        fetch(target, hub, uri="hf://org/other")
    (target / "complete.json").unlink()
    with pytest.raises(Refused, match="move it away"):
        fetch(target, hub)
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()) == NEEDED


def test_a_list_that_is_none_is_tried_again(hub: Double, target: Path) -> None:
    hub.plan("list", Fault(content=b"<html>"), Fault(content=b"[]"), Fault(headers={"Content-Encoding": "gzip"}))
    assert len(fetch(target, hub).waits) == 3
    assert is_whole(target)


def test_redirects_end(hub: Double, target: Path) -> None:
    hub.plan(WEIGHTS, *[Fault(status=302, headers={"Location": "/org/model/resolve/x/" + WEIGHTS})] * 24)
    with pytest.raises(GaveUp, match="redirects more than"):
        fetch(target, hub)
    hub.plan(WEIGHTS, Fault(status=302, headers={"Location": "ftp://127.0.0.1/x"}))
    with pytest.raises(Refused, match="redirects from http to ftp"):
        fetch(target, hub)
