"""The test bed's parts that need no cluster: who is stopped, what is undone, which tiers run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed import build, tiers, toolchain
from testbed.audit import read_audit
from testbed.errors import BedError
from testbed.guard import Guard
from testbed.journal import claim, note
from testbed.pki import Authority
from testbed.processes import Identity, stop
from testbed.store import SOURCES
from testbed.undo import sweep, tear_down
from testbed.wait import until


@pytest.fixture
def sleeper() -> subprocess.Popen[bytes]:
    """A process that would live for an hour."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("a", {"a"}),
        ("a,b", {"a", "b"}),
        (" a , b ", {"a", "b"}),
        ("a,soak", {"a", "soak"}),
        ("none", set()),
        ("", set()),
    ],
)
def test_tiers_are_read(monkeypatch: pytest.MonkeyPatch, words: str, wanted: set[str]) -> None:
    monkeypatch.setenv("PROA_TEST_TIERS", words)
    assert tiers.chosen_tiers() == wanted


def test_an_unknown_tier_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROA_TEST_TIERS", "a,c")
    with pytest.raises(BedError, match="'c' is no tier"):
        tiers.chosen_tiers()


def test_a_tier_without_its_programs_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("PROA_TEST_TIERS", "a")
    assert tiers.left_out("a") == "it needs the Debian packages golang-go and openssl"
    assert tiers.left_out("b") == "PROA_TEST_TIERS leaves it out"


def test_a_reused_pid_is_not_stopped(sleeper: subprocess.Popen[bytes]) -> None:
    real = Identity.of(sleeper.pid)
    stop(Identity(pid=real.pid, born=real.born - 1))
    assert sleeper.poll() is None
    stop(real)
    assert sleeper.wait(5) != 0


def test_tearing_down_stops_what_was_noted_and_can_be_repeated(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    run = tmp_path / "run"
    claim(run, None)
    identity = Identity.of(sleeper.pid)
    note(run, "process", identity.pid, identity.born, "sleeper")
    tear_down(run)
    tear_down(run)
    assert sleeper.wait(5) != 0
    assert not run.exists()


def test_a_run_of_a_dead_owner_is_swept_and_others_are_not(tmp_path: Path) -> None:
    for name, owner in (("dead", Identity(pid=1, born=-1)), ("mine", Identity.of(os.getpid())), ("kept", None)):
        claim(tmp_path / name, owner)
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "mine"]


def test_the_guard_cleans_up_once_its_owner_lets_go(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    run = tmp_path / "run"
    claim(run, None)
    identity = Identity.of(sleeper.pid)
    note(run, "process", identity.pid, identity.born, "sleeper")
    guard = Guard(run)
    assert sleeper.poll() is None
    guard.release()
    assert sleeper.wait(5) != 0
    assert not run.exists()


def test_a_kubeconfig_is_private_and_verifies(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    path = authority.kubeconfig(tmp_path / "k", "https://127.0.0.1:1", "admin", "/O=system:masters/CN=admin")
    assert path.stat().st_mode & 0o077 == 0
    verify = ["openssl", "verify", "-CAfile", str(authority.certificate), str(tmp_path / "admin.crt")]
    assert subprocess.run(verify, capture_output=True, check=False, timeout=10).returncode == 0


def test_a_half_written_audit_line_is_left_for_later(tmp_path: Path) -> None:
    whole = (
        '{"stage":"ResponseComplete","user":{"username":"u"},"verb":"get","requestReceivedTimestamp":"t",'
        '"objectRef":{"resource":"pods","subresource":"status"},"responseStatus":{"code":200}}'
    )
    (tmp_path / "audit.log").write_text(whole + "\n" + whole[:30])
    (event,) = read_audit(tmp_path / "audit.log")
    assert (event.resource, event.code) == ("pods/status", 200)


def test_the_programs_folder_follows_the_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build.programs_folder()
    (tmp_path / "pause").mkdir()
    for name in ("go.mod", "go.sum", "pause/main.go"):
        (tmp_path / name).write_bytes((SOURCES / name).read_bytes())
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    assert build.programs_folder() == before
    with (tmp_path / "go.sum").open("a") as pins:
        pins.write("\n")
    assert build.programs_folder() != before


def test_waiting_ends_with_what_was_awaited() -> None:
    with pytest.raises(BedError, match="the moon: not after 0 s"):
        until(lambda: False, seconds=0, what="the moon", every=0)


def test_the_version_of_a_go_is_read(tmp_path: Path) -> None:
    old, other = tmp_path / "old", tmp_path / "other"
    for program, says in ((old, "go version go1.19.8 linux/amd64"), (other, "what?")):
        program.write_text(f"#!/bin/sh\necho '{says}'\n")
        program.chmod(0o755)
    assert toolchain.version_of(str(old)) == (1, 19) < toolchain.FIRST_THAT_SWITCHES
    with pytest.raises(BedError, match=r"install Go 1\.21 or newer"):
        toolchain.version_of(str(other))
    assert toolchain.pinned().count(".") == 2


def test_an_old_go_fetches_the_pinned_one(tmp_path: Path) -> None:
    """A Go that answers as 1.19 does, with a module cache whose programs nobody may run yet."""
    module = tmp_path / "toolchain"
    program = module / "bin" / "go"
    for path in (program, module / "pkg" / "tool" / "linux_amd64" / "compile"):
        path.parent.mkdir(parents=True)
        path.write_text("#!/bin/sh\necho go version go1.26.0 linux/amd64\n")
        path.chmod(0o444)
    old = tmp_path / "old"
    old.write_text(f'#!/bin/sh\necho \'{{"Dir": "{module}"}}\'\n')
    old.chmod(0o755)
    found = toolchain.fetch(str(old), "1.26.0")
    assert found == str(program)
    assert toolchain.version_of(found) == (1, 26)
