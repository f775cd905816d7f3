"""The decisions that `proa up` writes: bounded, and never the end of the service."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from proa_operator.local.decision_log import OLDER_RECORDS, RECORDS, DecisionLog


def numbers(file: Path) -> list[int]:
    return [json.loads(line)["number"] for line in file.read_text().splitlines() if line]


def test_one_older_file_is_kept(tmp_path: Path) -> None:
    said: list[str] = []
    log = DecisionLog(tmp_path, said.append, most_bytes=60)
    for number in range(10, 30):
        log.add({"number": number})  # 14 bytes: four to a file
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 120
    assert sorted(file.name for file in tmp_path.iterdir()) == [OLDER_RECORDS, RECORDS]
    assert numbers(tmp_path / OLDER_RECORDS) + numbers(tmp_path / RECORDS) == list(range(22, 30))
    assert said == []


def test_each_start_begins_anew(tmp_path: Path) -> None:
    for name in (RECORDS, OLDER_RECORDS):
        (tmp_path / name).write_text("old")
    log = DecisionLog(tmp_path, pytest.fail)
    assert log.path.read_bytes() == b""
    assert [file.name for file in tmp_path.iterdir()] == [RECORDS]


def test_a_disk_that_is_full_is_said_once_and_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    log = DecisionLog(tmp_path, said.append)
    log.add({"number": 1})
    with log.path.open("ab") as file:
        file.write(b'{"num')  # what a full disk leaves of a line

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        log.add({"number": 2})
        log.add({"number": 3})
    assert len(said) == 1
    assert "No space left on device" in said[0]
    assert "\n" not in said[0]
    log.add({"number": 4})
    assert log.path.read_text().splitlines() == ['{"number":1}', '{"num', '{"number":4}']


def test_a_folder_that_is_gone_is_survived(tmp_path: Path) -> None:
    said: list[str] = []
    DecisionLog(tmp_path / "absent", said.append).add({"number": 1})
    assert len(said) == 1
