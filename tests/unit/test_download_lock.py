"""The lock of a folder: one holder at a time, a dead one is replaced, a late one steps back."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from proa_operator.model_download.errors import GaveUp, LostLock, Stopped
from proa_operator.model_download.lock import FolderLock, LockTiming
from proa_operator.model_download.stop import Stop

QUICK = LockTiming(stale_seconds=0.6, wait_seconds=20.0)
SLOW = LockTiming(stale_seconds=60.0, wait_seconds=0.0)


def lock(folder: Path, timing: LockTiming = QUICK, stop: Stop | None = None) -> FolderLock:
    return FolderLock(folder, timing, stop or Stop())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_next_one_follows_at_once_after_a_release(tmp_path: Path) -> None:
    with lock(tmp_path, SLOW) as first:
        first.check()
        assert names(tmp_path) == ["1"]
    with lock(tmp_path, SLOW) as second:
        second.check()
        assert names(tmp_path) == ["2"]
    assert (tmp_path / "2").read_bytes() == b"released"


@pytest.mark.parametrize("left", [b"held by a-dead-pod 7", b""], ids=["dead", "died while writing"])
def test_a_dead_holder_is_replaced(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "4").write_bytes(left)
    with lock(tmp_path):
        assert names(tmp_path) == ["5"]


def test_a_living_holder_is_waited_for(tmp_path: Path) -> None:
    order: list[str] = []
    seen = threading.Event()

    class Watched(Stop):
        def pause(self, seconds: float) -> None:
            order.append("waits")
            if order.count("waits") > 30:  # more than twice the time after which a dead one is replaced
                seen.set()
            super().pause(seconds)

    def second() -> None:
        with lock(tmp_path, stop=Watched()):
            order.append("second")

    thread = threading.Thread(target=second)
    with lock(tmp_path) as first:
        thread.start()
        assert seen.wait(20)
        first.check()
        order.append("first ends")
    thread.join(20)
    assert order.index("first ends") < order.index("second")


def test_a_wait_has_a_deadline_and_can_be_stopped(tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(b"held by another 1")
    with pytest.raises(GaveUp, match="has held"), lock(tmp_path, LockTiming(stale_seconds=1.0, wait_seconds=-1.0)):
        raise AssertionError
    stop = Stop()
    stop.set()
    with pytest.raises(Stopped), lock(tmp_path, QUICK, stop):
        raise AssertionError


def test_who_is_overtaken_steps_back(tmp_path: Path) -> None:
    """Planted fault: another takes over although the holder lives, as after a long pause of its machine."""
    lost = threading.Event()
    with lock(tmp_path) as held:
        (tmp_path / "2").write_bytes(b"held by another 1")
        for _ in range(200):
            try:
                held.check()
            except LostLock:
                lost.set()
                break
            threading.Event().wait(0.01)
        assert lost.is_set()
    assert (tmp_path / "2").read_bytes() == b"held by another 1"


def test_who_stood_still_steps_back_without_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with lock(tmp_path, SLOW) as held:
        held.check()
        monkeypatch.setattr(held, "_beat_at", held._beat_at - 31.0)
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
    with lock(folder, SLOW):
        (folder / "1").unlink()
        folder.rmdir()
    with lock(folder, SLOW):
        assert names(folder) == ["1"]
