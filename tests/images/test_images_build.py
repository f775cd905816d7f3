"""The Dockerfiles build from the repository, and what they make starts: no root, programs found, a worker that serves.

The bases and torch are stand-ins, for registries cannot be asked; every step of every stage runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from proa_operator.local.ports import FreePorts

from tests.images.image_bases import TORCH_FOLDER
from tests.images.image_engine import ROOT, Built, Container, Engine, ImageError, stop

pytestmark = [pytest.mark.timeout(3600), pytest.mark.slow]
DOCKER = ROOT / "docker"
INDEX = f"file://{TORCH_FOLDER}/simple"
WORKER_PORTS = ("port", "kv-port", "kv-data-port", "admin-port", "metrics-port")
SERVING_SECONDS = 300
PROBE = health_pb2.HealthCheckRequest()


def faults(image: Built) -> list[str]:
    """What the chart cannot use."""
    wrong = [] if image.user == "65532:65532" else [f"the user is {image.user!r}"]
    wrong += [] if image.command else ["no program is named"]
    return wrong + [f"{name} is not set" for name in ("HOME=/tmp",) if name not in image.environment]


@contextmanager
def opened(engine: Engine, image: Built, said: list[str]) -> Iterator[Container]:
    """A container in which the entry point is found, as the user without rights; removed with the image."""
    container = engine.container(image.name)
    try:
        if wrong := faults(image):
            raise ImageError("; ".join(wrong))
        said.append(f"{image.name}: {image.num_layers} layers, {image.num_bytes / 1e6:.0f} MB")
        found = container.run("sh", "-c", f"id -u && command -v {image.command[0]}")
        if found.returncode or found.stdout.splitlines()[0] != "65532":
            raise ImageError(f"{image.command[0]} does not start: {found.stdout}{found.stderr}")
        yield container
    finally:
        container.remove()
        engine.remove(image.name)


def test_the_operator_s_image(engine: Engine, python_image: str, said: list[str]) -> None:
    image = engine.build(DOCKER / "operator.Dockerfile", "operator", {"PYTHON_IMAGE": python_image})
    assert image.num_layers == engine.inspect(python_image).num_layers + 2  # dependencies, and Proa
    with opened(engine, image, said) as container:
        assert container.run("proa", "--version").stdout.startswith("proa 0.")
        assert container.run("smg", "--version").stdout.startswith("smg 1.")
        assert "--target" in container.run("python", "-m", "proa_operator.model_download", "--help").stdout
        without_chart = container.run(*image.command)
        assert "error: PROA_OPERATOR_IMAGE is not set: the chart sets it" in without_chart.stderr
        assert container.run("python", "-c", "import torch").returncode != 0


@pytest.mark.parametrize("target", ["cpu", "cuda", "rocm"])
def test_a_worker_s_image(engine: Engine, python_image: str, rocm_image: str, said: list[str], target: str) -> None:
    arguments = {"PYTHON_IMAGE": python_image, "ROCM_IMAGE": rocm_image, "TORCH_INDEX": INDEX}
    image = engine.build(DOCKER / "worker.Dockerfile", target, arguments)
    with opened(engine, image, said) as container:
        serves(container, image)
        compiler = container.run("sh", "-c", "command -v gcc")
        assert (compiler.returncode == 0) == (target == "cuda")


def serves(container: Container, image: Built) -> None:
    """The bundled model by the simulated engine, which needs no torch; the probe is the one that pods have."""
    next_port = FreePorts("127.0.0.1", 28000)
    ports = {name: next_port() for name in WORKER_PORTS}
    flags = [word for name, port in ports.items() for word in (f"--{name}", str(port))]
    process = container.start(*image.command, "--model", "/opt/proa/models/tiny-moe", "--engine", "sim", *flags)
    health = health_pb2_grpc.HealthStub(grpc.insecure_channel(f"127.0.0.1:{ports['port']}"))
    deadline = time.monotonic() + SERVING_SECONDS
    try:
        while not is_serving(health):
            assert process.poll() is None, stop(process)
            assert time.monotonic() < deadline, "the worker does not get ready"
            time.sleep(0.2)
    finally:
        said = stop(process)
    assert "serving" in said


def is_serving(health: health_pb2_grpc.HealthStub) -> bool:
    try:
        status: int = health.Check(PROBE, timeout=10).status
    except grpc.RpcError:
        return False
    return bool(status == health_pb2.HealthCheckResponse.SERVING)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("RUN test -e /nothing-there",), "buildah bud ended with"),
        (("COPY nothing-there /",), "nothing-there"),
        (("USER 0:0", "ENV HOME=/tmp", 'CMD ["true"]'), "the user is '0:0'"),
        (("USER 65532:65532", "ENV HOME=/tmp", 'CMD ["no-such-program"]'), "no-such-program does not start"),
    ],
)
def test_a_planted_fault_is_found(
    engine: Engine, python_image: str, tmp_path: Path, lines: tuple[str, ...], message: str
) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text("\n".join([f"FROM {python_image} AS fault", *lines, ""]))
    with (
        pytest.raises(ImageError, match=message),
        opened(engine, engine.build(file, "fault", {}, context=tmp_path), []),
    ):
        pass


def test_a_fault_of_an_image_is_named() -> None:
    image = Built(name="x", user="", command=(), environment=(), num_layers=1, num_bytes=1)
    assert faults(image) == ["the user is ''", "no program is named", "HOME=/tmp is not set"]
    assert faults(replace(image, user="65532:65532", command=("x",), environment=("HOME=/tmp",))) == []
