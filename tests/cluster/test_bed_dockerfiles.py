"""What can be checked of the Dockerfiles without an engine to build them."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = {"operator": ROOT / "docker" / "operator.Dockerfile", "worker": ROOT / "docker" / "worker.Dockerfile"}
FINAL = [("operator", "operator"), ("worker", "cpu"), ("worker", "cuda"), ("worker", "rocm")]
INSTRUCTION = re.compile(r"^(FROM|USER|CMD|RUN|ENV|ARG|COPY|WORKDIR) (.*)$", re.MULTILINE)


def stages(text: str) -> dict[str, dict[str, list[str]]]:
    """Instructions of each stage by name; raises ValueError for a stage without a name."""
    found: dict[str, dict[str, list[str]]] = {}
    current: dict[str, list[str]] = {}
    for instruction, words in INSTRUCTION.findall(text.replace("\\\n", " ")):
        if instruction == "FROM":
            if " AS " not in words:
                raise ValueError(f"FROM {words}: the stage has no name")
            current = found.setdefault(words.rpartition(" ")[2], {})
        current.setdefault(instruction, []).append(words)
    return found


def faults(text: str, stage: str) -> list[str]:
    """What would make a stage's image unfit for the chart."""
    lines = stages(text)[stage]
    user = lines.get("USER", [""])[-1]
    wrong = [] if re.fullmatch(r"[1-9]\d*:\d+", user) else [f"the user is {user!r}, not a number above 0"]
    if not lines.get("CMD"):
        wrong.append("no program is named")
    return wrong


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize(("file", "stage"), FINAL)
def test_an_image_runs_without_root(file: str, stage: str) -> None:
    assert faults(FILES[file].read_text(), stage) == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (("USER 65532:65532", "USER nonroot"), "the user is 'nonroot', not a number above 0"),
        (("USER 65532:65532", "USER 0:0"), "the user is '0:0', not a number above 0"),
        (('CMD ["proa-worker"]', ""), "no program is named"),
    ],
)
def test_a_planted_fault_is_found(fault: tuple[str, str], message: str) -> None:
    assert message in faults(FILES["worker"].read_text().replace(*fault), "cuda")


@pytest.mark.parametrize("file", FILES)
def test_extras_and_programs_exist(file: str) -> None:
    text = FILES[file].read_text()
    extras = set(re.findall(r"\.whl\)\[(\w+)\]", text))
    assert extras
    assert extras <= set(project()["project"]["optional-dependencies"])
    for words in (line for stage in stages(text).values() for line in stage.get("CMD", [])):
        program, *rest = re.findall(r'"([^"]+)"', words)
        is_script = program in project()["project"]["scripts"]
        assert is_script or (ROOT / "operator" / (rest[1].replace(".", "/") + ".py")).exists()


@pytest.mark.parametrize("file", FILES)
def test_the_context_holds_all_that_the_wheel_is_made_from(file: str) -> None:
    allowed = (ROOT / "docker" / f"{file}.Dockerfile.dockerignore").read_text().split("\n")
    wheel = project()["tool"]["hatch"]["build"]["targets"]["wheel"]
    licences = project()["project"]["license-files"]
    needed = ["pyproject.toml", "requirements.lock", project()["project"]["readme"], *licences]
    for path in (*needed, *wheel["packages"], *wheel["force-include"]):
        assert (ROOT / path).exists()
        assert f"!{Path(path).parts[0]}" in allowed


def test_the_lock_without_torch_has_none_of_it() -> None:
    (pattern,) = re.findall(r"grep -vE '([^']+)' requirements.lock", FILES["worker"].read_text())
    done = subprocess.run(
        ["grep", "-vE", pattern, "requirements.lock"], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True
    )
    left = {line.partition("==")[0] for line in done.stdout.splitlines() if not line.startswith((" ", "#"))}
    assert "numpy" in left
    assert not {name for name in left if name in ("torch", "triton") or name.startswith(("nvidia-", "cuda-"))}
