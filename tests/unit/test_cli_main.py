"""The command line as a whole: its help, its exit codes, and that asking for help imports no command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from proa_operator.cli.commands import COMMANDS, HERE
from proa_operator.cli.main import app, loaded
from typer.testing import CliRunner

TINY = str(Path(__file__).parents[2] / "examples" / "tiny.yaml")
SLOW = {"kopf", "kubernetes", "torch", "triton"}
FORBIDDEN = ("httpx", "numpy", "yaml", "pydantic", "grpc", "kopf", "aiohttp", "asyncio")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_in_the_table_is_the_first_of_the_command(name: str) -> None:
    command = loaded(name, COMMANDS[name])
    assert " ".join(command.help.split("\n\n")[0].split()) == COMMANDS[name].help


def test_help_names_every_command_and_imports_none() -> None:
    code = (
        "import sys\nfrom proa_operator.cli.main import main\nsys.argv = ['proa', '--help']\n"
        f"try:\n    main()\nfinally:\n    print('IMPORTED', sorted(set({FORBIDDEN}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert "IMPORTED []" in done.stdout
    assert all(f" {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.panel != HERE])
def test_commands_start_without_the_slow_imports(name: str) -> None:
    """kopf and the Kubernetes client take a second, three times what a command takes."""
    code = f"import sys\nimport {COMMANDS[name].module}\nprint(sorted({SLOW} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("words", "exit_code"),
    [
        (["version"], 0),
        (["--version"], 0),
        (["--help"], 0),
        (["no-such"], 2),
        (["render", "--no-such", TINY], 2),
        (["render"], 2),
    ],
)
def test_exit_codes(words: list[str], exit_code: int) -> None:
    assert CliRunner().invoke(app, words).exit_code == exit_code


@pytest.mark.parametrize("words", [["version"], ["validate", TINY], ["doctor", "node"], ["render", TINY]])
def test_what_prints_also_prints_for_programs(words: list[str]) -> None:
    as_json = CliRunner().invoke(app, [*words, "-o", "json"])
    as_yaml = CliRunner().invoke(app, [*words, "-o", "yaml"])
    assert (as_json.exit_code, as_yaml.exit_code) == (0, 0)
    documents = [found for found in yaml.safe_load_all(as_yaml.stdout) if found]
    found = json.loads(as_json.stdout)
    assert found.get("items", [found]) == documents


def test_kubectl_calls_it_by_its_own_name() -> None:
    code = "import sys\nfrom proa_operator.cli.main import main\nsys.argv = ['/bin/kubectl-proa', '--help']\nmain()\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert "Usage: kubectl proa" in done.stdout
