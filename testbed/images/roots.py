"""What the layers hold: this machine's Python, installed distributions, and the checkout's own packages."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

from testbed.images.layer import compile_all, copy
from testbed.store import CHECKOUT

NOBODY = 65532
SITE = Path(sysconfig.get_path("purelib", vars={"base": sys.base_prefix}))
USERS = f"root:x:0:0::/root:/bin/sh\nnonroot:x:{NOBODY}:{NOBODY}::/tmp:/bin/sh\n"
GROUPS = f"root:x:0:\nnonroot:x:{NOBODY}:\n"
TORCH_MOUNT = "/opt/bed/torch"
MODELS = "/opt/proa/models"  # where the operator looks for bundled models in an engine image
# What wheels may expect of any system (the manylinux rules), whatever Python itself loads.
LIBRARIES = (
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libnss_dns.so.2",
    "libnss_files.so.2",
    "libpthread.so.0",
    "libresolv.so.2",
    "librt.so.1",
    "libstdc++.so.6",
    "libutil.so.1",
    "libz.so.1",
)
NOT_COPIED = ("site-packages", "dist-packages", "test", "idlelib", "lib2to3", "tkinter", "__pycache__", "ensurepip")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def python_root(root: Path) -> None:
    """This interpreter at the path it has here, the libraries it loads, busybox if there is one, a user `nonroot`."""
    program, stdlib = Path(sys.executable).resolve(), Path(sysconfig.get_path("stdlib"))
    copy(program, root)
    _copy_standard_library(stdlib, root)
    for library in _libraries([program, *stdlib.glob("lib-dynload/*.so")]):
        copy(library.resolve(), root, library)
    for name in ("python3", "python"):
        _link(root / "usr/local/bin" / name, program)
    for name, text in (("passwd", USERS), ("group", GROUPS)):
        (root / "etc").mkdir(exist_ok=True)
        (root / "etc" / name).write_text(text)
    if CERTIFICATES.exists():
        copy(CERTIFICATES, root)
    _copy_shell(root)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)


def distributions_root(root: Path, distributions: Iterable[Distribution]) -> None:
    """Files of installed distributions in the image's own site-packages, and their programs in /usr/local/bin."""
    site = root / str(SITE).lstrip("/")
    for found in distributions:
        for file in found.files or []:
            source = Path(str(file.locate())).resolve() if ".." in file.parts else Path(str(file.locate()))
            if file.suffix == ".pyc" or not source.exists():
                continue
            if file.parts[0] == "..":
                _copy_program(source, root)
            else:
                copy(source, root, SITE / file)
    compile_all(root, site)


def checkout_root(root: Path) -> None:
    """The project's packages as its wheel has them, and their metadata and programs."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    for package in wheel["packages"]:
        copy(CHECKOUT / package, root, SITE / Path(package).name)
    for source, target in wheel["force-include"].items():
        copy(CHECKOUT / source, root, SITE / target)
    _link(root / MODELS.lstrip("/"), SITE / "proa_workers" / "bundled")
    for file in distribution("proa").files or []:
        if file.name in ("METADATA", "entry_points.txt"):
            copy(Path(str(file.locate())), root, SITE / file)
    for name, entry in project["project"]["scripts"].items():
        module, _, function = entry.partition(":")
        _write_program(
            root / "usr/local/bin" / name, f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        )
    compile_all(root, root / str(SITE).lstrip("/"))


def torch_pointer_root(root: Path) -> None:
    """Makes Python look for modules in TORCH_MOUNT after all other places."""
    site = root / str(SITE).lstrip("/")
    site.mkdir(parents=True)
    (site / "torch-of-the-bed.pth").write_text(TORCH_MOUNT + "\n")


def _copy_standard_library(stdlib: Path, root: Path) -> None:
    for item in stdlib.iterdir():
        if item.name not in (
            "site-packages",
            "dist-packages",
            "test",
            "idlelib",
            "tkinter",
            "__pycache__",
            "ensurepip",
        ):
            copy(item, root)
    compile_all(root, root / str(stdlib).lstrip("/"))


def _libraries(programs: Iterable[Path]) -> set[Path]:
    """Shared libraries that `programs` load, as the dynamic linker finds them, itself among them."""
    listed = subprocess.run(
        ["ldd", *map(str, programs)], capture_output=True, text=True, timeout=60, check=False
    ).stdout
    known = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, timeout=60, check=True).stdout
    loaded = re.findall(r"(?:=> |^\s+)(/\S+) \(0x", listed, re.MULTILINE)
    usual = [line.split()[-1] for line in known.splitlines() if line.split()[0] in LIBRARIES]
    return {Path(path) for path in (*loaded, *usual)}


def _output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False).stdout


def _copy_program(source: Path, root: Path) -> None:
    place = root / "usr/local/bin" / source.name
    content = source.read_bytes()
    if content.startswith(b"#!") and b"python" in content.partition(b"\n")[0]:
        _write_program(place, content.partition(b"\n")[2].decode())
    else:
        copy(source, root, "/usr/local/bin/" + source.name)


def _write_program(place: Path, body: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"#!/usr/local/bin/python3\n{body}")
    place.chmod(0o755)


def _copy_shell(root: Path) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        return
    copy(Path(busybox), root, "/bin/busybox")
    for applet in _output(busybox, "--list").split():
        if applet != "busybox":
            _link(root / "bin" / applet, Path("/bin/busybox"))


def _link(place: Path, target: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        place.symlink_to(target)
