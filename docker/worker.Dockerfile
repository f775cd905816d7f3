# syntax=docker/dockerfile:1
# The worker for one kind of device; the targets are cpu, cuda and rocm. From the repository's root:
#   docker build -f docker/worker.Dockerfile --target rocm -t proa-worker-rocm:0.1.0 .
# For cpu give the index of PyTorch's CPU wheels, or the image holds the CUDA build: --build-arg TORCH_INDEX=URL
ARG PYTHON_IMAGE=python:3.12-slim
# Pin it to the release that your nodes' driver supports; torch 2.11 or newer.
ARG ROCM_IMAGE=rocm/pytorch:latest

FROM ${PYTHON_IMAGE} AS needs
WORKDIR /src
COPY pyproject.toml requirements.lock ./
RUN mkdir /needs && python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    print(*p['dependencies'], *p['optional-dependencies']['workers'], sep='\n')" > /needs/needs.txt
# Without torch and what belongs to it: for images that bring their own.
RUN cp requirements.lock /needs && \
    grep -vE '^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+)==' requirements.lock > /needs/without-torch.lock

FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /src
COPY . .
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${PYTHON_IMAGE} AS cpu
ARG TORCH_INDEX=
# What others wrote are layers of their own: a new version of Proa is a few megabytes to pull.
RUN python -m pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.11"
RUN --mount=type=bind,from=needs,source=/needs,target=/needs \
    python -m pip install --no-cache-dir --constraint /needs/without-torch.lock --requirement /needs/needs.txt
# The link is where the operator expects the bundled models.
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir --no-deps /wheels/proa-*.whl && python -m pip check && \
    mkdir -p /opt/proa && ln -s "$(python -c 'import proa_workers; print(proa_workers.__path__[0])')/bundled" /opt/proa/models
ENV HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
CMD ["proa-worker"]

FROM ${PYTHON_IMAGE} AS cuda
# Triton compiles its launchers with the system's compiler.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,from=needs,source=/needs,target=/needs \
    python -m pip install --no-cache-dir --constraint /needs/requirements.lock --requirement /needs/needs.txt
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir --no-deps /wheels/proa-*.whl && python -m pip check && \
    mkdir -p /opt/proa && ln -s "$(python -c 'import proa_workers; print(proa_workers.__path__[0])')/bundled" /opt/proa/models
ENV HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
CMD ["proa-worker"]

FROM ${ROCM_IMAGE} AS rocm
USER root
RUN --mount=type=bind,from=needs,source=/needs,target=/needs \
    python -c 'import torch; assert torch.version.hip, "ROCM_IMAGE has no ROCm build of torch"' && \
    python -m pip install --no-cache-dir --constraint /needs/without-torch.lock --requirement /needs/needs.txt
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir --no-deps /wheels/proa-*.whl && \
    mkdir -p /opt/proa && ln -s "$(python -c 'import proa_workers; print(proa_workers.__path__[0])')/bundled" /opt/proa/models
ENV HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
CMD ["proa-worker"]
