"""The lock of a folder: one holder at a time, a dead one is replaced, a late one steps back. Time is played."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from proa_operator.model_download.errors import GaveUp, LostLock, Stopped
from proa_operator.model_download.lock import FolderLock, LockTiming
from proa_operator.model_download.stop import Stop

TIMING = LockTiming(stale_seconds=60.0, wait_seconds=600.0)


class Clock(Stop):
    """Moves only when someone waits; `meanwhile` is what others do then."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.now = 1000.0
        self.meanwhile = meanwhile

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()
        self.check()


def lock(folder: Path, clock: Clock | None = None) -> FolderLock:
    clock = clock or Clock()
    return FolderLock(folder, TIMING, clock, clock)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_next_one_follows_at_once_after_a_release(tmp_path: Path) -> None:
    with lock(tmp_path) as first:
        first.check()
        assert names(tmp_path) == ["1"]
    clock = Clock()
    with lock(tmp_path, clock) as second:
        second.check()
        assert names(tmp_path) == ["2"]
    assert (tmp_path / "2").read_bytes() == b"released"
    assert clock.now == 1000.0


@pytest.mark.parametrize("left", [b"held by a-dead-pod 7", b""], ids=["dead", "died while writing"])
def test_a_dead_holder_is_replaced(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "4").write_bytes(left)
    clock = Clock()
    with lock(tmp_path, clock):
        assert names(tmp_path) == ["5"]
    assert 60.0 < clock.now - 1000.0 <= 70.0


def test_a_living_holder_is_waited_for(tmp_path: Path) -> None:
    first = lock(tmp_path)
    waits = 0

    def holder_lives() -> None:
        nonlocal waits
        waits += 1
        first.check()
        if waits < 100:
            first.beat()
        elif waits == 100:
            first.__exit__(None, None, None)

    with first:
        with lock(tmp_path, Clock(holder_lives)):
            assert names(tmp_path) == ["2"]
        assert waits == 100


def test_a_wait_has_a_deadline_and_can_be_stopped(tmp_path: Path) -> None:
    first = lock(tmp_path)
    with first:
        with pytest.raises(GaveUp, match="has held"), lock(tmp_path, Clock(first.beat)):
            raise AssertionError
        stopped = Clock()
        stopped.set()
        with pytest.raises(Stopped), lock(tmp_path, stopped):
            raise AssertionError
        first.check()


def test_who_is_overtaken_steps_back(tmp_path: Path) -> None:
    """Planted fault: another takes over although the holder lives, as after a long pause of its machine."""
    with lock(tmp_path) as held:
        (tmp_path / "2").write_bytes(b"held by another 1")
        held.beat()
        with pytest.raises(LostLock):
            held.check()
    assert (tmp_path / "2").read_bytes() == b"held by another 1"


@pytest.mark.parametrize("does_beat", [True, False], ids=["beats late", "never beats"])
def test_who_stood_still_steps_back(tmp_path: Path, does_beat: bool) -> None:
    clock = Clock()
    with lock(tmp_path, clock) as held:
        clock.now += 29.0
        held.check()
        clock.now += 2.0
        if does_beat:
            held.beat()
        with pytest.raises(LostLock, match="stood still for 31 s"):
            held.check()
    assert (tmp_path / "1").read_bytes() != b"released"


def test_a_late_waiter_cannot_step_in_below(tmp_path: Path) -> None:
    """It saw 1 as the highest, while 2 came and went and 3 holds."""
    (tmp_path / "3").write_bytes(b"held by another 1")
    late = lock(tmp_path)
    assert not late._claim(2)
    assert not late._claim(3)
    assert names(tmp_path) == ["3"]


def test_a_folder_that_is_deleted_under_a_holder_is_no_error(tmp_path: Path) -> None:
    folder = tmp_path / "lock"
    with lock(folder):
        (folder / "1").unlink()
        folder.rmdir()
    with lock(folder):
        assert names(folder) == ["1"]
