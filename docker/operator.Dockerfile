# syntax=docker/dockerfile:1
# The operator, its command line and the gateway smg in one image. From the repository's root:
#   docker build -f docker/operator.Dockerfile -t proa-operator:0.1.0 .
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS needs
WORKDIR /src
COPY pyproject.toml .
RUN mkdir /needs && python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    print(*p['dependencies'], *p['optional-dependencies']['operator'], sep='\n')" > /needs/needs.txt

FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /src
COPY . .
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${PYTHON_IMAGE} AS operator
# What others wrote is a layer of its own: a new version of Proa is a few megabytes to pull.
RUN --mount=type=bind,from=needs,source=/needs,target=/needs \
    --mount=type=bind,source=requirements.lock,target=/tmp/requirements.lock \
    python -m pip install --no-cache-dir --constraint /tmp/requirements.lock --requirement /needs/needs.txt
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir --no-deps /wheels/proa-*.whl && python -m pip check
ENV HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# A number, as the kubelet checks runAsNonRoot by it.
USER 65532:65532
CMD ["python", "-m", "proa_operator.main"]
