# syntax=docker/dockerfile:1
# The operator, its command line and the gateway smg in one image. From the repository's root:
#   docker build -f docker/operator.Dockerfile -t proa-operator:0.1.0 .
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /src
COPY . .
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${PYTHON_IMAGE} AS operator
# The wheel's name has its version, so it is found by a pattern; the lock holds every other version.
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    --mount=type=bind,source=requirements.lock,target=/tmp/requirements.lock \
    python -m pip install --no-cache-dir --constraint /tmp/requirements.lock "$(echo /wheels/proa-*.whl)[operator]"
ENV HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# A number, as the kubelet checks runAsNonRoot by it.
USER 65532:65532
CMD ["python", "-m", "proa_operator.main"]
