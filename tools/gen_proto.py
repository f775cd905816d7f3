"""Generate the protobuf code of proto/proa_proto; `--check` only compares its bytes with what is committed."""

from __future__ import annotations

import sys
import sysconfig
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent / "proto"


def generate(out: Path) -> None:
    """Compile every .proto below ROOT into `out`; raises SystemExit with protoc's status on an error."""
    sources = sorted(str(p.relative_to(ROOT)) for p in ROOT.rglob("*.proto"))
    scripts = Path(sysconfig.get_path("scripts"))
    plugins = [f"--plugin=protoc-gen-{name}={scripts / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
    well_known = resources.files("grpc_tools") / "_proto"
    outputs = [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    status = protoc.main(["protoc", f"-I{ROOT}", f"-I{well_known}", *plugins, *outputs, *sources])
    if status:
        raise SystemExit(status)


def differences(fresh: Path) -> list[str]:
    """Names of generated files that are missing or differ in bytes from the committed ones."""
    return [
        str(path.relative_to(fresh))
        for path in sorted(fresh.rglob("*_pb2*"))
        if not (twin := ROOT / path.relative_to(fresh)).exists() or twin.read_bytes() != path.read_bytes()
    ]


def main() -> None:
    """Generate the protobuf modules; with --check only compare, and exit with status 1 when one is stale."""
    if "--check" not in sys.argv[1:]:
        generate(ROOT)
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        stale = differences(Path(folder))
    if stale:
        raise SystemExit(f"stale generated code: {', '.join(stale)}; run `make gen` and commit the result")


if __name__ == "__main__":
    main()
