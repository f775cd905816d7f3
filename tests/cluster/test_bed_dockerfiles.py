"""What can be checked of the Dockerfiles without building them; `tests/images` builds them where it can."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def structure_faults(text: str, context: str) -> list[str]:
    """What an engine would stumble over: unknown instructions, stages and files that are not there, bad shell."""
    logical = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    wrong = [f"no instruction: {line}" for line in logical if not INSTRUCTION.match(line)]
    known: set[str] = set()
    for instruction, words in INSTRUCTION.findall("\n".join(logical)):
        if instruction == "FROM":
            known.add(words.rpartition(" ")[2])
        wrong += [f"no stage {name}" for name in re.findall(r"from=([\w-]+)", words) if name not in known]
        if instruction == "RUN":
            wrong += _run_faults(words, context)
        if instruction == "COPY" and "--from" not in words:
            wrong += [f"no file {name}" for name in words.split()[:-1] if not _is_sent(name, context)]
    return wrong


def _run_faults(words: str, context: str) -> list[str]:
    """Of a shell line and of the files of the context that it mounts."""
    mounts = re.findall(r"--mount=(\S+)", words)
    local = [re.findall(r"source=([^,]+)", mount)[0] for mount in mounts if "from=" not in mount]
    shell = re.sub(r"--mount=\S+", "", words)
    done = subprocess.run(["sh", "-n"], input=shell, capture_output=True, text=True, timeout=10, check=False)
    return [f"no file {name}" for name in local if not _is_sent(name, context)] + done.stderr.splitlines()[:1]


def _is_sent(name: str, context: str) -> bool:
    """Whether it exists, and the file that lists the context lets it through."""
    return (ROOT / name).exists() and (name == "." or f"!{Path(name).parts[0]}" in context.splitlines())


def lock_faults(requirements: list[str], lock: str) -> list[str]:
    """Requirements that no line of the lock meets: pip would choose a version that nobody tried, or find none."""
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", lock, re.MULTILINE))
    found = [Requirement(words) for words in requirements]
    return [
        str(one)
        for one in found
        if (one.marker is None or one.marker.evaluate())
        and not one.specifier.contains(pins.get(canonicalize_name(one.name), "0.dev0"), prereleases=True)
    ]


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
def test_an_engine_finds_all_that_it_reads(file: str) -> None:
    context = (ROOT / "docker" / f"{file}.Dockerfile.dockerignore").read_text()
    assert structure_faults(FILES[file].read_text(), context) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("FORM x AS y", "no instruction: FORM x AS y"),
        ("RUN --mount=type=bind,from=wheels,source=/x,target=/x true", "no stage wheels"),
        ("RUN --mount=type=bind,source=lock.txt,target=/x true", "no file lock.txt"),
        ("RUN --mount=type=bind,source=CHANGELOG.md,target=/x true", "no file CHANGELOG.md"),
        ("COPY operators /src", "no file operators"),
        ("RUN if true; then", "yntax error"),
    ],
)
def test_a_planted_fault_of_structure_is_found(line: str, message: str) -> None:
    found = structure_faults(f"FROM x AS wheel\n{line}\n", "!operator\n")
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize("extra", ["operator", "workers"])
def test_the_lock_has_all_that_an_image_installs(extra: str) -> None:
    wanted = [*project()["project"]["dependencies"], *project()["project"]["optional-dependencies"][extra]]
    assert lock_faults(wanted, (ROOT / "requirements.lock").read_text()) == []


def test_a_requirement_that_the_lock_does_not_meet_is_found() -> None:
    wanted = ["a>=2", "b>=1", "Some_Name", "c; python_version < '3'"]
    assert lock_faults(wanted, "a==1.0\nsome-name==1\n") == ["a>=2", "b>=1"]


@pytest.mark.parametrize("file", FILES)
def test_extras_and_programs_exist(file: str) -> None:
    text = FILES[file].read_text()
    extras = set(re.findall(r"\['optional-dependencies'\]\['(\w+)'\]", text))
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
